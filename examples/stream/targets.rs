//! Where predictions are made, and the files that they go to.

use std::path::Path;

use anyhow::{Result, ensure};
use shared::{
    lines::{Lines, cut},
    out,
};
use wgpu_attention::models::cmanp::Posterior;

use crate::{rows::Rows, scaling::Scaling};

/// The points that are predicted: those of a file, or a grid.
pub struct Targets {
    names: Vec<String>,
    /// The names of what is predicted.
    values: Vec<String>,
    /// Coordinates in the units of the data, point by point.
    x: Vec<f64>,
    /// The same as the model takes them.
    points: Vec<f32>,
}

/// Predictions after so many observations.
pub struct Stage {
    pub n_points: u64,
    pub x: Vec<f64>,
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
}

impl Targets {
    /// A grid over the range of one coordinate, for one value.
    pub fn grid(scaling: &Scaling) -> Self {
        let x = scaling.grid();
        let points = x.iter().flat_map(|&x| scaling.point(&[x])).collect();
        Self { names: vec!["x".into()], values: vec!["y".into()], x, points }
    }

    /// The lines of a file with the columns of the coordinates.
    pub fn open(path: &Path, rows: &Rows<'_>, scaling: &Scaling) -> Result<Self> {
        let mut lines = Lines::open(path)?;
        let (names, values) = rows.columns();
        let header = lines.header()?;
        let (found, wanted) = (cut(&header.join(",")), names.join(","));
        ensure!(header == names, "the header is {found:?}, the columns of the coordinates are needed: {wanted:?}");
        let (mut x, mut points) = (Vec::new(), Vec::new());
        while lines.advance()? {
            let numbers = lines.numbers(names)?;
            let point = scaling.point(&numbers);
            ensure!(point.iter().all(|x| x.is_finite()), "line {} is not finite in 32 bits", lines.number());
            x.extend(numbers);
            points.extend(point);
        }
        ensure!(!x.is_empty(), "there is no point: give at least one line below the header");
        Ok(Self { names: names.to_vec(), values: values.to_vec(), x, points })
    }

    pub fn len(&self) -> usize {
        self.x.len() / self.names.len()
    }

    /// Predicts all points after so many observations, and writes them to a file of their own in a folder,
    /// that is none of those that are read.
    pub fn predict<'a>(
        &self,
        scaling: &Scaling,
        posterior: &Posterior,
        n_points: u64,
        folder: &Path,
        read: impl IntoIterator<Item = &'a Path>,
    ) -> Result<Stage> {
        let prediction = posterior.predict(&self.points)?;
        let firsts = self.x.iter().step_by(self.names.len());
        // The trend is that of the first coordinate for each value.
        let firsts = firsts.flat_map(|&x| std::iter::repeat_n(x, self.values.len()));
        let mean = firsts.zip(prediction.mean()).map(|(x, &y)| scaling.value(x, y)).collect();
        let std = prediction.std().iter().map(|&std| f64::from(std) * scaling.unit).collect();
        let stage = Stage { n_points, x: self.x.clone(), mean, std };
        let path = folder.join(format!("predictions_{}.csv", stage.n_points));
        out::unless_read(&path, read)?;
        self.write(&stage, &path)?;
        Ok(stage)
    }

    fn write(&self, stage: &Stage, path: &Path) -> Result<()> {
        let of = |what: &str| match &self.values[..] {
            [_] => vec![what.to_owned()],
            names => names.iter().map(|name| format!("{what}_{name}")).collect(),
        };
        let n_values = self.values.len();
        let values = stage.mean.chunks(n_values).zip(stage.std.chunks(n_values));
        let mut rows = stage.x.chunks(self.names.len()).zip(values);
        out::table(path, |csv| {
            csv.write_record([self.names.clone(), of("mean"), of("std")].concat())?;
            rows.try_for_each(|(x, (mean, std))| csv.write_record(x.iter().chain(mean).chain(std).map(f64::to_string)))
        })
    }
}
