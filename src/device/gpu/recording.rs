//! Work is recorded and later run in few compute passes: a pass for each operation would
//! leave the GPU idle for tens of microseconds between them.
//!
//! A device has a recording of its own, which is submitted when somebody needs a result or when
//! it is long enough; what a thread does in [`Gpu::record`] goes into one of the application's
//! instead, see [`super::scope`].

use std::{borrow::Cow, sync::atomic::Ordering};

use super::{
    buffer::{Buffer, Standing},
    commands::{MAX_PARAMS, PARAMS_BUFFER, Request, Segment},
    lock::lock,
    memory::MAX_UPLOADED,
    open::Gpu,
    own::Own,
    promise::State,
    scope::{self, Pledge},
};
use crate::error::Result;

impl Gpu {
    /// Records a command that uses these buffers, and whether it writes them: into the recording
    /// that this thread has begun, else into the device's own.
    pub(super) fn append<'a>(
        &self,
        request: Request<'_>,
        operands: impl Iterator<Item = (&'a Buffer, bool)>,
    ) -> Result<()> {
        if let Some(scope) = scope::open(self) {
            return scope.borrow_mut().append(request, operands);
        }
        let mut refused = None;
        let mut own = loop {
            let own = lock(&self.own);
            if own.segment.has_room(&self.limits, self.capabilities.submit_budget, &request) {
                break own;
            }
            drop(own);
            // Those hear of a refusal who need the work, and who would add to it where it could not even begin.
            if let Some(refused) = refused {
                return Err(refused);
            }
            refused = self.submit().err();
        };
        for (buffer, is_written) in operands {
            match buffer.standing(&own.promise) {
                Standing::Theirs(promise) => return Err(promise.unmet()),
                Standing::Ready if is_written => {
                    // By another thread, while this one was in an operation.
                    if let Some(promise) = buffer.encoded_since() {
                        return Err(promise.unmet());
                    }
                    buffer.promised_by(&own.promise);
                }
                Standing::Ready | Standing::Ours => {}
            }
        }
        own.segment.push(&self.limits, request);
        Ok(())
    }

    /// Runs what is recorded.
    pub(crate) fn submit(&self) -> Result<()> {
        self.check_alive()?;
        self.flush(&mut lock(&self.own))?;
        self.throttle()
    }

    /// Submits what computes a buffer, if that is not the application's to submit.
    pub(crate) fn submit_for(&self, buffer: &Buffer) -> Result<()> {
        self.check_alive()?;
        let Some(promise) = buffer.promise() else { return Ok(()) };
        match promise.state() {
            State::Broken(_) => Err(promise.unmet()),
            State::Pending => self.submit(),
            _ => Ok(()),
        }
    }

    /// Submits the device's own recording.
    pub(super) fn flush(&self, own: &mut Own) -> Result<()> {
        // The queue keeps what it copied of uploads until something is submitted.
        if own.segment.is_empty() && self.uploaded.load(Ordering::Relaxed) <= MAX_UPLOADED {
            self.pool.next_recording();
            return Ok(());
        }
        self.flush_with(own, |_| ()).map(|_| ())
    }

    /// Submits the device's own recording and what `after` encodes.
    fn flush_with(
        &self,
        own: &mut Own,
        after: impl FnOnce(&mut wgpu::CommandEncoder),
    ) -> Result<wgpu::SubmissionIndex> {
        // Where there is no room for it, the work waits for another time.
        self.params_of_own(own)?;
        let (segment, promise) = own.take();
        let done = self.run(own, &segment, after);
        let state = match &done {
            Ok(_) => State::Kept,
            Err(error) => State::refused(error),
        };
        self.pool.settle(&promise, state);
        self.pool.next_recording();
        done
    }

