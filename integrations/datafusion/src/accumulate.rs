//! What rows of groups leave behind.

use std::{collections::VecDeque, fmt, sync::Arc};

use datafusion::{
    arrow::{
        array::{
            Array, ArrayRef, AsArray, BinaryViewBuilder, BooleanArray, Float64Array, LargeBinaryBuilder, UInt64Array,
        },
        datatypes::{Float64Type, UInt64Type},
    },
    common::{DataFusionError, Result, ScalarValue},
    logical_expr::{Accumulator, EmitTo, GroupsAccumulator},
};
use rayon::prelude::*;
use wgpu_attention::{Error, models::cmanp::Posterior};

use crate::{
    aggregate::Kind,
    model::{Model, failed, guarded, not_a_posterior},
};

/// Rows that a group collects before they are read: enough that writing its posterior costs little beside.
const ROWS: usize = 512;

/// Groups that are written together.
const AT_ONCE: usize = 64;

/// How the partial state of rows that are not read yet begins. That of a posterior begins with the length of a header,
/// which is not as large.
const UNREAD: [u8; 8] = [0xff; 8];

/// One group.
#[derive(Default)]
pub(crate) struct Group {
    /// Rows that are not read yet.
    x: Vec<f64>,
    y: Vec<f32>,
    /// Rows that are to be taken out again.
    gone: (Vec<f64>, Vec<f32>),
    posterior: Option<Posterior>,
    /// Rows with a NULL.
    skipped: u64,
}

/// What an aggregate is called with.
#[derive(Clone)]
pub(crate) struct Call {
    pub model: Arc<Model>,
    pub kind: Kind,
    /// What the arguments are in the query.
    pub columns: Vec<String>,
}

/// All groups of a partition.
pub(crate) struct Groups {
    call: Call,
    groups: Vec<Group>,
    /// Bytes of all posteriors and rows, about.
    size: usize,
}

/// All rows of a partition, or of a frame that grows.
pub(crate) struct Single(Groups);

/// The rows of a frame that slides: the oldest leave, and what is left has the bits of its rows alone.
pub(crate) struct Sliding {
    rows: Single,
    /// The least of each `x` of the rows, and of each `-x`.
    least: Vec<[Least; 2]>,
}

/// The least number of a queue.
#[derive(Default)]
struct Least {
    /// Those that are less than all that came after them, and when they came.
    kept: VecDeque<(u64, f64)>,
    came: u64,
    left: u64,
}

impl Call {
    fn name(&self) -> String {
        self.model.name(self.kind.name())
    }

    /// Reads what a group has collected.
    fn read(&self, group: &mut Group) -> Result<()> {
        let refused = |error| match error {
            Error::Argument { .. } => failed(
                &self.name(),
                format_args!("in rows of a group: {error} (coordinate 0 is x1; `Functions::origin` gives an origin)"),
            ),
            _ => failed(&self.name(), error),
        };
        if !group.y.is_empty() {
            let read = self.model.read(group.posterior.as_ref(), &group.x, &group.y).map_err(refused)?;
            group.posterior = Some(read);
            group.x.clear();
            group.y.clear();
        }
        let (x, y) = &group.gone;
        if let (false, Some(posterior)) = (y.is_empty(), &group.posterior) {
            let gone = self.model.read(None, x, y).map_err(refused)?;
            let is_all = posterior.n_points() == gone.n_points();
            group.posterior = if is_all { None } else { Some(posterior.without(&gone).map_err(refused)?) };
            group.gone = Default::default();
        }
        Ok(())
    }

    /// What is left of a group, as bytes; nothing if no row was read.
    fn finish(&self, mut group: Group) -> Result<(Option<Vec<u8>>, u64)> {
        self.read(&mut group)?;
        let bytes = |posterior: &Posterior| {
            self.model.to_bytes(posterior, group.skipped).map_err(|error| failed(&self.name(), error))
        };
        Ok((group.posterior.as_ref().map(bytes).transpose()?, group.skipped))
    }

    /// What another partition goes on from: the posterior, or rows as they are where they are few, which take less
    /// space than it and no work.
    fn partial(&self, group: Group) -> Result<(Option<Vec<u8>>, u64)> {
        if group.posterior.is_some() || group.y.is_empty() || !group.gone.1.is_empty() {
            return self.finish(group);
        }
        let x = group.x.iter().flat_map(|x| x.to_le_bytes());
        let y = group.y.iter().flat_map(|y| y.to_le_bytes());
        Ok((Some(UNREAD.into_iter().chain(x).chain(y).collect()), group.skipped))
    }

