//! The one error type: each variant says what was asked and what is allowed.

/// Everything that can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two shapes that must fit each other do not.
    #[error("{op}: {left_name} has shape {left:?} but {right_name} has shape {right:?}: {rule}")]
    ShapeMismatch {
        /// The operation that was asked for.
        op: &'static str,
        /// Which input the first shape belongs to.
        left_name: &'static str,
        /// The first shape.
        left: Vec<usize>,
        /// Which input the second shape belongs to.
        right_name: &'static str,
        /// The second shape.
        right: Vec<usize>,
        /// What must hold between the two.
        rule: &'static str,
    },

    /// A shape is wrong by itself: its rank, or an empty dimension.
    #[error("{op}: {name} has shape {found:?}, expected {expected}")]
    Shape {
        /// The operation that was asked for.
        op: &'static str,
        /// Which input.
        name: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shapes that are allowed.
        expected: String,
    },

    /// A slice does not hold as many elements as its shape says.
    #[error("a tensor of shape {shape:?} holds {expected} elements, but the data holds {found}")]
    Length {
        /// The shape asked for.
        shape: Vec<usize>,
        /// The product of the shape.
        expected: usize,
        /// The number of elements given.
        found: usize,
    },

    /// An option has a value that is not allowed.
    #[error("{op}: {name} is {found}, allowed is {allowed}")]
    Argument {
        /// The operation that was asked for.
        op: &'static str,
        /// Which option.
        name: &'static str,
        /// The value given.
        found: String,
        /// What is allowed.
        allowed: String,
    },

    /// A number that must be finite is NaN or infinite.
    #[error("{name}[{index}] is {value}, but it must be finite")]
    NonFinite {
        /// Which input.
        name: String,
        /// The position in its row-major data.
        index: usize,
        /// The value found there.
        value: f32,
    },

    /// A model predicts a number that is NaN or infinite.
    #[error(
        "{output} is {value} at point {point} (number {column} of it): the weights of the model, or what the \
         posterior keeps of its context, overflow f32"
    )]
    Prediction {
        /// What is predicted.
        output: &'static str,
        /// Which point of all the batch.
        point: usize,
        /// Which of the point's numbers.
        column: usize,
        /// The number.
        value: f32,
    },

    /// The model was asked to condition on nothing.
    #[error(
        "the context is empty{of}: give at least one observation in each batch element",
        of = batch.map(|b| format!(" in batch element {b}")).unwrap_or_default()
    )]
    EmptyContext {
        /// The batch element without a valid observation, if it is not all of them.
        batch: Option<usize>,
    },

    /// A covariance that a model predicts has no inverse.
    #[error(
        "the predicted covariance of {n} numbers in batch element {element} is not positive definite: {cause}; \
         predict fewer points together"
    )]
    NotPositiveDefinite {
        /// Numbers that vary together.
        n: usize,
        /// The batch element.
        element: usize,
        /// Which number shows it.
        cause: String,
    },

    /// Inputs live on different devices.
    #[error("{op}: the inputs live on different devices ({left} and {right}); move them with Tensor::to")]
    DeviceMismatch {
        /// The operation that was asked for.
        op: &'static str,
        /// The device of the first input.
        left: String,
        /// The device of the input that differs.
        right: String,
    },

    /// A request exceeds what the device, or this crate, can do.
    #[error("{limit}: {requested} requested, {allowed} allowed")]
    LimitExceeded {
        /// The name of the limit.
        limit: &'static str,
        /// What was asked for.
        requested: u64,
        /// What is allowed.
        allowed: u64,
    },

    /// No adapter fits the request.
    #[error("no {wanted} found; adapters present: {present:?}. Device::cpu() needs none")]
    NoAdapter {
        /// What was looked for.
        wanted: String,
        /// The adapters that there are.
        present: Vec<String>,
    },

    /// The adapter refused to open a device.
    #[error("adapter {adapter} gave no device: {message}")]
    DeviceRequest {
        /// The adapter.
        adapter: String,
        /// What the driver said.
        message: String,
    },

    /// The device was lost: unplugged, reset by a watchdog, or its driver stopped.
    #[error("the device was lost: {message}")]
    DeviceLost {
        /// What the driver said.
        message: String,
    },

    /// The device, or the host, has no room. On Linux, which lends memory that it does not have, a vector
    /// of the host of 64 MiB or more is refused where it is larger than what is available.
    #[error("out of memory{of}: {message}", of = requested.map(|n| format!(" for {n} bytes")).unwrap_or_default())]
    OutOfMemory {
        /// The size asked for, in bytes, where it is known.
        requested: Option<u64>,
        /// What the driver said.
        message: String,
    },

    /// The driver or the validation layer refused a shader, pipeline or command.
    #[error("{what} was refused by the device: {message}")]
    Validation {
        /// What was being made.
        what: String,
        /// What the device said.
        message: String,
    },

    /// A tensor that is used or read has no numbers: what computes it was not submitted yet, or
    /// never will be. See [`Device::record`](crate::Device::record).
    #[error("the tensor is not computed: {why}")]
    NotComputed {
        /// Where its work is, and what to do.
        why: String,
    },

    /// A user-defined bias does not compile.
    #[error("the bias function {name:?} is not valid WGSL:\n{message}")]
    BiasShader {
        /// The name given to the bias.
        name: String,
        /// The compiler's message, with the line in the snippet.
        message: String,
    },

    /// The operation needs something that this device or build lacks.
    #[error("{what} is not supported on {on}: {why}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// What lacks it: a device, a model.
        on: String,
        /// Why, and what to do instead.
        why: &'static str,
    },

    /// A checkpoint file cannot be read.
    #[error("{file}: not a readable checkpoint: {message}")]
    Checkpoint {
        /// The file, or `<memory>`.
        file: String,
        /// What is wrong with it.
        message: String,
    },

    /// The metadata of a checkpoint lack what was asked for.
    #[error("checkpoint {file}: the metadata has no {key:?}; it has {present:?}")]
    Metadata {
        /// The file, or `<memory>`.
        file: String,
        /// The key.
        key: String,
        /// The keys that there are.
        present: Vec<String>,
    },

    /// A parameter that the model needs is not in the checkpoint.
    #[error(
        "checkpoint {file}: parameter {name} is missing, expected shape {expected:?}{others}{suggestion}",
        others = missing_too(others),
        suggestion = suggestion(similar)
    )]
    MissingParameter {
        /// The file, or `<memory>`.
        file: String,
        /// The full name.
        name: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// Some of the names that are missing, too, where the parameters are from a file.
        others: Box<[String]>,
        /// Some of the names that are there and that nothing has used so far: those that look most like it.
        similar: Vec<String>,
        /// Whether it holds random features: numbers that were drawn with variance 1, not trained.
        is_random: bool,
    },

    /// A parameter has another shape than the configuration says.
    #[error("checkpoint {file}: parameter {name} has shape {found:?}, expected {expected:?}")]
    ParameterShape {
        /// The file, or `<memory>`.
        file: String,
        /// The full name.
        name: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },

    /// Parameters in the checkpoint that the configuration does not use.
    #[error("checkpoint {file}: {} parameter(s) that the configuration does not use: {}", names.len(), some(names))]
    ExtraParameters {
        /// The file, or `<memory>`.
        file: String,
        /// Their names.
        names: Vec<String>,
    },

    /// A saved posterior that is damaged, or not one of the model that was asked to restore it.
    #[error("saved posterior {file}: {message}")]
    Posterior {
        /// The file, or `<memory>`.
        file: String,
        /// What is wrong and what is allowed.
        message: String,
    },

    /// A model configuration that cannot be built.
    #[error("model configuration: {message}")]
    Config {
        /// What is wrong and what is allowed.
        message: String,
    },

    /// A file could not be read or written.
    #[error("{path} cannot be read or written: {cause}")]
    Io {
        /// The file.
        path: String,
        /// Why: part of the message, and so not the source of the error as well.
        cause: std::io::Error,
    },
}

