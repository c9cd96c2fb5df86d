//! A launch is one sentence: a kernel, what is bound to the names of its text, and how the work
//! is cut.
//!
//! ```text
//! gpu.kernel(&KERNEL, &constants)?
//!     .read_rows("x", x, width)
//!     .read("scale", scale)
//!     .write_rows("y", &y, width)
//!     .rows(rows, work, |rows| (Params { .. }, n_groups))
//! ```

use std::{marker::PhantomData, ops::Range, sync::Arc};

use serde::Serialize;

use super::{
    buffer::{Buffer, View},
    commands::Dispatch,
    open::Gpu,
    pipeline::{Pipeline, Slot},
    shader::{Kernel, Params},
};
use crate::{
    device::Work,
    error::{Error, Result, check_limit},
};

/// Some elements of a buffer.
#[derive(Clone)]
pub(crate) struct Part<'a> {
    pub buffer: &'a Buffer,
    pub elements: Range<usize>,
}

impl<'a> From<&'a Buffer> for Part<'a> {
    fn from(buffer: &'a Buffer) -> Self {
        Self { buffer, elements: 0..buffer.len() }
    }
}

#[derive(Clone)]
struct Bound<'a> {
    part: Part<'a>,
    /// Numbers for each row, of an operand that is cut along with the rows.
    row: Option<usize>,
}

/// A launch in the making.
pub(crate) struct Launch<'a, P> {
    gpu: &'a Gpu,
    pipeline: Arc<Pipeline>,
    /// For each slot of the pipeline.
    bound: Vec<Option<Bound<'a>>>,
    /// The first name that the text does not have.
    unknown: Option<&'static str>,
    params: PhantomData<P>,
}

impl Gpu {
    /// Begins a launch of the text that these constants make of a kernel.
    pub(crate) fn kernel<C: Serialize, P: Params>(
        &self,
        kernel: &Kernel<C, P>,
        constants: &C,
    ) -> Result<Launch<'_, P>> {
        Ok(self.launch(self.pipeline(kernel, constants, false)?))
    }

    /// [`Gpu::kernel`] of a text that holds a snippet of the user's: it is compiled with all
    /// checks, and few such are kept.
    pub(crate) fn kernel_with_snippet<C: Serialize, P: Params>(
        &self,
        kernel: &Kernel<C, P>,
        constants: &C,
    ) -> Result<Launch<'_, P>> {
        Ok(self.launch(self.pipeline(kernel, constants, true)?))
    }

    fn launch<P>(&self, pipeline: Arc<Pipeline>) -> Launch<'_, P> {
        let bound = vec![None; pipeline.slots.len()];
        Launch { gpu: self, pipeline, bound, unknown: None, params: PhantomData }
    }
}

impl<'a, P: Params> Launch<'a, P> {
    fn bind(mut self, name: &'static str, part: Part<'a>, row: Option<usize>, is_written: bool) -> Self {
        let fits = |slot: &Slot| slot.name == name && slot.is_written == is_written;
        match self.pipeline.slots.iter().position(fits) {
            Some(slot) => self.bound[slot] = Some(Bound { part, row }),
            None => self.unknown = self.unknown.or(Some(name)),
        }
        self
    }

    /// Binds what the kernel reads under a name.
    pub(crate) fn read(self, name: &'static str, part: impl Into<Part<'a>>) -> Self {
        self.bind(name, part.into(), None, false)
    }

    /// Binds what the kernel reads under a name, if there is such a thing.
    pub(crate) fn read_some(self, name: &'static str, part: Option<impl Into<Part<'a>>>) -> Self {
        match part {
            Some(part) => self.read(name, part),
            None => self,
        }
    }

    /// Binds what the kernel writes, or reads and writes.
    pub(crate) fn write(self, name: &'static str, part: impl Into<Part<'a>>) -> Self {
        self.bind(name, part.into(), None, true)
    }

    /// As [`Launch::write`], if there is such a thing.
    pub(crate) fn write_some(self, name: &'static str, part: Option<impl Into<Part<'a>>>) -> Self {
        match part {
            Some(part) => self.write(name, part),
            None => self,
        }
    }

    /// Binds what the kernel reads, `width` numbers for each row: a piece of the rows is given
    /// that piece of it alone.
    pub(crate) fn read_rows(self, name: &'static str, part: impl Into<Part<'a>>, width: usize) -> Self {
        self.bind(name, part.into(), Some(width), false)
    }

    /// As [`Launch::read_rows`], if there is such a thing.
    pub(crate) fn read_rows_some(self, name: &'static str, part: Option<impl Into<Part<'a>>>, width: usize) -> Self {
        match part {
            Some(part) => self.read_rows(name, part, width),
            None => self,
        }
    }

