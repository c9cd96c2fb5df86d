//! What Python sees of the library. `python/wgpu_attention/__init__.py` says what is public, the `.pyi` beside
//! it of which types; both are written for somebody who knows NumPy and no Rust.

// PyO3 gives these words to Python, where they are documented in the `.pyi` file as well.
#![allow(missing_docs)]

mod arrays;
mod device;
mod errors;
mod models;
mod ops;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::device::{Adapter, Device, devices};
    #[pymodule_export]
    use crate::models::{
        cmanp::{Cmanp, CmanpPosterior, JointPrediction},
        few_shot::{Classifier, FewShot},
        nam::{LsamAe, NamTm, NamTransformer},
        open,
        prediction::{Evaluation, Prediction},
        tnp_kr::{TnpKr, TnpKrPosterior},
    };
    #[pymodule_export]
    use crate::ops::{
        attention_memory::{MemoryState, attention_memory},
        bias::Bias,
        linear_attention::{LinearAttention, LinearState, random_features},
        rolling_attention::{RollingAttention, RollingState},
        scan_attention::scan_attention,
    };
}
