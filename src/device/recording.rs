//! What a closure recorded, as a value.

use std::fmt;

#[cfg(feature = "gpu")]
use super::gpu;
use super::{Backend, Device};
use crate::error::Result;

/// The work that [`Device::record`] recorded: to be submitted, or encoded into an application's
/// own encoder. Dropped without that, its work never runs, and what it would have computed is an
/// error to read or to use.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::relu};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let x = Tensor::new(&device, &[2], &[-1.0, 2.0])?;
/// let (y, recording) = device.record(|| relu(&relu(&x)?))?;
/// let is_gpu = device != Device::cpu();
/// assert_eq!((recording.is_empty(), recording.n_dispatches()), (!is_gpu, 2 * usize::from(is_gpu)));
/// recording.submit()?;
/// assert_eq!(y.read()?, [0.0, 2.0]);
/// # Ok(())
/// # }
/// ```
#[must_use = "its work does not run unless it is submitted or encoded"]
pub struct Recording {
    /// None on the CPU, where operations run at once.
    #[cfg(feature = "gpu")]
    recorded: Option<gpu::Recorded>,
}

impl Device {
    /// Runs `operations` and returns what this thread asked of this device in it, and nothing
    /// else, whatever other threads do meanwhile.
    ///
    /// Nothing of it is submitted before [`Recording::submit`] or, into an encoder of the
    /// application's, `Recording::encode_into`. Until then its tensors can be used in other
    /// recordings, which must run after it; to use them outside of a recording, or to read them, is
    /// [`Error::NotComputed`]. What is uploaded inside is there at once. Several threads may record
    /// at once, each its own recording. What the device has recorded by itself is submitted first.
    ///
    /// On the CPU operations run at once, and the recording is empty.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::add};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let device = Device::best();
    /// let x = Tensor::new(&device, &[2], &[1.0, 2.0])?;
    /// let (sum, recording) = device.record(|| add(&x, &x, 1.0))?;
    /// recording.submit()?;
    /// assert_eq!(sum.read()?, [2.0, 4.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of `operations`; this thread is recording on this device already; the device was
    /// lost.
    ///
    /// [`Error::NotComputed`]: crate::Error::NotComputed
    pub fn record<T>(&self, operations: impl FnOnce() -> Result<T>) -> Result<(T, Recording)> {
        match &self.0 {
            Backend::Cpu(_) => Ok((operations()?, Recording::empty())),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => {
                let (result, recorded) = gpu.record(operations)?;
                Ok((result, Recording { recorded: Some(recorded) }))
            }
        }
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recording({} dispatches)", self.n_dispatches())
    }
}

impl Recording {
    fn empty() -> Self {
        Self {
            #[cfg(feature = "gpu")]
            recorded: None,
        }
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.n_submits() == 0
    }

    /// How many kernels it launches. Copies do not count.
    pub fn n_dispatches(&self) -> usize {
        #[cfg(feature = "gpu")]
        if let Some(recorded) = &self.recorded {
            return recorded.n_dispatches();
        }
        0
    }

    /// How many submits [`Recording::submit`] makes of it, each of which takes a tenth of a second
    /// or less. Where it is more than one, an encoder that takes all of it keeps the GPU busy for
    /// longer than that at a time.
    pub fn n_submits(&self) -> usize {
        #[cfg(feature = "gpu")]
        if let Some(recorded) = &self.recorded {
            return recorded.n_submits();
        }
        0
    }

    /// Starts the work, after what the device has recorded by itself so far.
    ///
    /// # Errors
    /// It uses what a recording or an encoder computes that was not submitted yet, or never will
    /// be; the device refuses the work or was lost. The work is lost then.
    pub fn submit(self) -> Result<()> {
        #[cfg(feature = "gpu")]
        if let Some(recorded) = self.recorded {
            return recorded.submit();
        }
        Ok(())
    }

    /// Runs the work as [`Recording::submit`] does, waits for it, and says how long it took by the
    /// device's own clock: from the beginning of the first kernel of each submit to the end of its
    /// last one, all together, without what the host takes. None where the device has no such clock
    /// ([`Capabilities::timestamps`](super::Capabilities::timestamps)), as on the CPU.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::relu};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let device = Device::best();
    /// let x = Tensor::new(&device, &[2], &[-1.0, 2.0])?;
    /// let (y, recording) = device.record(|| relu(&x))?;
    /// println!("{:?}", recording.time()?);
    /// assert_eq!(y.read()?, [0.0, 2.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Recording::submit`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn time(self) -> Result<Option<std::time::Duration>> {
        #[cfg(feature = "gpu")]
        if let Some(recorded) = self.recorded {
            return recorded.time();
        }
        Ok(None)
    }

    /// Encodes all of the work into an encoder of the application's own, however long it is (see
    /// [`Recording::n_submits`]), in compute passes between what the application encodes before and
    /// after. What the device has recorded by itself so far is submitted.
    ///
    /// The application submits the encoder, to the queue of this device, before it reads a tensor
    /// of the recording or uses one outside of a recording: until then that is
    /// [`Error::NotComputed`](crate::Error::NotComputed), and for good if it drops the encoder.
    /// What the recording uses from other encoders must be submitted before this one. If `wgpu`
    /// refuses the encoder, for a command of the application's say, it says so to the application
    /// alone, and the numbers are not what was asked for.
    ///
    /// # Errors
    /// It uses what a recording computes that was neither submitted nor encoded; the device has
    /// no room. The work is lost then.
    #[cfg(feature = "gpu")]
    pub fn encode_into(self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        match self.recorded {
            Some(recorded) => recorded.encode_into(encoder),
            None => Ok(()),
        }
    }
}
