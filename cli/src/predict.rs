//! Predictions from CSV files.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use shared::{
    axis::plain,
    lines::{Lines, cut},
    out, say, warn,
};
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::{
        Output, Outside, Prediction,
        cmanp::{self, Cmanp},
        tnp_kr::{self, Local, Locations, TnpKr},
    },
};

/// What the command takes.
#[derive(clap::Args)]
pub struct Args {
    /// The trained network: a TNP-KR or a CMANP.
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// The observations: a CSV file with a header. Its columns are first the coordinates, in the order of
    /// the model, then the values; --columns chooses among them.
    #[arg(long, value_name = "FILE")]
    context: PathBuf,
    /// Where to predict: a CSV file with the same names for the coordinates; what else it has is left out.
    #[arg(long, value_name = "FILE")]
    targets: PathBuf,
    /// Where the predictions go: the coordinates, then mean, std, low and high of each value, or the probability of
    /// each class.
    #[arg(long, value_name = "FILE", default_value = "predictions.csv")]
    out: PathBuf,
    /// The columns of the observations: the coordinates, then the values [default: all of the file].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// The probability that lies between low and high.
    #[arg(long, value_name = "SHARE", default_value = "0.95", value_parser = share)]
    interval: f64,
    /// Predict each place from so many observations, the nearest (TNP-KR).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    nearest: Option<u32>,
    /// Scale the values to mean 0 and deviation 1 before the network sees them, and what it predicts back;
    /// with --nearest each neighbourhood, its coordinates too.
    #[arg(long)]
    standardise: bool,
    /// cpu, gpu, best, or a part of an adapter's name.
    #[arg(long, default_value = "best")]
    device: String,
}

/// The largest value that is read: what a network predicts of larger ones may be none that f32 holds.
const LARGEST: f64 = 1e38;

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number < 1.0 => Ok(number),
        _ => Err("a number between 0 and 1 is needed".into()),
    }
}

/// A table of numbers, row-major, and the names of its columns.
struct Table {
    names: Vec<String>,
    rows: Vec<Vec<f64>>,
}

impl Table {
    /// Lines that lack one of the numbers are passed over, and counted. `choose` turns the names of the file
    /// into the indices of the columns that are wanted.
    fn read(path: &Path, choose: impl FnOnce(&[String]) -> Result<Vec<usize>>) -> Result<Self> {
        let name = path.display();
        let mut lines = Lines::open(path)?;
        let header = lines.header()?;
        let columns = choose(&header).with_context(|| format!("{name}: line 1"))?;
        let (mut rows, mut n_missing) = (Vec::new(), 0);
        while lines.advance()? {
            let cells = lines.cells(header.len())?;
            let number = |&column: &usize| {
                let place = || format!("{}, column {} ({})", lines.place(), column + 1, header[column]);
                cells[column].optional().map_err(|why| anyhow!("{}: {why}", place()))
            };
            match columns.iter().map(number).collect::<Result<Option<Vec<_>>>>()? {
                Some(row) => rows.push(row),
                None => n_missing += 1,
            }
        }
        if n_missing > 0 {
            warn!("{name}: {n_missing} lines without a number passed over")?;
        }
        Ok(Self { names: columns.iter().map(|&column| header[column].clone()).collect(), rows })
    }

    /// Some columns, `[n_rows, n_columns]`.
    fn columns(&self, columns: std::ops::Range<usize>) -> Vec<f64> {
        self.rows.iter().flat_map(|row| &row[columns.clone()]).copied().collect()
    }
}

/// The indices of columns by their names.
fn by_name(header: &[String], wanted: &[String]) -> Result<Vec<usize>> {
    let index = |name: &String| {
        // As it is written; only if there is none such, whatever its case.
        let exact: Vec<usize> = (0..header.len()).filter(|&i| header[i] == name.trim()).collect();
        let alike = || (0..header.len()).filter(|&i| header[i].eq_ignore_ascii_case(name.trim())).collect();
        match if exact.is_empty() { alike() } else { exact }[..] {
            [index] => Ok(index),
            ref found => {
                let what = if found.is_empty() { "not there" } else { "twice" };
                bail!("the column {:?} is {what}; there are {:?}", cut(name), cut(&header.join(",")))
            }
        }
    };
    let found = wanted.iter().map(index).collect::<Result<Vec<usize>>>()?;
    if let Some(twice) = (1..found.len()).find(|&i| found[..i].contains(&found[i])) {
        bail!("the column {:?} is asked for twice", cut(&wanted[twice]));
    }
    Ok(found)
}

/// What is predicted, whatever the model.
enum Model {
    TnpKr(TnpKr),
    Cmanp(Cmanp),
}

