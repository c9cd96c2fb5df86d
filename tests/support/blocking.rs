//! Waiting in a browser, which has no blocking calls: for the tests' own code, which waits where it
//! reads. The stack of the program is put aside until the browser has worked on its other tasks
//! (JavaScript Promise Integration); the page gives `suspend` and calls what waits by a promise.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use wgpu_attention::{
    Result, Tensor,
    models::{
        Evaluation, Prediction, cmanp,
        tnp_kr::{self, Locations},
    },
};

#[link(wasm_import_module = "./wait.js")]
unsafe extern "C" {
    fn suspend();
}

fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
        // SAFETY: it takes and returns nothing; what runs meanwhile ends before it returns.
        unsafe { suspend() };
    }
}

/// `Tensor::read`.
pub trait Read {
    fn read(&self) -> Result<Vec<f32>>;
}

impl Read for Tensor {
    fn read(&self) -> Result<Vec<f32>> {
        wait(self.read_async())
    }
}

/// `Posterior::predict` of a TNP-KR.
pub trait PredictAt {
    fn predict(&self, locations: &Locations<'_>) -> Result<Prediction>;
}

impl PredictAt for tnp_kr::Posterior {
    fn predict(&self, locations: &Locations<'_>) -> Result<Prediction> {
        wait(self.predict_async(locations))
    }
}

/// What a posterior of a CMANP predicts.
pub trait Predict {
    fn predict(&self, x: &[f32]) -> Result<Prediction>;
    fn predict_joint(&self, x: &[f32]) -> Result<Vec<cmanp::JointPrediction>>;
    fn evaluate(&self, x: &[f32], y: &[f32], block: usize) -> Result<Evaluation>;
}

impl Predict for cmanp::Posterior {
    fn predict(&self, x: &[f32]) -> Result<Prediction> {
        wait(self.predict_async(x))
    }

    fn predict_joint(&self, x: &[f32]) -> Result<Vec<cmanp::JointPrediction>> {
        wait(self.predict_joint_async(x))
    }

    fn evaluate(&self, x: &[f32], y: &[f32], block: usize) -> Result<Evaluation> {
        wait(self.evaluate_async(x, y, block))
    }
}
