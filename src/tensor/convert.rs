//! From f32 to f16, and back.

use std::sync::Arc;

use half::f16;

use super::{
    Storage, Tensor, check_length,
    dtype::{DType, Numbers, check_f16, narrow},
};
#[cfg(feature = "gpu")]
use crate::device::gpu::{Buffer, Gpu, Kernel, Part, Shader, Work, params};
use crate::{
    device::{Backend, Device},
    error::Result,
    host,
};

impl Tensor {
    /// What the numbers are stored as.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Copies numbers of f16 to the device, where they take half of the memory of [`Tensor::new`].
    ///
    /// # Errors
    /// `data` does not hold as many numbers as the shape says; the device has no room.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, f16};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let halves = [1.0, 2.0, 0.5].map(f16::from_f32);
    /// assert_eq!(Tensor::from_f16(&Device::best(), &[3], &halves)?.read()?, [1.0, 2.0, 0.5]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_f16(device: &Device, shape: &[usize], data: &[f16]) -> Result<Self> {
        check_length(shape, data.len())?;
        let storage = match &device.0 {
            Backend::Cpu(cpu) => Storage::Cpu(*cpu, Numbers::F16(Arc::new(host::copy(data)?))),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => {
                let word = |pair: &[f16]| {
                    let bits = |i: usize| pair.get(i).map_or(0, |half| u32::from(half.to_bits()));
                    bits(0) | bits(1) << 16
                };
                let words = host::collect(data.len().div_ceil(2), data.chunks(2).map(word))?;
                Storage::Gpu(gpu.clone(), gpu.upload_words(&words)?)
            }
        };
        Ok(Self { shape: shape.to_vec(), dtype: DType::F16, storage })
    }

    /// The same numbers rounded to f16, to the nearest and of two to the even one; a shared clone if they
    /// are of f16 already. NaN and infinity stay what they are.
    ///
    /// # Errors
    /// On the CPU, a finite number beyond 65,504, the largest of f16. A GPU tells nobody: there such a number
    /// becomes infinite from 65,520 on, and 65,504 below that. To be told, convert before the numbers go
    /// to the GPU. The device has no room.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let x = Tensor::new(&Device::cpu(), &[3], &[0.0, 1.0, -70_000.0])?;
    /// let refused = x.to_f16().unwrap_err().to_string();
    /// assert!(refused.contains("-70000 at 2") && refused.contains("65504"), "{refused}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn to_f16(&self) -> Result<Self> {
        if self.dtype == DType::F16 {
            return Ok(self.clone());
        }
        let storage = match &self.storage {
            Storage::Cpu(cpu, _) => {
                let numbers = self.cpu();
                check_f16("Tensor::to_f16", numbers)?;
                Storage::Cpu(*cpu, Numbers::F16(Arc::new(narrow(numbers)?)))
            }
            #[cfg(feature = "gpu")]
            Storage::Gpu(gpu, buffer) => {
                let y = gpu.allocate(DType::F16.words(self.len()))?;
                convert(gpu, Direction::Narrow, buffer, &y, self.len())?;
                Storage::Gpu(gpu.clone(), y)
            }
        };
        Ok(Self { shape: self.shape.clone(), dtype: DType::F16, storage })
    }

    /// The same numbers as f32, exactly; a shared clone if they are of f32 already.
    ///
    /// # Errors
    /// The device has no room.
    pub fn to_f32(&self) -> Result<Self> {
        if self.dtype == DType::F32 {
            return Ok(self.clone());
        }
        match &self.storage {
            Storage::Cpu(cpu, numbers) => Ok(Self::from_cpu(*cpu, self.shape.clone(), numbers.to_f32()?)),
            #[cfg(feature = "gpu")]
            Storage::Gpu(gpu, buffer) => {
                let y = gpu.allocate(self.len())?;
                convert(gpu, Direction::Widen, buffer, &y, self.len())?;
                Ok(Self::from_gpu(self.shape.clone(), gpu, y))
            }
        }
    }

    /// A tensor of a type of numbers that have it exactly.
    pub(crate) fn of_type(device: &Device, dtype: DType, shape: &[usize], numbers: &[f32]) -> Result<Self> {
        match dtype {
            DType::F32 => Self::new(device, shape, numbers),
            DType::F16 => Self::from_f16(device, shape, &narrow(numbers)?),
        }
    }
}

#[cfg(feature = "gpu")]
const KERNEL: Kernel<Constants, Params> = Kernel::new("half", include_str!("../../shaders/half.wgsl"));

/// Threads in a workgroup, one for each word.
#[cfg(feature = "gpu")]
const THREADS: usize = 64;

/// Operations of a word, about.
#[cfg(feature = "gpu")]
const COST: f64 = 32.0;

#[cfg(feature = "gpu")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Direction {
    Narrow,
    Widen,
}

#[cfg(feature = "gpu")]
#[derive(Clone, Copy, Debug, serde::Serialize)]
struct Constants {
    direction: Direction,
    threads: usize,
}

#[cfg(feature = "gpu")]
params! {
    Params {
        n: u32,
        x_base: u32,
        y_base: u32,
    }
}