    /// Takes in what [`Call::partial`] made.
    fn go_on(&self, group: &mut Group, bytes: &[u8]) -> Result<()> {
        let Some(numbers) = bytes.strip_prefix(&UNREAD) else {
            return self.merge(group, bytes);
        };
        let config = self.model.cmanp.config();
        let n_rows = numbers.len() / (8 * config.dim_x + 4 * config.dim_y);
        let (x, y) = numbers.split_at(8 * config.dim_x * n_rows);
        let is_whole = y.len() == 4 * config.dim_y * n_rows;
        let x: Vec<f64> = x.as_chunks().0.iter().map(|x| f64::from_le_bytes(*x)).collect();
        let y: Vec<f32> = y.as_chunks().0.iter().map(|y| f32::from_le_bytes(*y)).collect();
        if !is_whole || !x.iter().all(|x| x.is_finite()) || !y.iter().all(|y| y.is_finite()) {
            return Err(failed(&self.name(), "its partial state is damaged: rows that are cut or not finite"));
        }
        group.x.extend(x);
        group.y.extend(y);
        Ok(())
    }

    /// The columns of numbers, whose types the planner has seen to.
    fn numbers<'a>(&self, values: &'a [ArrayRef]) -> Result<Vec<&'a Float64Array>> {
        let number = |array: &'a ArrayRef| {
            let numbers = array.as_primitive_opt::<Float64Type>();
            numbers.ok_or_else(|| failed(&self.name(), format_args!("a column is {}, not DOUBLE", array.data_type())))
        };
        values.iter().map(number).collect()
    }

    /// Adds row `i` to the numbers; whether it has no NULL.
    fn take(&self, columns: &[&Float64Array], i: usize, x: &mut Vec<f64>, y: &mut Vec<f32>) -> Result<bool> {
        if columns.iter().any(|column| column.is_null(i)) {
            return Ok(false);
        }
        let dim_y = self.model.cmanp.config().dim_y;
        for (c, column) in columns.iter().enumerate() {
            let value = column.value(i);
            // A value is read as f32.
            if !value.is_finite() || (c < dim_y && !(value as f32).is_finite()) {
                return Err(self.not_finite(columns, i, c));
            }
        }
        y.extend(columns[..dim_y].iter().map(|column| column.value(i) as f32));
        x.extend(columns[dim_y..].iter().map(|column| column.value(i)));
        Ok(true)
    }

    fn not_finite(&self, columns: &[&Float64Array], i: usize, c: usize) -> DataFusionError {
        let row: Vec<String> = columns.iter().map(|column| column.value(i).to_string()).collect();
        let column = self.columns.get(c).map_or("?", |name| name);
        let message = format!(
            "argument {}, {column}, is {} in row {i} of a batch, whose arguments are ({}); allowed are finite numbers \
             (of f32 for a value) and NULL, which is skipped",
            c + 1,
            row[c],
            row.join(", ")
        );
        failed(&self.name(), message)
    }

    /// Merges a saved posterior into a group.
    fn merge(&self, group: &mut Group, bytes: &[u8]) -> Result<()> {
        let refused = |error| not_a_posterior(&self.name(), error);
        let (other, skipped) = self.model.of_bytes(bytes).map_err(refused)?;
        group.skipped = group.skipped.saturating_add(skipped);
        group.posterior = Some(match &group.posterior {
            Some(posterior) => posterior.merge(&other).map_err(refused)?,
            None => other,
        });
        Ok(())
    }
}

impl Groups {
    pub fn new(call: Call) -> Self {
        Self { call, groups: Vec::new(), size: 0 }
    }

    fn grow(&mut self, n: usize) {
        self.groups.resize_with(n.max(self.groups.len()), Group::default);
    }

    /// Reads rows, each into its group.
    fn update(
        &mut self,
        values: &[ArrayRef],
        group_of: impl Fn(usize) -> usize,
        is_kept: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let n_rows = values.first().map_or(0, |array| array.len());
        if self.call.kind == Kind::Merge {
            let kept: Vec<usize> = (0..n_rows).filter(|i| is_kept(*i)).collect();
            let blobs = binary(&self.call.name(), &values[0])?;
            for i in kept.into_iter().filter(|i| !blobs.is_null(*i)) {
                let bytes = blobs.as_binary_view().value(i);
                self.call.merge(&mut self.groups[group_of(i)], bytes)?;
            }
            return self.measure();
        }
        let columns = self.call.numbers(values)?;
        for i in (0..n_rows).filter(|i| is_kept(*i)) {
            let group = &mut self.groups[group_of(i)];
            if !self.call.take(&columns, i, &mut group.x, &mut group.y)? {
                group.skipped += 1;
            }
        }
        self.read_full()
    }

