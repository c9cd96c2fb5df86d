//! Recordings of the application's: what one thread asks of one device between two points.
//!
//! Their commands run when the application pleases, before or after work that is recorded later
//! elsewhere. So a recording keeps the buffers that it allocates to itself until it has run, and
//! keeps those alive that it uses and that come from outside.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use super::{
    buffer::{Buffer, Pool, Standing},
    commands::{Request, Segment},
    lock::lock,
    open::Gpu,
    promise::{Promise, State},
};
use crate::error::{Error, Result};

thread_local! {
    /// The recordings that this thread has begun, one for each device at most.
    static OPEN: RefCell<Vec<Rc<RefCell<Scope>>>> = const { RefCell::new(Vec::new()) };
}

/// A recording that its thread adds to.
pub(super) struct Scope {
    gpu: Arc<Gpu>,
    /// What was recorded, one submit each.
    segments: Vec<Segment>,
    pledge: Pledge,
}

/// What a recording owes and holds until it has run. Dropped before that, it breaks its promise.
pub(super) struct Pledge {
    promise: Arc<Promise>,
    pool: Arc<Pool>,
    /// Buffers from outside that its commands use.
    operands: Vec<Buffer>,
    /// Recordings that must run before it.
    needs: Vec<Arc<Promise>>,
}

/// A finished recording.
pub(crate) struct Recorded {
    gpu: Arc<Gpu>,
    segments: Vec<Segment>,
    pledge: Pledge,
}

/// The recording that this thread has begun on a device.
pub(super) fn open(gpu: &Gpu) -> Option<Rc<RefCell<Scope>>> {
    let find = |open: &RefCell<Vec<Rc<RefCell<Scope>>>>| {
        open.borrow().iter().find(|scope| std::ptr::eq(&*scope.borrow().gpu, gpu)).cloned()
    };
    // A thread that ends records nothing any more.
    OPEN.try_with(find).ok().flatten()
}

/// What that recording promises.
pub(super) fn promise(gpu: &Gpu) -> Option<Arc<Promise>> {
    open(gpu).map(|scope| scope.borrow().pledge.promise.clone())
}

impl Scope {
    pub(super) fn append<'a>(
        &mut self,
        request: Request<'_>,
        operands: impl Iterator<Item = (&'a Buffer, bool)>,
    ) -> Result<()> {
        let Pledge { promise, operands: kept, needs, .. } = &mut self.pledge;
        for (buffer, is_written) in operands {
            match buffer.standing(promise) {
                Standing::Ours => continue,
                Standing::Ready => {}
                Standing::Theirs(other) => match other.state() {
                    State::Open | State::Broken(_) => return Err(other.unmet()),
                    _ if needs.iter().any(|need| Arc::ptr_eq(need, &other)) => {}
                    _ => needs.push(other),
                },
            }
            kept.push(buffer.clone());
            if is_written {
                buffer.promised_by(promise);
            }
        }
        let (limits, budget) = (self.gpu.limits(), self.gpu.capabilities().submit_budget);
        match self.segments.last_mut() {
            Some(segment) if segment.has_room(limits, budget, &request) => segment.push(limits, request),
            _ => {
                let mut segment = Segment::default();
                segment.push(limits, request);
                self.segments.push(segment);
            }
        }
        Ok(())
    }
}

impl Gpu {
    /// Runs `operations` and returns what they recorded on this device.
    pub(crate) fn record<T>(self: &Arc<Self>, operations: impl FnOnce() -> Result<T>) -> Result<(T, Recorded)> {
        if open(self).is_some() {
            return Err(Error::Unsupported {
                what: "Device::record within Device::record",
                on: "one device and one thread".into(),
                why: "end the first recording before the second one",
            });
        }
        // What is free is idle then, and the recording may use it. Those hear of a refusal who need
        // the work.
        let _ = self.flush(&mut lock(&self.own));
        let scope = Scope {
            gpu: self.clone(),
            segments: Vec::new(),
            pledge: Pledge::new(Arc::new(Promise::open()), self.pool.clone()),
        };
        let scope = Rc::new(RefCell::new(scope));
        OPEN.with_borrow_mut(|open| open.push(scope.clone()));
        let closing = Closing(&scope);
        let result = operations();
        drop(closing);
        // Cannot fail: the list of the thread held the only other reference.
        let Scope { gpu, segments, pledge } = Rc::into_inner(scope).expect("one owner").into_inner();
        pledge.promise.set(State::Recorded);
        Ok((result?, Recorded { gpu, segments, pledge }))
    }

