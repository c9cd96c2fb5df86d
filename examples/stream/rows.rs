//! Lines of CSV, checked, as points of the model.

use anyhow::{Result, bail, ensure};
use shared::{
    lines::{self, Lines, cut},
    warn,
};
use wgpu_attention::models::cmanp::Config;

use crate::{saved::Progress, scaling::Scaling};

/// Observations that a picture shows at most.
const MAX_DRAWN: usize = 2000;
/// Lines that a run says one by one why it rejects them.
const MAX_WARNED: u64 = 10;

/// Observations in the model's units.
#[derive(Default)]
pub struct Block {
    pub x: Vec<f32>,
    pub y: Vec<f32>,
    /// The first coordinate and `y` in the units of the data.
    pub times: Vec<f64>,
    pub values: Vec<f64>,
    n: u64,
    /// How the input ended, if it did: at its end, or at a line that cannot be read.
    pub ended: Option<Result<()>>,
}

impl Block {
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    pub fn len(&self) -> u64 {
        self.n
    }
}

/// An observation that is drawn: how many came before it, its coordinate and its value.
pub type Drawn = (u64, f64, f64);

/// The numbers of a line, and those of the model.
struct Row {
    numbers: Vec<f64>,
    x: Vec<f32>,
    y: Vec<f32>,
}

impl Row {
    /// The first column that the model cannot take, and why.
    fn bad_column(&self, bound: f64) -> Option<(usize, String)> {
        let n_coordinates = self.numbers.len() - self.y.len();
        // The phase comes from the first column, too.
        let n_derived = self.x.len() - n_coordinates;
        let first = |is_bad: &dyn Fn(&f32) -> bool| {
            let x = self.x.iter().position(is_bad).map(|i| i.saturating_sub(n_derived));
            x.or_else(|| Some(n_coordinates + self.y.iter().position(is_bad)?))
        };
        let infinite = first(&|x| !x.is_finite()).map(|column| (column, "too large for 32 bits".to_owned()));
        let why = || format!("beyond {bound} in the network's units (--bound)");
        infinite.or_else(|| first(&|x| f64::from(x.abs()) > bound).map(|column| (column, why())))
    }
}

pub struct Rows<'a> {
    lines: Lines,
    names: Vec<String>,
    n_coordinates: usize,
    scaling: &'a Scaling,
    takes_unfinished: bool,
    /// Lines that this run rejected.
    n_rejected: u64,
}