    /// Reads the rows of those groups that have enough.
    fn read_full(&mut self) -> Result<()> {
        let rows = ROWS * self.call.model.cmanp.config().dim_y;
        let call = &self.call;
        let full: Vec<&mut Group> = self.groups.iter_mut().filter(|group| group.y.len() >= rows).collect();
        if !full.is_empty() {
            // The library's own threads read several groups at once, and each by itself where that is all.
            full.into_par_iter().try_for_each(|group| call.read(group))?;
        }
        self.measure()
    }

    fn measure(&mut self) -> Result<()> {
        let bytes = |group: &Group| {
            let rows =
                (group.x.capacity() + group.gone.0.capacity()) * 8 + (group.y.capacity() + group.gone.1.capacity()) * 4;
            rows + group.posterior.as_ref().map_or(0, Posterior::n_bytes) + size_of::<Group>()
        };
        self.size = self.groups.iter().map(bytes).sum();
        Ok(())
    }

    fn merge_states(&mut self, values: &[ArrayRef], group_of: impl Fn(usize) -> usize) -> Result<()> {
        let name = self.call.name();
        let blobs = binary(&name, &values[0])?;
        let blobs = blobs.as_binary_view();
        let skipped = values.get(1).and_then(|array| array.as_primitive_opt::<UInt64Type>());
        let skipped = skipped.ok_or_else(|| failed(&name, "its partial state has no count of skipped rows"))?;
        for i in 0..blobs.len() {
            let group = &mut self.groups[group_of(i)];
            let before = group.skipped;
            if !blobs.is_null(i) {
                self.call.go_on(group, blobs.value(i))?;
            }
            // With that of the posterior, which is the same.
            group.skipped = before.saturating_add(if skipped.is_null(i) { 0 } else { skipped.value(i) });
        }
        self.read_full()
    }

    /// What is left of groups, as `of_group` says it. Each group is gone when it is written, so that all do not stand
    /// in memory twice.
    fn finish(
        &mut self,
        emit_to: EmitTo,
        of_group: impl Fn(&Call, Group) -> Result<(Option<Vec<u8>>, u64)> + Sync,
        mut write: impl FnMut(Option<&[u8]>, u64),
    ) -> Result<()> {
        let mut groups = emit_to.take_needed(&mut self.groups).into_iter();
        let call = &self.call;
        loop {
            let some: Vec<Group> = groups.by_ref().take(AT_ONCE).collect();
            if some.is_empty() {
                return self.measure();
            }
            let some: Vec<_> = some.into_par_iter().map(|group| of_group(call, group)).collect::<Result<_>>()?;
            some.iter().for_each(|(bytes, skipped)| write(bytes.as_deref(), *skipped));
        }
    }
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        let is_kept = |i| opt_filter.is_none_or(|filter| filter.is_valid(i) && filter.value(i));
        guarded(&self.call.name(), || self.update(values, |i| group_indices[i], is_kept))
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.grow(total_num_groups);
        guarded(&self.call.name(), || self.merge_states(values, |i| group_indices[i]))
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let mut posteriors = BinaryViewBuilder::new();
        let write = |bytes: Option<&[u8]>, _| posteriors.append_option(bytes);
        guarded(&self.call.name(), || self.finish(emit_to, Call::finish, write))?;
        Ok(Arc::new(posteriors.finish()))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let (mut posteriors, mut skipped) = (LargeBinaryBuilder::new(), Vec::new());
        let write = |bytes: Option<&[u8]>, n| {
            posteriors.append_option(bytes);
            skipped.push(n);
        };
        guarded(&self.call.name(), || self.finish(emit_to, Call::partial, write))?;
        Ok(vec![Arc::new(posteriors.finish()), Arc::new(UInt64Array::from(skipped))])
    }

    /// Every row a group of its own, unread: asked for where there are nearly as many groups as rows.
    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let n = values.first().map_or(0, |array| array.len());
        let mut rows = Self::new(self.call.clone());
        rows.update_batch(values, &(0..n).collect::<Vec<_>>(), opt_filter, n)?;
        rows.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.size + size_of::<Self>()
    }
}

impl Single {
    pub fn new(call: Call) -> Self {
        let mut groups = Groups::new(call);
        groups.grow(1);
        Self(groups)
    }

    /// The one group stays: a window asks again and again.
    fn bytes(&mut self) -> Result<Option<Vec<u8>>> {
        let Groups { call, groups, .. } = &mut self.0;
        guarded(&call.name(), || {
            call.read(&mut groups[0])?;
            let group = &groups[0];
            let bytes = |posterior| call.model.to_bytes(posterior, group.skipped);
            group.posterior.as_ref().map(bytes).transpose().map_err(|error| failed(&call.name(), error))
        })
    }
}

