//! What a posterior for each of many groups costs in the engine, beside what it costs without.
//!
//!     cargo build --release -p wgpu-attention-datafusion --example rows
//!     target/release/examples/rows write --rows 100000000 --stations 10000 --file rows.parquet
//!     target/release/examples/rows floor --file rows.parquet      # avg and stddev, in the engine
//!     target/release/examples/rows posteriors --file rows.parquet # the same query with our function
//!     target/release/examples/rows library --file rows.parquet    # no engine: the same file, by hand
//!     target/release/examples/rows blocks                         # updates alone, of one group after the other
//!
//! Each is a process of its own, for its peak of memory is the process's. `--rounded` has rounded sums,
//! `--whole` makes all rows one group, `--explain` says where the engine's time goes.

#[path = "shared/readings.rs"]
mod readings;

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, Float64Array},
        compute::cast,
        datatypes::{DataType, Float64Type, Int64Type},
        util::pretty::pretty_format_batches,
    },
    error::{DataFusionError, Result},
    parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
    prelude::{ParquetReadOptions, SessionConfig, SessionContext},
};
use futures::StreamExt as _;
use rayon::prelude::*;
use wgpu_attention::{
    Device,
    models::cmanp::{Cmanp, Context, Posterior},
};
use wgpu_attention_datafusion::Functions;

const HELP: &str = "write, floor, posteriors, library or blocks, then --rows N (1000000), --stations N (1000), --file FILE \
                    (out/rows.parquet), --partitions N (2), --rounded, --whole, --explain";

const CHECKPOINT: &str = "checkpoints/cmanp_gp_1d.safetensors";

/// Rows that a group collects before they are read, as in the engine.
const BLOCK: usize = 512;

/// Where all rows are one group.
const WHOLE: &str = "SELECT cmanp_condition(y, t, c, s) FROM readings";

struct Args {
    what: String,
    rows: usize,
    stations: usize,
    file: PathBuf,
    partitions: usize,
    rounded: bool,
    whole: bool,
    explain: bool,
}

fn args() -> Result<Args> {
    let mut given = std::env::args().skip(1);
    let mut args = Args {
        what: given.next().unwrap_or_default(),
        rows: 1_000_000,
        stations: 1000,
        file: "out/rows.parquet".into(),
        partitions: 2,
        rounded: false,
        whole: false,
        explain: false,
    };
    while let Some(option) = given.next() {
        let mut value = || given.next().ok_or_else(|| refused(format!("{option} needs a value; allowed are {HELP}")));
        let mut number = || {
            let value = value()?;
            let number = value.parse().ok().filter(|n| *n > 0);
            number.ok_or_else(|| refused(format!("{option} is {value}, allowed are {HELP}")))
        };
        match option.as_str() {
            "--rows" => args.rows = number()?,
            "--stations" => args.stations = number()?,
            "--partitions" => args.partitions = number()?,
            "--file" => args.file = value()?.into(),
            "--rounded" => args.rounded = true,
            "--whole" => args.whole = true,
            "--explain" => args.explain = true,
            _ => return Err(refused(format!("{option} is no option, allowed are {HELP}"))),
        }
    }
    Ok(args)
}

fn refused(error: impl ToString) -> DataFusionError {
    DataFusionError::Plan(error.to_string())
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = args()?;
    match args.what.as_str() {
        "write" => {
            let started = Instant::now();
            if let Some(folder) = args.file.parent() {
                std::fs::create_dir_all(folder)?;
            }
            readings::write(&args.file, args.rows, args.stations, &DataType::Float32)?;
            let bytes = std::fs::metadata(&args.file)?.len();
            println!(
                "wrote {} rows of {} stations, {bytes} bytes, in {:.1?}",
                args.rows,
                args.stations,
                started.elapsed()
            );
        }
        "floor" => query(&args, readings::FLOOR).await?,
        "posteriors" if args.whole => query(&args, WHOLE).await?,
        "posteriors" => query(&args, include_str!("station_posteriors/posteriors.sql")).await?,
        "library" => library(&args)?,
        "blocks" => blocks(&args)?,
        _ => return Err(refused(format!("{:?} is nothing to measure, allowed are {HELP}", args.what))),
    }
    if let (Some(seconds), Some(bytes)) = (processor_seconds(), resident()) {
        println!("processor time {seconds:.1} s, resident {:.0} MB at most", bytes as f64 / 1e6);
    }
    Ok(())
}

/// Runs a query, and drops what it returns.
async fn query(args: &Args, sql: &str) -> Result<()> {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(args.partitions));
    let functions = Functions::open(CHECKPOINT)?;
    let functions = if args.rounded { functions.rounded() } else { functions };
    functions.register(&context);
    context.register_parquet("readings", &args.file.display().to_string(), ParquetReadOptions::default()).await?;
    let n_rows = n_rows(&args.file)?;
    let started = Instant::now();
    if args.explain {
        let plan = context.sql(&format!("EXPLAIN ANALYZE {sql}")).await?.collect().await?;
        println!("{}", pretty_format_batches(&plan)?);
        return Ok(());
    }
    let mut answer = context.sql(sql).await?.execute_stream().await?;
    let mut n_groups = 0;
    while let Some(batch) = answer.next().await {
        n_groups += batch?.num_rows();
    }
    let took = started.elapsed().as_secs_f64();
    println!("{} {:.0} rows/s: {n_rows} rows, {n_groups} groups in {took:.1} s", args.what, n_rows as f64 / took);
    Ok(())
}

fn n_rows(file: &Path) -> Result<usize> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(file)?).map_err(refused)?;
    Ok(builder.metadata().file_metadata().num_rows() as usize)
}