    /// As [`Launch::read_rows`], for what the kernel writes.
    pub(crate) fn write_rows(self, name: &'static str, part: impl Into<Part<'a>>, width: usize) -> Self {
        self.bind(name, part.into(), Some(width), true)
    }

    /// Launches over rows, cut so that no binding and no submit gets too large; `work` is that of
    /// a row. For some rows `params` gives the uniform and the number of workgroups.
    pub(crate) fn rows(self, rows: usize, work: Work, params: impl Fn(usize) -> (P, usize)) -> Result<()> {
        let Some(bound) = self.complete()? else { return Ok(()) };
        let widest = self.widest(&bound);
        self.check(&bound, Some(widest))?;
        self.check_iterations(work)?;
        for piece in self.gpu.capabilities.row_pieces(rows, widest, work.cost) {
            let of_piece = bound.iter().map(|Bound { part, row }| match row {
                None => part.clone(),
                Some(row) => {
                    let start = part.elements.start;
                    Part { elements: start + piece.start * row..start + piece.end * row, ..*part }
                }
            });
            let parts: Vec<_> = of_piece.collect();
            let (params, n_groups) = params(piece.len());
            self.dispatch(&parts, params, &[], 0, n_groups, work.cost * piece.len() as f64)?;
        }
        Ok(())
    }

    /// Launches workgroups over whole operands, in parts that no watchdog minds; `work` is that
    /// of a workgroup.
    pub(crate) fn groups(self, n_groups: usize, work: Work, params: P) -> Result<()> {
        self.groups_with(n_groups, work, params, &[])
    }

    /// [`Launch::groups`] with numbers behind the fixed fields of the uniform.
    pub(crate) fn groups_with(self, n_groups: usize, work: Work, params: P, tail: &[[f32; 4]]) -> Result<()> {
        let Some(bound) = self.complete()? else { return Ok(()) };
        self.check(&bound, None)?;
        self.check_iterations(work)?;
        let parts: Vec<_> = bound.into_iter().map(|bound| bound.part).collect();
        if self.pipeline.first_group.is_none() {
            // The kernel cannot know where a part begins, so there is one.
            return self.dispatch(&parts, params, tail, 0, n_groups, work.cost * n_groups as f64);
        }
        for groups in self.gpu.capabilities.row_pieces(n_groups, 1, work.cost) {
            self.dispatch(&parts, params, tail, groups.start, groups.len(), work.cost * groups.len() as f64)?;
        }
        Ok(())
    }

    /// Launches a recurrence of `n` steps, as many at a time as a submit and an invocation may
    /// take; `work` is that of a step in one of `n_groups` workgroups, which share the device or
    /// leave most of it idle.
    pub(crate) fn steps(self, n: usize, n_groups: usize, work: Work, params: impl Fn(Range<usize>) -> P) -> Result<()> {
        let Some(bound) = self.complete()? else { return Ok(()) };
        self.check(&bound, None)?;
        self.check_iterations(work)?;
        let parts: Vec<_> = bound.into_iter().map(|bound| bound.part).collect();
        let cost = self.gpu.capabilities.cost_of_step(n_groups, work);
        for steps in self.gpu.capabilities.step_pieces(n, n_groups, work) {
            let cost = cost * steps.len() as f64;
            self.dispatch(&parts, params(steps), &[], 0, n_groups, cost)?;
        }
        Ok(())
    }

    /// Numbers for each row in the binding that has most of them.
    fn widest(&self, bound: &[Bound<'_>]) -> usize {
        let mut widths = vec![0; self.pipeline.bindings.len()];
        for (slot, bound) in self.pipeline.slots.iter().zip(bound) {
            widths[slot.binding] += bound.row.unwrap_or(0);
        }
        widths.into_iter().max().unwrap_or(0)
    }

    /// Everything that the text declares, bound; none where nothing is written, so that nothing need
    /// run, whatever the sizes of empty operands are.
    fn complete(&self) -> Result<Option<Vec<Bound<'a>>>> {
        let defect = |message: String| Error::Validation { what: self.pipeline.name.into(), message };
        if let Some(name) = self.unknown {
            return Err(defect(format!("the text has no operand {name}")));
        }
        let all = self.bound.iter().zip(&self.pipeline.slots);
        let bound = all.map(|(bound, slot)| bound.clone().ok_or_else(|| defect(format!("{} is not bound", slot.name))));
        let bound = bound.collect::<Result<Vec<_>>>()?;
        let written = self.pipeline.slots.iter().zip(&bound).filter(|(slot, _)| slot.is_written);
        let is_empty = written.map(|(_, bound)| bound.part.elements.len()).all(|n| n == 0);
        Ok((!is_empty).then_some(bound))
    }