    /// Runs what is recorded, then a copy of the first `bytes` of a buffer.
    pub(super) fn submit_and_copy(
        &self,
        from: &Buffer,
        to: &wgpu::Buffer,
        bytes: u64,
    ) -> Result<wgpu::SubmissionIndex> {
        from.check_copied("Tensor::read")?;
        let copy = |encoder: &mut wgpu::CommandEncoder| {
            if bytes > 0 {
                encoder.copy_buffer_to_buffer(from.raw(), 0, to, 0, bytes);
            }
        };
        let mut own = lock(&self.own);
        if let Standing::Theirs(promise) = from.standing(&own.promise) {
            return Err(promise.unmet());
        }
        match self.flush_with(&mut own, copy) {
            // Those hear of a refusal who need the work.
            Err(_) if !matches!(from.standing(&own.promise), Standing::Theirs(_)) => {
                self.run(&mut own, &Segment::default(), copy)
            }
            done => done,
        }
    }

    /// Submits commands, then what `after` encodes.
    pub(super) fn run(
        &self,
        own: &mut Own,
        segment: &Segment,
        after: impl FnOnce(&mut wgpu::CommandEncoder),
    ) -> Result<wgpu::SubmissionIndex> {
        let (buffer, params) = self.params_of_own(own)?;
        // In queue order: the submits so far have read their parameters before this write.
        self.write_params(&buffer, segment)?;
        let index = self.guarded("a submit", || {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            segment.encode(&mut encoder, &params);
            after(&mut encoder);
            self.queue.submit([encoder.finish()])
        })?;
        own.in_flight.push(index.clone(), segment.bytes() + self.uploaded.swap(0, Ordering::Relaxed));
        Ok(index)
    }

    /// Where the parameters of a submit go.
    fn params_of_own(&self, own: &mut Own) -> Result<(wgpu::Buffer, wgpu::BindGroup)> {
        match &own.params_buffer {
            Some(made) => Ok(made.clone()),
            None => Ok(own.params_buffer.insert(self.params_buffer(PARAMS_BUFFER)?).clone()),
        }
    }

    /// Moves what is recorded into an encoder of the application's.
    pub(crate) fn encode_into(&self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.check_alive()?;
        // Held to the end, so that no other thread records or submits in between.
        let mut own = lock(&self.own);
        if own.segment.is_empty() {
            return Ok(());
        }
        let params = self.params_of(&own.segment)?;
        let signal = self.signal()?;
        // This encoder runs whenever the application pleases, so no buffer that it touches is
        // reused.
        self.pool.retire();
        let (segment, promise) = own.take();
        segment.encode(encoder, &params);
        self.pool.next_recording();
        Pledge::new(promise, self.pool.clone()).hand_to(encoder, &signal);
        Ok(())
    }

    /// Parameters of a segment that is encoded for the application: its own, since it runs
    /// whenever the application pleases.
    pub(super) fn params_of(&self, segment: &Segment) -> Result<wgpu::BindGroup> {
        let (buffer, group) = self.params_buffer(segment.params().len().next_multiple_of(4) as u64 + MAX_PARAMS)?;
        self.write_params(&buffer, segment)?;
        Ok(group)
    }

    fn write_params(&self, buffer: &wgpu::Buffer, segment: &Segment) -> Result<()> {
        if segment.params().is_empty() {
            return Ok(());
        }
        let mut params = Cow::Borrowed(segment.params());
        if !params.len().is_multiple_of(4) {
            let padded = params.len().next_multiple_of(4);
            params.to_mut().resize(padded, 0);
        }
        self.guarded("an upload", || self.queue.write_buffer(buffer, 0, &params))
    }

    fn params_buffer(&self, size: u64) -> Result<(wgpu::Buffer, wgpu::BindGroup)> {
        let buffer = self.try_create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters"),
            size,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })?;
        self.guarded("parameters", || {
            let binding =
                wgpu::BufferBinding { buffer: &buffer, offset: 0, size: std::num::NonZeroU64::new(MAX_PARAMS) };
            let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("parameters"),
                layout: &self.params_layout(),
                entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(binding) }],
            });
            (buffer.clone(), group)
        })
    }
}