impl fmt::Debug for Single {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Single").field(&self.0.call.name()).finish()
    }
}

impl Accumulator for Single {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        guarded(&self.0.call.name(), || self.0.update(values, |_| 0, |_| true))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::BinaryView(self.bytes()?))
    }

    fn size(&self) -> usize {
        self.0.size + size_of::<Self>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let bytes = self.bytes()?;
        Ok(vec![ScalarValue::LargeBinary(bytes), ScalarValue::UInt64(Some(self.0.groups[0].skipped))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        guarded(&self.0.call.name(), || self.0.merge_states(states, |_| 0))
    }
}

impl Least {
    fn push(&mut self, x: f64) {
        while self.kept.pop_back_if(|(_, last)| *last >= x).is_some() {}
        self.kept.push_back((self.came, x));
        self.came += 1;
    }

    fn pop(&mut self) {
        self.left += 1;
        self.kept.pop_front_if(|(came, _)| *came < self.left);
    }

    fn get(&self) -> Option<f64> {
        self.kept.front().map(|(_, x)| *x)
    }
}

impl Sliding {
    pub fn new(call: Call) -> Self {
        let least = (0..call.model.cmanp.config().dim_x).map(|_| Default::default()).collect();
        Self { rows: Single::new(call), least }
    }

    /// Adds rows to the numbers, those without a NULL; how many have one.
    fn take(call: &Call, values: &[ArrayRef], x: &mut Vec<f64>, y: &mut Vec<f32>) -> Result<u64> {
        let columns = call.numbers(values)?;
        let n_rows = values.first().map_or(0, |array| array.len());
        (0..n_rows).try_fold(0, |skipped, i| Ok(skipped + u64::from(!call.take(&columns, i, x, y)?)))
    }
}

impl fmt::Debug for Sliding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sliding").field(&self.rows).finish()
    }
}

impl Accumulator for Sliding {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let groups = &mut self.rows.0;
        guarded(&groups.call.name(), || {
            let (mut x, mut y) = (Vec::new(), Vec::new());
            let skipped = Self::take(&groups.call, values, &mut x, &mut y)?;
            for x in x.chunks_exact(self.least.len()) {
                for ([low, high], x) in self.least.iter_mut().zip(x) {
                    low.push(x + 0.0);
                    high.push(-x + 0.0);
                }
            }
            let group = &mut groups.groups[0];
            group.skipped += skipped;
            group.x.extend(x);
            group.y.extend(y);
            groups.read_full()
        })
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Groups { call, groups, .. } = &mut self.rows.0;
        guarded(&call.name(), || {
            let (x, y) = &mut groups[0].gone;
            let before = x.len();
            let skipped = Self::take(call, values, x, y)?;
            for _ in x[before..].chunks_exact(self.least.len()) {
                self.least.iter_mut().flatten().for_each(Least::pop);
            }
            groups[0].skipped = groups[0].skipped.saturating_sub(skipped);
            Ok(())
        })
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let Groups { call, groups, .. } = &mut self.rows.0;
        guarded(&call.name(), || {
            call.read(&mut groups[0])?;
            let ranges = self.least.iter().map(|[low, high]| Some([low.get()?, -high.get()? + 0.0]));
            if let (Some(posterior), Some(ranges)) = (&mut groups[0].posterior, ranges.collect::<Option<Vec<_>>>()) {
                *posterior = posterior.with_ranges(&ranges).map_err(|error| failed(&call.name(), error))?;
            }
            Ok(())
        })?;
        self.rows.evaluate()
    }

    fn size(&self) -> usize {
        let kept = self.least.iter().flatten().map(|least| least.kept.capacity());
        self.rows.size() + kept.sum::<usize>() * size_of::<(u64, f64)>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Err(failed(&self.rows.0.call.name(), "a frame that slides has no partial state"))
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        Err(failed(&self.rows.0.call.name(), "a frame that slides has no partial state"))
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }
}

/// Any column of bytes as views.
pub(crate) fn binary(name: &str, array: &ArrayRef) -> Result<ArrayRef> {
    use datafusion::arrow::{compute::cast, datatypes::DataType};
    match array.data_type() {
        DataType::BinaryView => Ok(array.clone()),
        DataType::Binary | DataType::LargeBinary | DataType::Null => Ok(cast(array, &DataType::BinaryView)?),
        other => Err(failed(name, format_args!("a column of posteriors is {other}"))),
    }
}