    /// Refuses operands that must be bound whole, or rows, that are larger than one binding.
    fn check(&self, bound: &[Bound<'_>], widest: Option<usize>) -> Result<()> {
        let whole = bound.iter().filter(|bound| bound.row.is_none()).map(|bound| bound.part.elements.len());
        let requested = 4 * whole.chain(widest).max().unwrap_or(0) as u64;
        check_limit("bytes of one operand; cut it into parts", requested, self.gpu.capabilities.max_binding)
    }

    /// Refuses loops that the device would end before they are done, and say nothing.
    fn check_iterations(&self, work: Work) -> Result<()> {
        let (requested, allowed) = (work.iterations as u64, self.gpu.capabilities.max_iterations as u64);
        check_limit("loop iterations of one invocation on a software adapter", requested, allowed)
    }

    fn dispatch(
        &self,
        parts: &[Part<'_>],
        mut params: P,
        tail: &[[f32; 4]],
        first_group: usize,
        n_groups: usize,
        cost: f64,
    ) -> Result<()> {
        let pipeline = &self.pipeline;
        let bytes = bytemuck::bytes_of_mut(&mut params);
        let mut set = |at: Option<usize>, value: u32| {
            if let Some(at) = at {
                bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            }
        };
        set(pipeline.first_group, first_group as u32);
        set(pipeline.n_groups, n_groups as u32);
        let shared = self.shared(parts)?;
        let mut views: Vec<Option<View<'_>>> = vec![None; pipeline.bindings.len()];
        for ((slot, part), at) in pipeline.slots.iter().zip(parts).zip(&shared) {
            let (view, base) = match at {
                Some((buffer, first)) => (buffer.elements(0, buffer.len()).0, *first as u32),
                None => part.buffer.elements(part.elements.start, part.elements.end),
            };
            if slot.base.is_none() && base > 0 {
                let message = format!("{} must begin at a multiple of 256 bytes", slot.name);
                return Err(Error::Validation { what: pipeline.name.into(), message });
            }
            let (requested, allowed) = (part.elements.end as u64, part.buffer.len() as u64);
            if requested > allowed {
                return Err(Error::LimitExceeded { limit: "numbers of a buffer that is bound", requested, allowed });
            }
            if !(base as usize).is_multiple_of(slot.words) {
                let message = format!("{} must begin at a multiple of {} numbers", slot.name, slot.words);
                return Err(Error::Validation { what: pipeline.name.into(), message });
            }
            set(slot.base, base / slot.words as u32);
            views[slot.binding] = Some(view);
        }
        let views: Vec<View<'_>> = views.into_iter().flatten().collect();
        let with_tail;
        let params = if tail.is_empty() {
            &*bytes
        } else {
            // Vectors of four begin at a multiple of their size.
            let padding = bytes.len().next_multiple_of(16) - bytes.len();
            with_tail = [bytes, &[0; 16][..padding], bytemuck::cast_slice(tail)].concat();
            &with_tail
        };
        self.gpu.dispatch(&Dispatch { pipeline, buffers: &views, params, n_groups: n_groups as u64, cost })?;
        for ((slot, part), at) in pipeline.slots.iter().zip(parts).zip(&shared) {
            if let (Some((buffer, first)), true) = (at, slot.is_written) {
                self.gpu.copy(buffer, *first, part.buffer, part.elements.start, part.elements.len())?;
            }
        }
        Ok(())
    }

    /// Copies of the operands that share a binding, side by side: for each operand, the buffer and
    /// where it begins there.
    fn shared(&self, parts: &[Part<'_>]) -> Result<Vec<Option<(Buffer, usize)>>> {
        let slots = &self.pipeline.slots;
        let mut shared = vec![None; slots.len()];
        if slots.iter().all(|slot| !slot.is_shared) {
            return Ok(shared);
        }
        for is_written in [false, true] {
            let here = |slot: &Slot| slot.is_shared && slot.is_written == is_written;
            let all = || slots.iter().zip(parts).enumerate().filter(|(_, (slot, _))| here(slot));
            let len: usize = all().map(|(_, (_, part))| part.elements.len()).sum();
            let allowed = self.gpu.capabilities.max_binding;
            check_limit("bytes of operands that share a binding", 4 * len as u64, allowed)?;
            let buffer = self.gpu.allocate(len)?;
            let mut first = 0;
            for (i, (_, part)) in all() {
                self.gpu.copy(part.buffer, part.elements.start, &buffer, first, part.elements.len())?;
                shared[i] = Some((buffer.clone(), first));
                first += part.elements.len();
            }
        }
        Ok(shared)
    }
}
