//! What observations leave behind: a posterior of all of them, or of the last ones.

use anyhow::Result;
use clap::Args;
use shared::args::positive;
use wgpu_attention::models::cmanp::{Cmanp, Context, Posterior, Window};

use crate::{rows::Block, scaling::Scaling};

/// Observations that a window reads at once, and forgets before it has to read some of them again.
const STEP: usize = 256;

/// What is forgotten.
#[derive(Args)]
pub struct Forgetting {
    /// Forget all but the last so many observations. They are kept for that, so there is no state to save.
    #[arg(long, value_name = "POINTS", conflicts_with = "state", value_parser = clap::value_parser!(u64).range(1..))]
    window: Option<u64>,
    /// Forget what is this much older than the last observation, in units of the first coordinate.
    #[arg(long, value_name = "LENGTH", conflicts_with = "state", value_parser = positive)]
    window_span: Option<f64>,
}

pub enum Memory<'a> {
    /// Of all observations, once there are any.
    All(Option<Posterior>),
    Last {
        window: Window,
        forgetting: &'a Forgetting,
    },
}

impl<'a> Memory<'a> {
    pub fn new(model: &Cmanp, posterior: Option<Posterior>, forgetting: &'a Forgetting) -> Result<Self> {
        if forgetting.window.is_none() && forgetting.window_span.is_none() {
            return Ok(Self::All(posterior));
        }
        Ok(Self::Last { window: Window::new(model, STEP)?, forgetting })
    }

    /// Takes a block in, and forgets what is too old then.
    pub fn take_in(&mut self, model: &Cmanp, scaling: &Scaling, block: &Block) -> Result<()> {
        let context = Context::new(&block.x, &block.y);
        match self {
            Self::All(posterior) => {
                *posterior = Some(match posterior {
                    Some(posterior) => posterior.update(&context)?,
                    None => model.condition(&context)?,
                });
            }
            Self::Last { window, forgetting } => {
                window.push(&context)?;
                if let Some(n) = forgetting.window {
                    window.keep(usize::try_from(n)?)?;
                }
                let last = block.x.rchunks(model.config().dim_x).next();
                if let (Some(span), Some(last)) = (forgetting.window_span, last) {
                    window.forget_before(0, f64::from(last[0]) - scaling.span(span))?;
                }
            }
        }
        Ok(())
    }

    /// The posterior of what is not forgotten, if there is anything.
    pub fn posterior(&mut self) -> Result<Option<Posterior>> {
        match self {
            Self::All(posterior) => Ok(posterior.clone()),
            Self::Last { window, .. } if window.n_points() == 0 => Ok(None),
            Self::Last { window, .. } => Ok(Some(window.posterior()?)),
        }
    }

    /// Of a window its points, and the bytes that it takes.
    pub fn window(&self) -> Option<[usize; 2]> {
        match self {
            Self::All(_) => None,
            Self::Last { window, .. } => Some([window.n_points(), window.n_bytes()]),
        }
    }
}