impl Model {
    fn open(device: &Device, path: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        match checkpoint.metadata("model")? {
            "tnp_kr" => Ok(Self::TnpKr(TnpKr::from_checkpoint(device, &checkpoint)?)),
            "cmanp" => Ok(Self::Cmanp(Cmanp::from_checkpoint(device, &checkpoint)?)),
            other => bail!("{}: model {other:?} predicts no values; tnp_kr and cmanp do", path.display()),
        }
    }

    /// The name and the size of each coordinate group; nothing if the configuration leaves it to the data.
    fn groups(&self, n_columns: usize) -> Result<Vec<(String, usize)>> {
        match self {
            Self::Cmanp(model) => Ok(vec![("x".into(), model.config().dim_x)]),
            Self::TnpKr(model) => {
                let groups = &model.config().groups;
                let known: usize = groups.iter().filter_map(|group| group.dim).sum();
                let open = groups.iter().filter(|group| group.dim.is_none()).count();
                let rest = n_columns.saturating_sub(model.config().n_values + known);
                ensure!(
                    open <= 1 || open == rest,
                    "the model leaves the sizes of {open} coordinate groups to the data; the command knows one"
                );
                let size = |dim: Option<usize>| dim.unwrap_or(rest / open.max(1));
                Ok(groups.iter().map(|group| (group.name.clone(), size(group.dim))).collect())
            }
        }
    }

    fn n_values(&self) -> usize {
        match self {
            Self::TnpKr(model) => model.config().n_values,
            Self::Cmanp(model) => model.config().dim_y,
        }
    }

    fn output(&self) -> Output {
        match self {
            Self::TnpKr(model) => model.config().output,
            Self::Cmanp(model) => model.config().output(),
        }
    }
}

pub fn predict(args: &Args) -> Result<()> {
    out::file(&args.out)?;
    out::unless_read(&args.out, [&*args.checkpoint, &*args.context, &*args.targets])?;
    let device = Device::by_name(&args.device)?;
    let model = Model::open(&device, &args.checkpoint)?;
    ensure!(
        !args.standardise || model.output().has_units(),
        "--standardise: values of the {} output of {} have no units; those of Gaussian ones do",
        model.output().name(),
        args.checkpoint.display()
    );
    let context = Table::read(&args.context, |header| match &args.columns {
        Some(names) => by_name(header, names),
        None => by_name(header, header),
    })?;
    let groups = model.groups(context.names.len())?;
    let n_coordinates: usize = groups.iter().map(|(_, size)| size).sum();
    let wanted = n_coordinates + model.n_values();
    ensure!(
        context.names.len() == wanted && n_coordinates > 0,
        "{}: there are {} columns ({}), the model takes {wanted}: {} and {} value(s); --columns chooses",
        args.context.display(),
        context.names.len(),
        cut(&context.names.join(",")),
        groups.iter().map(|(name, size)| format!("{size} of {name}")).collect::<Vec<_>>().join(", "),
        model.n_values()
    );
    let targets = Table::read(&args.targets, |header| by_name(header, &context.names[..n_coordinates]))?;
    say!("device    {device}")?;
    say!("context   {} observations, {} places to predict", context.rows.len(), targets.rows.len())?;

    let values = context.columns(n_coordinates..wanted);
    // Of neighbourhoods, too: of large numbers f32 has too few digits to be scaled later.
    let scale = args.standardise.then(|| Scale::of(&values, model.n_values()));
    let large = values.iter().find(|y| y.abs() > LARGEST);
    if let Some(large) = large {
        bail!("{}: a value is {large:e}, allowed are numbers up to {LARGEST:e}", args.context.display());
    }
    let values: Vec<f32> = match &scale {
        Some(scale) => scale.scaled(&values),
        None => values.iter().map(|&y| y as f32).collect(),
    };
    let restored = |prediction: Prediction| match &scale {
        Some(Scale { units, levels }) => prediction.in_units(units, levels),
        None => Ok(prediction),
    };
    let mut first = 0;
    let mut columns = Vec::new();
    for (name, size) in groups {
        let range = first..first + size;
        columns.push((name, size, context.columns(range.clone()), targets.columns(range.clone())));
        first = range.end;
    }
    let mut rows: Vec<Vec<String>> = vec![Vec::new(); targets.rows.len()];
    let (mut outside, mut n_parts) = (Outside::default(), 0);
    let mut place = |places: &[usize], prediction: &Prediction| -> Result<()> {
        let numbers = numbers(prediction, args.interval)?;
        places.iter().zip(numbers).for_each(|(&place, numbers)| rows[place] = numbers);
        // Each part is a data set of its own.
        outside.departures.extend(prediction.outside().departures.iter().cloned().map(|mut departure| {
            departure.element = n_parts;
            departure
        }));
        n_parts += 1;
        Ok(())
    };
    let all: Vec<usize> = (0..targets.rows.len()).collect();
    match &model {
        Model::Cmanp(model) => {
            ensure!(args.nearest.is_none(), "--nearest is for TNP-KR; a CMANP reads any number of observations");
            let posterior = model.condition(&cmanp::Context::new(&columns[0].2, &values))?;
            place(&all, &restored(posterior.predict(&columns[0].3)?)?)?;
        }
        Model::TnpKr(model) => {
            let mut from = Locations::default();
            let mut to = Locations::default();
            for (name, size, context, targets) in &columns {
                (from, to) = (from.group(name, *size, context), to.group(name, *size, targets));
            }
            let context = tnp_kr::Context::new(from, &values);
            match args.nearest {
                Some(nearest) => {
                    let local = Local::nearest(nearest as usize).together(16);
                    let local = if args.standardise { local.standardise() } else { local };
                    let mut failed = None;
                    model.predict_local(&context, &to, &local, |part, prediction| {
                        failed = failed.take().or(place(&part.places, &restored(prediction)?).err());
                        Ok(())
                    })?;
                    failed.map_or(Ok(()), Err)?;
                }
                None => place(&all, &restored(model.condition(&context)?.predict(&to)?)?)?,
            }
        }
    }
    if !outside.is_empty() {
        warn!("outside of what the network was trained on: {outside}")?;
    }
    let header = header(&context.names, n_coordinates, model.output());
    out::table(&args.out, |csv| {
        csv.write_record(&header)?;
        let mut rows = targets.rows.iter().zip(rows);
        rows.try_for_each(|(at, row)| csv.write_record(at.iter().map(|&x| plain(x)).chain(row)))
    })?;
    say!("wrote {}", args.out.display())
}

