//! Arrays of NumPy in, and out.

use numpy::{
    Element, IntoPyArray, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::{
    prelude::*,
    types::{PySequence, PyString},
};
use wgpu_attention::{Mask, Tensor, ops::Probabilities};

use crate::{
    device::Device,
    errors::{ArrayTypeError, refused},
};

/// An array of NumPy.
pub type Array<'py, T> = Bound<'py, PyArrayDyn<T>>;

/// Numbers of an array, where they are.
struct Lent {
    at: *const f32,
    len: usize,
    /// Keeps them.
    _array: Py<PyArrayDyn<f32>>,
}

// SAFETY: it reads memory that `_array` keeps alive, and that nothing moves: NumPy refuses to resize an array that
// something refers to. That nobody writes to it while an operation reads it is asked of the caller, as NumPy asks it
// of those who call functions that let other threads run; `__init__.py` says so.
unsafe impl Send for Lent {}
// SAFETY: as above; it only reads.
unsafe impl Sync for Lent {}

impl AsRef<[f32]> for Lent {
    fn as_ref(&self) -> &[f32] {
        // SAFETY: `Lent::new` took both from an aligned, C-contiguous array of f32, which `_array` keeps alive.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }
}

impl Lent {
    fn new(array: &Bound<'_, PyArrayDyn<f32>>) -> Self {
        // An empty array may point anywhere.
        let at = if array.is_empty() { std::ptr::NonNull::dangling().as_ptr() } else { array.data() };
        Self { at, len: array.len(), _array: array.clone().unbind() }
    }
}

/// What is given for an array: a NumPy array, or one of another library that lends its memory (DLPack), such as a
/// tensor of PyTorch on the CPU.
fn untyped<'py>(name: &str, given: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyUntypedArray>> {
    check_not_masked(name, given)?;
    if let Ok(array) = given.cast::<PyUntypedArray>() {
        return Ok(array.clone());
    }
    let found = given.get_type().name()?;
    if given.hasattr("__dlpack__")? {
        let array = given.py().import("numpy")?.call_method1("from_dlpack", (given,)).map_err(|error| {
            ArrayTypeError::new_err(format!("{name} is a {found} that does not lend its memory to NumPy: {error}"))
        })?;
        return Ok(array.cast_into::<PyUntypedArray>()?);
    }
    Err(ArrayTypeError::new_err(format!("{name} is of type {found}, allowed is a NumPy array")))
}

/// Refuses an array some of whose numbers do not count, which nothing here would know: a `numpy.ma.MaskedArray`, or
/// whatever else is an array with a mask.
fn check_not_masked(name: &str, given: &Bound<'_, PyAny>) -> PyResult<()> {
    if given.cast::<PyUntypedArray>().is_ok() && given.hasattr("mask")? {
        let allowed = "allowed is one without a mask: give mask= beside its .filled() numbers";
        return Err(ArrayTypeError::new_err(format!("{name} is a masked array, {allowed}")));
    }
    Ok(())
}

/// The same of all that lists and other sequences hold.
fn check_none_masked(name: &str, given: &Bound<'_, PyAny>) -> PyResult<()> {
    // A string is a sequence of strings.
    if given.cast::<PySequence>().is_ok() && !given.is_instance_of::<PyString>() {
        return given.try_iter()?.try_for_each(|item| check_none_masked(name, &item?));
    }
    check_not_masked(name, given)
}

fn typed<'py, T: Element>(name: &str, given: &Bound<'py, PyAny>, wanted: &str) -> PyResult<Array<'py, T>> {
    let array = untyped(name, given)?;
    let dtype = array.dtype();
    let array = array.cast_into::<PyArrayDyn<T>>().map_err(|_| {
        ArrayTypeError::new_err(format!(
            "{name} is an array of {dtype}, allowed is {wanted}: {name}.astype({wanted:?}) makes one"
        ))
    })?;
    if !array.is_c_contiguous() || !array.is_aligned() {
        let strides = format!("an array of shape {:?} with strides {:?}", array.shape(), array.strides());
        return Err(refused(
            name,
            strides,
            format_args!("one whose numbers lie side by side, row-major: numpy.ascontiguousarray({name}) makes one"),
        ));
    }
    Ok(array)
}

/// A tensor of an array of float32, which is not copied on the CPU.
pub fn tensor(device: &Device, name: &str, given: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    let array = typed::<f32>(name, given, "float32")?;
    let (shape, lent) = (array.shape().to_vec(), Lent::new(&array));
    // A copy to a GPU may take long.
    device.run(given.py(), move |device| Tensor::from_owner(device, &shape, lent))
}

