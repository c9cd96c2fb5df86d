//! Where the page computes.

use wasm_bindgen::prelude::*;
use wgpu_attention::Device;

use super::error::{Result, told};

/// A device.
#[wasm_bindgen]
pub struct Place(pub(crate) Device);

#[wasm_bindgen]
impl Place {
    /// The CPU: one thread, with SIMD.
    pub fn cpu() -> Self {
        Self(Device::cpu())
    }

    /// What WebGPU offers, a software adapter included.
    pub async fn gpu() -> Result<Self> {
        Device::gpu_async().await.map(Self).map_err(told)
    }

    /// What the device is called.
    pub fn name(&self) -> String {
        self.0.to_string()
    }

    pub(crate) fn is_cpu(&self) -> bool {
        self.0 == Device::cpu()
    }

    /// Whether it is a GPU that is one.
    #[wasm_bindgen(js_name = isHardware)]
    pub fn is_hardware(&self) -> bool {
        self.0.capabilities().adapter.is_some_and(|kind| kind.is_hardware())
    }
}