impl Error {
    /// [`Error::Shape`].
    pub(crate) fn shape(op: &'static str, name: &'static str, found: &[usize], expected: impl ToString) -> Self {
        Self::Shape { op, name, found: found.to_vec(), expected: expected.to_string() }
    }

    /// [`Error::ShapeMismatch`] of two inputs with their shapes.
    pub(crate) fn mismatch(
        op: &'static str,
        (left_name, left): (&'static str, &[usize]),
        (right_name, right): (&'static str, &[usize]),
        rule: &'static str,
    ) -> Self {
        Self::ShapeMismatch { op, left_name, left: left.to_vec(), right_name, right: right.to_vec(), rule }
    }

    /// [`Error::Argument`].
    pub(crate) fn argument(op: &'static str, name: &'static str, found: impl ToString, allowed: impl ToString) -> Self {
        Self::Argument { op, name, found: found.to_string(), allowed: allowed.to_string() }
    }
}

/// Refuses a shape that does not fit. What is expected is written out only then: give
/// `format_args!` where it has numbers.
pub(crate) fn check_shape(
    fits: bool,
    op: &'static str,
    name: &'static str,
    found: &[usize],
    expected: impl ToString,
) -> Result<()> {
    if fits { Ok(()) } else { Err(Error::shape(op, name, found, expected)) }
}

/// Refuses two inputs whose shapes do not fit each other.
pub(crate) fn check_shapes(
    fit: bool,
    op: &'static str,
    left: (&'static str, &[usize]),
    right: (&'static str, &[usize]),
    rule: &'static str,
) -> Result<()> {
    if fit { Ok(()) } else { Err(Error::mismatch(op, left, right, rule)) }
}

/// Refuses an option of a value that is not allowed.
pub(crate) fn check_argument(
    is_allowed: bool,
    op: &'static str,
    name: &'static str,
    found: impl ToString,
    allowed: impl ToString,
) -> Result<()> {
    if is_allowed { Ok(()) } else { Err(Error::argument(op, name, found, allowed)) }
}

/// Refuses what exceeds a limit.
pub(crate) fn check_limit(limit: &'static str, requested: u64, allowed: u64) -> Result<()> {
    if requested <= allowed { Ok(()) } else { Err(Error::LimitExceeded { limit, requested, allowed }) }
}

/// The first of many names.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { shown + " .." } else { shown }
}

fn missing_too(others: &[String]) -> String {
    if others.is_empty() { String::new() } else { format!("; missing, too: {} ..", others.join(", ")) }
}

fn suggestion(similar: &[String]) -> String {
    match similar {
        [] => String::new(),
        names => format!("; what is there and not used yet: {} (see Checkpoint::rename)", names.join(", ")),
    }
}

/// The result of everything fallible in this crate.
pub type Result<T> = std::result::Result<T, Error>;