pub fn optional_tensor(device: &Device, name: &str, given: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Tensor>> {
    given.map(|given| tensor(device, name, given)).transpose()
}

/// A tensor that outlives the call, and so has numbers of its own.
pub fn own_tensor(device: &Device, name: &str, given: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    let array = typed::<f32>(name, given, "float32")?;
    let (shape, lent) = (array.shape().to_vec(), Lent::new(&array));
    device.run(given.py(), move |device| Tensor::new(device, &shape, lent.as_ref()))
}

/// Which keys exist: `[n]`, the same for all the batch, or `[batch, n]`, as many as those that are there.
pub fn mask(device: &Device, given: Option<&Bound<'_, PyAny>>, [batch, n]: [usize; 2]) -> PyResult<Option<Mask>> {
    let Some(given) = given else { return Ok(None) };
    let (found, mut keep) = booleans("mask", given)?;
    let shape = [batch, n];
    if found == [n] {
        keep = keep.repeat(batch);
    } else if found != shape {
        let allowed = format_args!("[{n}] or {shape:?}, as the keys");
        return Err(refused("mask", format_args!("an array of shape {found:?}"), allowed));
    }
    device.run(given.py(), move |device| Mask::new(device, &shape, &keep)).map(Some)
}

pub fn booleans(name: &str, given: &Bound<'_, PyAny>) -> PyResult<(Vec<usize>, Vec<bool>)> {
    let array = typed::<bool>(name, given, "bool")?;
    Ok((array.shape().to_vec(), array.to_vec().map_err(|error| refused(name, error, "a contiguous array"))?))
}

pub fn probabilities(device: &Device, name: &str, given: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Probabilities>> {
    let Some(given) = given else { return Ok(None) };
    let array = typed::<f32>(name, given, "float32")?;
    let (shape, lent) = (array.shape().to_vec(), Lent::new(&array));
    device.run(given.py(), move |device| Probabilities::new(device, &shape, lent.as_ref())).map(Some)
}

/// Coordinates as they were given: the library asks of those in f32 what they lost already.
pub enum Coordinates {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// Calls what takes a slice of either type.
macro_rules! with_coordinates {
    ($coordinates:expr, |$numbers:ident| $call:expr) => {
        match $coordinates {
            $crate::arrays::Coordinates::F32($numbers) => $call,
            $crate::arrays::Coordinates::F64($numbers) => $call,
        }
    };
}
pub(crate) use with_coordinates;

/// From here on f64 does not tell all whole numbers apart.
const LARGEST: f64 = (1u64 << 53) as f64;

/// Numbers of anything that NumPy makes an array of, of which there are few, or that are copied anyway.
pub fn coordinates(name: &str, given: &Bound<'_, PyAny>) -> PyResult<(Vec<usize>, Coordinates)> {
    let numpy = given.py().import("numpy")?;
    // What makes an array of itself may make a masked one.
    let array =
        numpy.call_method1("asanyarray", (given,)).map_err(|error| refused(name, error, "an array of numbers"))?;
    check_not_masked(name, &array)?;
    // It is an array now, and so not nested without end.
    check_none_masked(name, given)?;
    let array = array.cast_into::<PyUntypedArray>()?;
    let (dtype, shape) = (array.dtype(), array.shape().to_vec());
    if !b"fiub".contains(&dtype.kind()) {
        return Err(ArrayTypeError::new_err(format!("{name} is an array of {dtype}, allowed are numbers")));
    }
    let is_whole = b"iu".contains(&dtype.kind());
    let is_f32 = array.cast::<PyArrayDyn<f32>>().is_ok();
    let dtype = if is_f32 { "float32" } else { "float64" };
    let array = numpy.call_method1("ascontiguousarray", (&array, dtype))?;
    let wrong = |error| refused(name, error, "numbers");
    let numbers = match array.cast_into::<PyArrayDyn<f32>>() {
        Ok(array) => Coordinates::F32(array.to_vec().map_err(wrong)?),
        Err(other) => Coordinates::F64(other.into_inner().cast_into::<PyArrayDyn<f64>>()?.to_vec().map_err(wrong)?),
    };
    if is_whole
        && let Coordinates::F64(numbers) = &numbers
        && let Some(i) = numbers.iter().position(|x| x.abs() >= LARGEST)
    {
        let allowed = "a whole number that float64 tells from its neighbours, below 2^53: take an origin off before, \
                       or give larger units, seconds say";
        return Err(refused(&format!("{name}[{i}]"), numbers[i] as i128, allowed));
    }
    Ok((shape, numbers))
}

/// The same in f64.
pub fn numbers(name: &str, given: &Bound<'_, PyAny>) -> PyResult<(Vec<usize>, Vec<f64>)> {
    Ok(match coordinates(name, given)? {
        (shape, Coordinates::F32(numbers)) => (shape, numbers.into_iter().map(f64::from).collect()),
        (shape, Coordinates::F64(numbers)) => (shape, numbers),
    })
}

/// The same in f32, as values are.
pub fn narrow(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|&x| x as f32).collect()
}

/// Whole numbers, such as tokens.
pub fn whole_numbers(name: &str, given: &Bound<'_, PyAny>) -> PyResult<(Vec<usize>, Vec<usize>)> {
    let (shape, numbers) = numbers(name, given)?;
    match numbers.iter().position(|x| !(*x >= 0.0 && x.fract() == 0.0 && *x < LARGEST)) {
        Some(i) => Err(refused(&format!("{name}[{i}]"), numbers[i], "a whole number from 0")),
        None => Ok((shape, numbers.into_iter().map(|x| x as usize).collect())),
    }
}

/// An array of these numbers, which it takes.
pub fn array<'py, T: Element>(py: Python<'py>, shape: &[usize], numbers: Vec<T>) -> PyResult<Array<'py, T>> {
    numbers.into_pyarray(py).reshape(shape)
}

/// An array of what an operation returned.
pub fn of_tensor<'py>(py: Python<'py>, device: &Device, tensor: Tensor) -> PyResult<Array<'py, f32>> {
    let shape = tensor.shape().to_vec();
    array(py, &shape, device.run(py, |_| tensor.into_vec())?)
}