/// Mean and deviation of each value.
struct Scale {
    levels: Vec<f64>,
    units: Vec<f64>,
}

impl Scale {
    fn of(values: &[f64], n_values: usize) -> Self {
        let n = (values.len() / n_values.max(1)).max(1) as f64;
        let moments = |c: usize| {
            let column = || values.iter().skip(c).step_by(n_values);
            // Of differences, for a sum of equal numbers is rounded, and they have no deviation.
            let first = values.get(c).copied().unwrap_or_default();
            let mean = first + column().map(|y| y - first).sum::<f64>() / n;
            let deviation = (column().map(|y| (y - mean).powi(2)).sum::<f64>() / n).sqrt();
            (mean, if deviation > 0.0 { deviation } else { 1.0 })
        };
        let (levels, units) = (0..n_values).map(moments).unzip();
        Self { levels, units }
    }

    fn scaled(&self, values: &[f64]) -> Vec<f32> {
        let n = self.levels.len().max(1);
        values.iter().enumerate().map(|(i, y)| ((y - self.levels[i % n]) / self.units[i % n]) as f32).collect()
    }
}

/// Mean, std, low and high of each value, for each point; classes have no order, so the probability alone.
fn numbers(prediction: &Prediction, share: f64) -> Result<Vec<Vec<String>>> {
    let n_values = prediction.shape()[2];
    let interval = match prediction.output() {
        Output::Categorical => None,
        _ => Some(prediction.interval(share)?),
    };
    // Of values with units in f64, for a mean in f32 may lie outside of its interval.
    let middle = if prediction.output().has_units() { Some(prediction.quantile(0.5)?) } else { None };
    let row = |point: usize| {
        let value = |i: usize| {
            let mean = middle.as_ref().map_or(f64::from(prediction.mean()[i]), |middle| middle[i]);
            let std = f64::from(prediction.std()[i]);
            match &interval {
                Some([low, high]) => vec![mean, std, low[i], high[i]],
                None => vec![mean],
            }
        };
        (point * n_values..(point + 1) * n_values).flat_map(value).map(plain).collect()
    };
    Ok((0..prediction.shape()[1]).map(row).collect())
}

/// The names of the coordinates, and of what [`numbers`] has of each value.
fn header(names: &[String], n_coordinates: usize, output: Output) -> Vec<String> {
    let (coordinates, values) = names.split_at(n_coordinates);
    let parts = match output {
        Output::Categorical => &["probability"][..],
        _ => &["mean", "std", "low", "high"],
    };
    let of_values = values.iter().flat_map(|value| parts.iter().map(move |part| format!("{value}_{part}")));
    coordinates.iter().cloned().chain(of_values).collect()
}