impl<'a> Rows<'a> {
    /// `takes_unfinished`: whether a last line counts that no newline ends.
    pub fn new(mut lines: Lines, config: &Config, scaling: &'a Scaling, takes_unfinished: bool) -> Result<Self> {
        let names = lines.header()?;
        let n_coordinates = scaling.n_coordinates(config);
        let wanted = n_coordinates + config.dim_y;
        ensure!(
            names.len() == wanted,
            "the header has {} columns ({}), the model needs {wanted}: {n_coordinates} coordinate(s), then {} value(s){}",
            names.len(),
            cut(&names.join(",")),
            config.dim_y,
            if n_coordinates == 3 {
                "; if these are a time and the cosine and sine of a phase, give the length of the cycle in units of x, \
                 --cycle LENGTH, and one column of x"
            } else {
                ""
            }
        );
        let is_swapped = names.len() == 2 && names[0].eq_ignore_ascii_case("y") && names[1].eq_ignore_ascii_case("x");
        ensure!(!is_swapped, "the header is \"{}\": the coordinate comes first, then the value", names.join(","));
        Ok(Self { lines, names, n_coordinates, scaling, takes_unfinished, n_rejected: 0 })
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The names of the coordinates and of the values.
    pub fn columns(&self) -> (&[String], &[String]) {
        self.names.split_at(self.n_coordinates)
    }

    /// Goes on after what the state has consumed, which is passed over unless the input begins
    /// there. Fails if this is another stream.
    pub fn resume(&mut self, progress: &Progress, continues: bool) -> Result<()> {
        ensure!(
            progress.names == self.names,
            "the header is {:?}, the state was written with {:?}: give the same stream, or another --state",
            cut(&self.names.join(",")),
            cut(&progress.names.join(","))
        );
        if continues {
            return Ok(());
        }
        let (n_rows, mut hash) = (progress.n_rows, lines::HASH_START);
        for row in 0..n_rows {
            ensure!(self.lines.advance()?, "the input ends after {row} lines, but the state has consumed {n_rows}");
            hash = lines::hash(hash, self.lines.bytes());
        }
        ensure!(
            hash == progress.hash,
            "the first {n_rows} lines are not those that the state has consumed: give the same stream, or another --state"
        );
        Ok(())
    }

    /// The next `size` observations, fewer at the end.
    pub fn next_block(&mut self, size: u64, progress: &mut Progress) -> Block {
        let mut block = Block::default();
        while block.n < size && block.ended.is_none() {
            match self.next_row(progress) {
                Ok(Some(row)) => {
                    block.x.extend(row.x);
                    block.y.extend(row.y);
                    block.times.push(row.numbers[0]);
                    block.values.extend(&row.numbers[self.n_coordinates..]);
                    block.n += 1;
                }
                Ok(None) => block.ended = Some(Ok(())),
                // What came before it is still taken in.
                Err(error) => block.ended = Some(Err(error)),
            }
        }
        block
    }

    /// The next line that is not rejected: whatever a line holds, the stream goes on behind it.
    fn next_row(&mut self, progress: &mut Progress) -> Result<Option<Row>> {
        while let Some(row) = self.read()? {
            progress.consume(self.lines.bytes());
            let error = match row {
                Ok(row) => return Ok(Some(row)),
                Err(error) => error,
            };
            progress.reject(self.lines.number());
            self.n_rejected += 1;
            match self.n_rejected {
                n if n < MAX_WARNED => warn!("{error}: line rejected")?,
                MAX_WARNED => warn!("{error}: line rejected; others that come are only counted")?,
                _ => {}
            }
        }
        if !self.lines.is_finished() {
            warn!("{}: no newline ends it: left to the next run, when it is whole", self.lines.place())?;
        }
        Ok(None)
    }

    /// The next line, or why it is rejected.
    fn read(&mut self) -> Result<Option<Result<Row>>> {
        if !self.lines.advance()? || !(self.lines.is_finished() || self.takes_unfinished) {
            return Ok(None);
        }
        Ok(Some(self.row()))
    }

    fn row(&self) -> Result<Row> {
        let numbers = self.lines.numbers(&self.names)?;
        let (x, y) = numbers.split_at(self.n_coordinates);
        let trend = self.scaling.trend(x[0]);
        let y = y.iter().map(|y| ((y - trend) / self.scaling.unit) as f32).collect();
        let row = Row { x: self.scaling.point(x), y, numbers };
        if let Some((column, why)) = row.bad_column(self.scaling.bound) {
            let (place, name) = (self.lines.place(), &self.names[column]);
            bail!("{place}: column {name:?} is {}, {why}", cut(self.lines.cells(self.names.len())?[column].text()));
        }
        Ok(row)
    }

    /// Observations to draw, in the units of the data: all, or every 2nd, 4th, ... of many.
    pub fn thinned(mut self) -> Result<Vec<Drawn>> {
        let (mut points, mut n, mut step) = (Vec::new(), 0, 1);
        while let Some(row) = self.read()? {
            let Ok(row) = row else { continue };
            if n % step == 0 {
                points.push((n, row.numbers[0], row.numbers[self.n_coordinates]));
            }
            n += 1;
            if points.len() > MAX_DRAWN {
                step *= 2;
                points.retain(|(n, ..)| n % step == 0);
            }
        }
        Ok(points)
    }
}