fn model(args: &Args) -> Result<Cmanp> {
    let model = Cmanp::open(&Device::cpu(), CHECKPOINT).map_err(refused)?;
    if args.rounded { Ok(model) } else { model.exact().map_err(refused) }
}

/// One group of the table, by hand.
#[derive(Default)]
struct Group {
    x: Vec<f64>,
    y: Vec<f32>,
    posterior: Option<Posterior>,
}

impl Group {
    fn read(&mut self, model: &Cmanp) -> Result<()> {
        let context = Context::new(&self.x, &self.y);
        let read = match &self.posterior {
            _ if self.y.is_empty() => return Ok(()),
            Some(posterior) => posterior.update(&context),
            None => model.condition(&context),
        };
        self.posterior = Some(read.map_err(refused)?);
        self.x.clear();
        self.y.clear();
        Ok(())
    }
}

/// The file without the engine: a part of its row groups for each thread, its rows put to their groups in memory.
fn library(args: &Args) -> Result<()> {
    let model = model(args)?;
    let n_rows = n_rows(&args.file)?;
    let started = Instant::now();
    let parts: Vec<_> =
        (0..args.partitions).into_par_iter().map(|part| part_of_file(args, &model, part)).collect::<Result<_>>()?;
    let updates: f64 = parts.iter().map(|(_, updates)| updates.as_secs_f64()).sum::<f64>() / parts.len() as f64;
    let read = started.elapsed().as_secs_f64();
    let mut all: HashMap<i64, Vec<Posterior>> = HashMap::new();
    for (station, posterior) in parts.into_iter().flat_map(|(groups, _)| groups) {
        all.entry(station).or_default().push(posterior);
    }
    let n_groups = all.len();
    all.into_par_iter().try_for_each(|(_, parts)| {
        let mut parts = parts.into_iter();
        let first = parts.next().ok_or_else(|| refused("a group without a posterior"))?;
        parts.try_fold(first, |all, part| all.merge(&part)).map(drop).map_err(refused)
    })?;
    let took = started.elapsed().as_secs_f64();
    println!(
        "library {:.0} rows/s: {n_rows} rows, {n_groups} groups in {took:.1} s, of which updates {updates:.1} s \
         ({:.0} rows/s), reading and grouping {:.1} s, merges {:.1} s",
        n_rows as f64 / took,
        n_rows as f64 / updates,
        read - updates,
        took - read
    );
    Ok(())
}

/// The posteriors of every so many row groups, and how long the updates took.
fn part_of_file(args: &Args, model: &Cmanp, part: usize) -> Result<(Vec<(i64, Posterior)>, Duration)> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(&args.file)?).map_err(refused)?;
    let n = builder.metadata().num_row_groups();
    let reader = builder.with_row_groups((part..n).step_by(args.partitions).collect()).with_batch_size(8192);
    let (mut groups, mut updates) = (HashMap::<i64, Group>::new(), Duration::ZERO);
    for batch in reader.build().map_err(refused)? {
        let batch = batch?;
        let number = |i: usize| -> Result<ArrayRef> { Ok(cast(batch.column(i), &DataType::Float64)?) };
        let columns = [number(1)?, number(2)?, number(3)?, number(4)?];
        let [y, t, c, s]: [&Float64Array; 4] = std::array::from_fn(|i| columns[i].as_primitive::<Float64Type>());
        for (i, station) in batch.column(0).as_primitive::<Int64Type>().values().iter().enumerate() {
            let group = groups.entry(if args.whole { 0 } else { *station }).or_default();
            group.x.extend([t.value(i), c.value(i), s.value(i)]);
            group.y.push(y.value(i) as f32);
            if group.y.len() >= BLOCK {
                let started = Instant::now();
                group.read(model)?;
                updates += started.elapsed();
            }
        }
    }
    let started = Instant::now();
    groups.values_mut().try_for_each(|group| group.read(model))?;
    updates += started.elapsed();
    Ok((groups.into_iter().filter_map(|(station, group)| Some((station, group.posterior?))).collect(), updates))
}

/// Updates alone: a group after the other for each thread, so that its posterior stays in the processor's memory.
fn blocks(args: &Args) -> Result<()> {
    let model = model(args)?;
    let rows: Vec<_> = (0..BLOCK).map(|i| readings::reading(i, 1)).collect();
    let x: Vec<f64> = rows.iter().flat_map(|row| row.x()).collect();
    let y: Vec<f32> = rows.iter().map(|row| row.y as f32).collect();
    let (threads, of_group) = (args.partitions, (args.rows / args.stations / BLOCK).max(1));
    let n = threads * args.stations.div_ceil(threads) * of_group * BLOCK;
    let started = Instant::now();
    (0..threads)
        .into_par_iter()
        .try_for_each(|_| {
            (0..args.stations.div_ceil(threads)).try_for_each(|_| {
                let first = model.condition(&Context::new(&x, &y))?;
                (1..of_group).try_fold(first, |posterior, _| posterior.update(&Context::new(&x, &y))).map(drop)
            })
        })
        .map_err(|error: wgpu_attention::Error| refused(error))?;
    let took = started.elapsed().as_secs_f64();
    println!("blocks {:.0} rows/s: {n} rows, {} groups in {took:.1} s", n as f64 / took, args.stations);
    Ok(())
}

/// What all threads have had of the processors, whatever else ran on them, where the system says so.
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may have spaces. Ticks are hundredths on Linux.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<f64>().ok()?, fields.next()?.parse::<f64>().ok()?);
    Some((user + system) / 100.0)
}

/// The most memory that this process has had, where the system says so.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
