//! Readings of stations, made up: a smooth course and a fast cycle, each of its own, and noise.

use std::{fs::File, path::Path, sync::Arc};

use datafusion::{
    arrow::{
        array::{ArrayRef, Float64Array, Int64Array, RecordBatch},
        compute::cast,
        datatypes::{DataType, Field, Schema},
    },
    error::{DataFusionError, Result},
    parquet::arrow::ArrowWriter,
};
use rayon::prelude::*;

/// The cycle that all stations have, in radians a unit of time.
pub const OMEGA: f64 = 44.0;

/// The engine's own floor: sums over the same columns.
pub const FLOOR: &str = "SELECT station, avg(y), stddev(y), avg(t), stddev(t) FROM readings GROUP BY station";

/// Rows written at once.
const ROWS: usize = 1 << 18;

pub struct Reading {
    pub station: i64,
    pub t: f64,
    pub y: f64,
}

impl Reading {
    /// The model's coordinates.
    pub fn x(&self) -> [f64; 3] {
        let (sin, cos) = (OMEGA * self.t).sin_cos();
        [self.t, cos, sin]
    }
}

/// Scrambles an integer: reading `i` is the same of any run.
fn scrambled(i: u64) -> u64 {
    let mut x = i.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// In `0..1`.
fn uniform(i: u64) -> f64 {
    (scrambled(i) >> 11) as f64 / (1u64 << 53) as f64
}

/// Reading `i`: its station, moment and value are of no order.
pub fn reading(i: usize, stations: usize) -> Reading {
    let i = i as u64;
    let station = scrambled(3 * i) % stations as u64;
    let t = 4.0 * uniform(3 * i + 1) - 2.0;
    let [a, b, c] = [1, 2, 3].map(|k| std::f64::consts::TAU * uniform((1 << 60) + 3 * station + k));
    // The sum of four is close enough to a normal distribution.
    let noise = (0..4).map(|k| uniform((1 << 61) + 4 * i + k)).sum::<f64>() - 2.0;
    let y = (1.3 * t + a).sin() + 0.4 * (2.9 * t + b).sin() + 0.5 * (OMEGA * t + c).cos() + 0.3 * noise;
    Reading { station: station as i64, t, y }
}

/// Writes readings as Parquet, their numbers of a type of floats.
pub fn write(path: &Path, rows: usize, stations: usize, float: &DataType) -> Result<()> {
    let field = |name, data_type| Field::new(name, data_type, false);
    let numbers = ["y", "t", "c", "s"].map(|name| field(name, float.clone()));
    let fields = std::iter::once(field("station", DataType::Int64)).chain(numbers);
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let refused = |error| DataFusionError::ParquetError(Box::new(error));
    let mut writer = ArrowWriter::try_new(File::create(path)?, schema.clone(), None).map_err(refused)?;
    for first in (0..rows).step_by(ROWS) {
        let readings: Vec<_> = (first..rows.min(first + ROWS)).into_par_iter().map(|i| reading(i, stations)).collect();
        let number = |of: &dyn Fn(&Reading) -> f64| -> Result<ArrayRef> {
            Ok(cast(&readings.iter().map(|reading| Some(of(reading))).collect::<Float64Array>(), float)?)
        };
        let stations: Int64Array = readings.iter().map(|reading| Some(reading.station)).collect();
        let columns = vec![
            Arc::new(stations) as ArrayRef,
            number(&|reading| reading.y)?,
            number(&|reading| reading.t)?,
            number(&|reading| reading.x()[1])?,
            number(&|reading| reading.x()[2])?,
        ];
        writer.write(&RecordBatch::try_new(schema.clone(), columns)?).map_err(refused)?;
    }
    writer.close().map_err(refused)?;
    Ok(())
}