    /// A buffer that tells when an encoder is submitted: it is always mapped, so `wgpu`, asked to
    /// map it on submit, refuses at once and says so to the callback, before the submit returns.
    /// (Its documentation speaks of a panic there; the tests hold it to what it does.) A callback
    /// for the end of the work would come too late: another thread that polls may hold it back.
    pub(super) fn signal(&self) -> Result<wgpu::Buffer> {
        if let Some(signal) = self.signal.get() {
            return Ok(signal.clone());
        }
        let signal = self.try_create_buffer(&wgpu::BufferDescriptor {
            label: Some("signal"),
            size: 4,
            usage: wgpu::BufferUsages::MAP_WRITE,
            mapped_at_creation: true,
        })?;
        Ok(self.signal.get_or_init(|| signal).clone())
    }
}

/// Ends the recording of a thread, also where its operations panic.
struct Closing<'a>(&'a Rc<RefCell<Scope>>);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        OPEN.with_borrow_mut(|open| open.retain(|scope| !Rc::ptr_eq(scope, self.0)));
    }
}

impl Pledge {
    pub(super) fn new(promise: Arc<Promise>, pool: Arc<Pool>) -> Self {
        Self { promise, pool, operands: Vec::new(), needs: Vec::new() }
    }

    /// The commands are submitted.
    fn keep(self) {
        let state = if self.needs.iter().all(|need| need.is_kept()) {
            State::Kept
        } else {
            State::Broken("its command encoder was submitted before the work that it needs".into())
        };
        self.pool.settle(&self.promise, state);
    }

    /// They never will be: who needs the work hears why.
    fn fail(self, error: Error) -> Error {
        self.pool.settle(&self.promise, State::refused(&error));
        error
    }

    /// Leaves it to an encoder that holds the commands now.
    pub(super) fn hand_to(self, encoder: &wgpu::CommandEncoder, signal: &wgpu::Buffer) {
        self.promise.set(State::Encoded);
        encoder.map_buffer_on_submit(signal, wgpu::MapMode::Write, .., move |_| self.keep());
    }
}

impl Drop for Pledge {
    fn drop(&mut self) {
        let why = match self.promise.state() {
            State::Kept | State::Broken(_) => return,
            State::Open | State::Recorded => "its recording was dropped before it was submitted",
            State::Pending | State::Encoded => "its command encoder was dropped before it was submitted",
        };
        self.pool.settle(&self.promise, State::Broken(why.into()));
    }
}

impl Recorded {
    pub(crate) fn n_dispatches(&self) -> usize {
        self.segments.iter().map(Segment::n_dispatches).sum()
    }

    pub(crate) fn n_submits(&self) -> usize {
        self.segments.len()
    }

    pub(crate) fn submit(self) -> Result<()> {
        let Self { gpu, segments, pledge } = self;
        let run = || {
            gpu.check_alive()?;
            let mut own = lock(&gpu.own);
            // Those hear of its refusal who need its work.
            let _ = gpu.flush(&mut own);
            if let Some(need) = pledge.needs.iter().find(|need| !need.is_kept()) {
                return Err(need.unmet());
            }
            segments.iter().try_for_each(|segment| gpu.run(&mut own, segment, |_| ()).map(drop))
        };
        match run() {
            Ok(()) => pledge.keep(),
            Err(error) => return Err(pledge.fail(error)),
        }
        gpu.throttle()
    }

    /// Runs all of it and waits: the time between the first pass of each submit and the end of its last.
    /// None where the device does not say.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn time(mut self) -> Result<Option<std::time::Duration>> {
        // Copies alone make no pass.
        let has_passes = self.segments.iter().all(|segment| segment.n_dispatches() > 0);
        let set = if has_passes { self.gpu.stamp(&mut self.segments)? } else { None };
        let (gpu, n_segments) = (self.gpu.clone(), self.segments.len());
        self.submit()?;
        gpu.wait_for(None)?;
        set.map(|set| gpu.stamped(&set, n_segments)).transpose()
    }

    pub(crate) fn encode_into(self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let Self { gpu, segments, pledge } = self;
        let prepare = || {
            gpu.check_alive()?;
            // As above.
            let _ = gpu.flush(&mut lock(&gpu.own));
            let waits = |need: &&Arc<Promise>| !matches!(need.state(), State::Kept | State::Encoded);
            if let Some(need) = pledge.needs.iter().find(waits) {
                return Err(need.unmet());
            }
            let params = segments.iter().map(|segment| gpu.params_of(segment)).collect::<Result<Vec<_>>>()?;
            Ok((gpu.signal()?, params))
        };
        let (signal, params) = match prepare() {
            Ok(prepared) => prepared,
            Err(error) => return Err(pledge.fail(error)),
        };
        for (segment, params) in segments.iter().zip(&params) {
            segment.encode(encoder, params);
        }
        pledge.hand_to(encoder, &signal);
        Ok(())
    }
}
