//! Measured points of a field: read from a file, or drawn.

use std::{f64::consts::TAU, path::Path};

use anyhow::{Result, anyhow, bail, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use shared::{
    lines::{Lines, cut},
    normal::{Normal, standard_normal},
    out,
};
use wgpu_attention::models::tnp_kr::{Context, Locations};

/// Points of a map, row-major `[n, 2]`, and what was measured there.
#[derive(Clone, Debug, Default)]
pub struct Field {
    /// Longitude and latitude as they were given.
    pub places: Vec<[f64; 2]>,
    pub values: Vec<f64>,
}

/// What is known, and what is asked.
#[derive(Clone, Debug, Default)]
pub struct Data {
    pub observed: Field,
    pub asked: Vec<[f64; 2]>,
}

impl Field {
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The points with these indices.
    pub fn pick(&self, indices: impl Iterator<Item = usize>) -> Self {
        let (places, values) = indices.map(|i| (self.places[i], self.values[i])).unzip();
        Self { places, values }
    }
}

/// Reads the columns `lon`, `lat`, `temperature` and `role` of a CSV file: `train` has a temperature,
/// `test` is to be predicted, and any other role is passed over.
pub fn read(path: &Path) -> Result<Data> {
    let name = path.display();
    let mut lines = Lines::open(path)?;
    let names = lines.header()?;
    let column = |wanted: &str| {
        let mut found = (0..names.len()).filter(|&i| names[i].eq_ignore_ascii_case(wanted));
        found.next().filter(|_| found.next().is_none()).ok_or_else(|| {
            let found = cut(&names.join(","));
            anyhow!("{name}: line 1: the first line must name the columns lon,lat,temperature,role, found {found:?}")
        })
    };
    let [lon, lat, temperature, role] = [column("lon")?, column("lat")?, column("temperature")?, column("role")?];
    let mut data = Data::default();
    while lines.advance()? {
        let cells = lines.cells(names.len())?;
        let number = |column: usize| {
            let place = || format!("{}, column {} ({})", lines.place(), column + 1, names[column]);
            cells[column].number().map_err(|why| anyhow!("{}: {why}", place()))
        };
        let is = |text: &str| cells[role].text().eq_ignore_ascii_case(text);
        let place = || -> Result<[f64; 2]> {
            let [lon, lat] = [number(lon)?, number(lat)?];
            let allowed = "-90 to 90 degrees; are the columns swapped?";
            ensure!(lat.abs() <= 90.0, "{}: the latitude is {lat}, allowed is {allowed}", lines.place());
            Ok([lon, lat])
        };
        if is("test") {
            data.asked.push(place()?);
        } else if is("train") {
            data.observed.places.push(place()?);
            data.observed.values.push(number(temperature)?);
        }
    }
    ensure!(data.observed.len() > 0, "{name}: no line has the role train");
    if let Some(absurd) = absurd(&data.observed.values) {
        bail!(
            "{name}: a temperature is {absurd}, a thousand times as far from the middle as most: is it a fill value?"
        );
    }
    Ok(data)
}

/// A value that is farther from the median than a thousand times the median of such distances.
fn absurd(values: &[f64]) -> Option<f64> {
    let median = |values: &mut Vec<f64>| {
        let half = values.len() / 2;
        *values.select_nth_unstable_by(half, f64::total_cmp).1
    };
    let middle = median(&mut values.to_vec());
    let usual = median(&mut values.iter().map(|value| (value - middle).abs()).collect());
    values.iter().copied().find(|value| usual > 0.0 && (value - middle).abs() > 1000.0 * usual)
}

/// A sum of waves of random directions and lengths: by the central limit theorem nearly a draw of a
/// Gaussian process, whose covariance the distribution of the lengths decides.
struct Waves {
    /// The wave vector and the phase of each.
    waves: Vec<[f64; 3]>,
}

impl Waves {
    /// Waves whose vectors are normal, or, if the field is rough, Cauchy: the spectrum of `exp(-d / length)`.
    fn draw(rng: &mut StdRng, n: usize, length: f64, is_rough: bool) -> Self {
        let mut wave = || {
            let [x, y, z] = [standard_normal(rng), standard_normal(rng), standard_normal(rng)];
            let scale = length * if is_rough { z.abs().max(1e-9) } else { 1.0 };
            [x / scale, y / scale, TAU * rng.random::<f64>()]
        };
        Self { waves: (0..n).map(|_| wave()).collect() }
    }

    /// Of variance 1.
    fn at(&self, [x, y]: [f64; 2]) -> f64 {
        let sum: f64 = self.waves.iter().map(|[u, v, phase]| (u * x + v * y + phase).cos()).sum();
        sum * (2.0 / self.waves.len() as f64).sqrt()
    }
}

/// Which of some places lie under clouds that cover a share of them.
pub fn clouds(places: &[[f64; 2]], seed: u64, share: f64) -> Vec<bool> {
    let extent = |d: usize| {
        let ends = places.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), p| (p[d].min(a), p[d].max(b)));
        ends.1 - ends.0
    };
    let mut rng = StdRng::seed_from_u64(seed);
    let length = 0.06 * extent(0).max(extent(1)).max(f64::MIN_POSITIVE);
    let waves = Waves::draw(&mut rng, 64, length, false);
    let height: Vec<f64> = places.iter().map(|&place| waves.at(place)).collect();
    let mut sorted = height.clone();
    sorted.sort_by(f64::total_cmp);
    let above = sorted.get(((1.0 - share) * sorted.len() as f64) as usize).copied().unwrap_or(f64::INFINITY);
    height.iter().map(|height| *height >= above).collect()
}