/// Converts `n` numbers.
#[cfg(feature = "gpu")]
fn convert(gpu: &Gpu, direction: Direction, x: &Buffer, y: &Buffer, n: usize) -> Result<()> {
    // Whole words, and the one of the last number, of which half is empty.
    for (words, per_word) in [(0..n / 2, 2), (n / 2..n.div_ceil(2), 1)] {
        let numbers = 2 * words.start..2 * words.start + words.len() * per_word;
        let (of_x, x_width, of_y, y_width) = match direction {
            Direction::Narrow => (numbers, per_word, words.clone(), 1),
            Direction::Widen => (words.clone(), 1, numbers, per_word),
        };
        gpu.kernel(&KERNEL, &Constants { direction, threads: THREADS })?
            .read_rows("x", Part { buffer: x, elements: of_x }, x_width)
            .write_rows("y", Part { buffer: y, elements: of_y }, y_width)
            .rows(words.len(), Work { cost: COST, iterations: 0 }, |words| {
                (Params { n: (words * per_word) as u32, ..Params::default() }, words.div_ceil(THREADS))
            })?;
    }
    Ok(())
}

/// Every text that a conversion may compile.
#[cfg(feature = "gpu")]
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    let all = [("narrow", Direction::Narrow), ("widen", Direction::Widen)];
    KERNEL.shaders(all.map(|(label, direction)| (label.into(), Constants { direction, threads: THREADS })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Vec<Device> {
        #[allow(unused_mut)]
        let mut devices = vec![Device::cpu()];
        #[cfg(feature = "gpu")]
        for adapter in &Device::adapters() {
            for checked in [false, true] {
                let options = crate::device::GpuOptions::default().checked(checked);
                devices.push(Device::on_adapter(adapter, &options).unwrap());
            }
        }
        devices
    }

    /// Equal, or both NaN.
    #[track_caller]
    fn assert_same(device: &Device, found: &[f32], wanted: impl Iterator<Item = f32>) {
        let mut n = 0;
        for (i, (&found, wanted)) in found.iter().zip(wanted).enumerate() {
            let same = found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan();
            assert!(same, "{device}: number {i} is {found:e}, not {wanted:e}");
            n += 1;
        }
        assert_eq!(n, found.len(), "{device}");
    }

    #[test]
    fn every_half_is_exact_there_and_back() {
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        for device in devices() {
            // Also where the last word is half empty, and where there is nothing else.
            for n in [halves.len(), halves.len() - 1, 3, 2, 1, 0] {
                let x = Tensor::from_f16(&device, &[n], &halves[halves.len() - n..]).unwrap();
                let wanted = || halves[halves.len() - n..].iter().map(|half| half.to_f32());
                assert_eq!((x.dtype(), x.len()), (DType::F16, n));
                assert_same(&device, &x.read().unwrap(), wanted());
                assert_same(&device, &pollster::block_on(x.read_async()).unwrap(), wanted());
                let wide = x.to_f32().unwrap();
                assert_eq!(wide.dtype(), DType::F32);
                assert_same(&device, &wide.read().unwrap(), wanted());
                assert_same(&device, &wide.to_f16().unwrap().read().unwrap(), wanted());
                let elsewhere = x.to(&Device::cpu()).unwrap().to(&device).unwrap();
                assert_eq!(elsewhere.dtype(), DType::F16);
                assert_same(&device, &elsewhere.read().unwrap(), wanted());
            }
        }
    }

    #[test]
    fn numbers_are_rounded_to_the_nearest_half() {
        // Around every kind of half, and every way to lie between two.
        let mut numbers = Vec::new();
        for bits in (0..0x7bffu16).step_by(37).chain([0, 1, 0x3ff, 0x400, 0x7bfe]) {
            let (low, high) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
            for x in [low, 0.75 * low + 0.25 * high, 0.5 * low + 0.5 * high, 0.25 * low + 0.75 * high] {
                numbers.extend([x, -x, f32::from_bits(x.to_bits() + 1), f32::from_bits(x.to_bits().max(1) - 1)]);
            }
        }
        numbers.extend([f32::MIN_POSITIVE, 1e-30, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0]);
        for device in devices() {
            let x = Tensor::new(&device, &[numbers.len()], &numbers).unwrap();
            let found = x.to_f16().unwrap().read().unwrap();
            assert_same(&device, &found, numbers.iter().map(|&x| f16::from_f32(x).to_f32()));
            for (&x, &y) in numbers.iter().zip(&found).filter(|(x, _)| x.is_finite()) {
                let allowed = (x.abs() * 0.5f32.powi(11)).max(0.5f32.powi(25));
                assert!((x - y).abs() <= allowed, "{device}: {x:e} became {y:e}");
            }
        }
    }

    #[test]
    fn what_f16_has_not_is_refused_or_infinite() {
        for device in devices() {
            let is_cpu = device == Device::cpu();
            for (x, on_gpu) in [
                (65_505.0, 65_504.0),
                (65_519.0, 65_504.0),
                (65_520.0, f32::INFINITY),
                (-1e30, f32::NEG_INFINITY),
                (f32::MAX, f32::INFINITY),
            ] {
                let converted = Tensor::new(&device, &[2], &[1.0, x]).unwrap().to_f16();
                if is_cpu {
                    let refused = converted.unwrap_err().to_string();
                    assert!(refused.contains(&format!("{x} at 1")) && refused.contains("65504"), "{refused}");
                } else {
                    assert_eq!(converted.unwrap().read().unwrap(), [1.0, on_gpu], "{device}");
                }
            }
            let kept = Tensor::new(&device, &[2], &[f32::INFINITY, 65_504.0]).unwrap().to_f16().unwrap();
            assert_eq!(kept.read().unwrap(), [f32::INFINITY, 65_504.0]);
        }
    }
}