/// Pixels of the drawn field.
const SIZE: [usize; 2] = [500, 300];
/// The side of one, in degrees.
const PIXEL: f64 = 0.01;

/// A rough field on a slope, seen through holes in the clouds: about as many points as a scene of a
/// satellite.
pub fn draw(seed: u64) -> Result<Data> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (rough, smooth) =
        (Waves::draw(&mut rng, 600, 20.0 * PIXEL, true), Waves::draw(&mut rng, 100, 60.0 * PIXEL, false));
    let place = |i: usize| [PIXEL * (i % SIZE[0]) as f64 - 95.0, PIXEL * (i / SIZE[0]) as f64 + 34.0];
    let places: Vec<_> = (0..SIZE[0] * SIZE[1]).map(place).collect();
    let value = |at: [f64; 2]| 45.0 - 1.5 * (at[1] - 35.5) + 2.2 * rough.at(at) + 1.5 * smooth.at(at);
    let values = places.iter().map(|&at| value(at));
    let values = values.map(|value| value + 0.3 * standard_normal(&mut rng)).collect();
    let all = Field { places, values };
    let hidden = clouds(&all.places, seed.wrapping_add(1), 0.29);
    let asked = (0..all.len()).filter(|&i| hidden[i]).map(|i| all.places[i]).collect();
    let observed = all.pick((0..all.len()).filter(|&i| !hidden[i]));
    ensure!(observed.len() > 0, "nothing is observed");
    Ok(Data { observed, asked })
}

/// Both lists of places, so stretched that a degree is as long one way as the other in the middle.
fn straight(from: &[[f64; 2]], to: &[[f64; 2]]) -> (Vec<[f64; 2]>, Vec<[f64; 2]>) {
    let middle = from.iter().map(|place| place[1]).sum::<f64>() / from.len().max(1) as f64;
    let shrink = if middle.abs() <= 90.0 { middle.to_radians().cos() } else { 1.0 };
    let stretch = |places: &[[f64; 2]]| places.iter().map(|[lon, lat]| [lon * shrink, *lat]).collect();
    (stretch(from), stretch(to))
}

/// What a network is given: straight places, and the values.
pub struct Seen {
    pub from: Vec<[f64; 2]>,
    pub to: Vec<[f64; 2]>,
    values: Vec<f32>,
}

impl Seen {
    pub fn new(observed: &Field, asked: &[[f64; 2]]) -> Self {
        let (from, to) = straight(&observed.places, asked);
        Self { from, to, values: observed.values.iter().map(|&value| value as f32).collect() }
    }

    pub fn context(&self) -> Context<'_> {
        Context::new(Locations::space(2, self.from.as_flattened()), &self.values)
    }

    pub fn places(&self) -> Locations<'_> {
        Locations::space(2, self.to.as_flattened())
    }
}

/// Writes observations as [`read`] reads them.
pub fn write_observed(path: &Path, field: &Field) -> Result<()> {
    out::table(path, |csv| {
        csv.write_record(["lon", "lat", "temperature", "role"])?;
        let mut rows = field.places.iter().zip(&field.values);
        rows.try_for_each(|([lon, lat], value)| {
            csv.write_record([&lon.to_string(), &lat.to_string(), &value.to_string(), "train"])
        })
    })
}

/// Writes `lon,lat,mean,std` for each place.
pub fn write(path: &Path, places: &[[f64; 2]], predictions: &[Normal]) -> Result<()> {
    out::table(path, |csv| {
        csv.write_record(["lon", "lat", "mean", "std"])?;
        places.iter().zip(predictions).try_for_each(|([lon, lat], Normal { mean, std, .. })| {
            csv.write_record([lon.to_string(), lat.to_string(), format!("{mean:.5}"), format!("{std:.5}")])
        })
    })
}
