//! A posterior for each of many stations, out of one table of readings, in SQL.
//!
//!     cargo run --release -p wgpu-attention-datafusion --example station_posteriors
//!     cargo run --release -p wgpu-attention-datafusion --example station_posteriors -- --rows 10000000 --stations 10000
//!
//! Writes readings as Parquet, makes the posteriors, joins predictions back, draws four of the stations, and
//! says how long that took beside an average and beside the library without an engine.

mod picture;
#[path = "../shared/readings.rs"]
mod readings;

use std::{path::PathBuf, time::Instant};

use datafusion::{
    arrow::{
        array::{AsArray, RecordBatch},
        datatypes::{DataType, Float64Type, Int64Type},
    },
    error::{DataFusionError, Result},
    prelude::{ParquetReadOptions, SessionConfig, SessionContext},
};
use rayon::prelude::*;
use wgpu_attention::{
    Device,
    models::cmanp::{Cmanp, Context},
};
use wgpu_attention_datafusion::Functions;

const HELP: &str = "--rows N (1000000), --stations N (1000), --partitions N (those of the engine), --file FILE \
                    (out/readings.parquet), --out DIR (out), --rounded, --checkpoint FILE";

/// What is drawn.
const DRAWN: [i64; 4] = [0, 1, 2, 3];

struct Args {
    rows: usize,
    stations: usize,
    partitions: Option<usize>,
    file: Option<PathBuf>,
    out: PathBuf,
    checkpoint: PathBuf,
    rounded: bool,
}

fn args() -> Result<Args> {
    let mut args = Args {
        rows: 1_000_000,
        stations: 1000,
        partitions: None,
        file: None,
        out: "out".into(),
        checkpoint: "checkpoints/cmanp_gp_1d.safetensors".into(),
        rounded: false,
    };
    let refused = |what: &str| DataFusionError::Plan(format!("{what}; the options are {HELP}"));
    let mut given = std::env::args().skip(1);
    while let Some(option) = given.next() {
        if option == "--rounded" {
            args.rounded = true;
            continue;
        }
        let value = given.next().ok_or_else(|| refused(&format!("{option} needs a value")))?;
        let number = || value.parse().ok().filter(|n| *n > 0).ok_or_else(|| refused(&format!("{option} is {value}")));
        match option.as_str() {
            "--rows" => args.rows = number()?,
            "--stations" => args.stations = number()?,
            "--partitions" => args.partitions = Some(number()?),
            "--file" => args.file = Some(value.into()),
            "--out" => args.out = value.into(),
            "--checkpoint" => args.checkpoint = value.into(),
            _ => return Err(refused(&format!("{option} is no option"))),
        }
    }
    Ok(args)
}

/// The job, the same on one machine and on many.
const POSTERIORS: &str = include_str!("posteriors.sql");

#[tokio::main]
async fn main() -> Result<()> {
    let args = args()?;
    std::fs::create_dir_all(&args.out)?;
    let file = args.file.clone().unwrap_or_else(|| args.out.join("readings.parquet"));
    if args.file.is_none() || !file.exists() {
        let started = Instant::now();
        readings::write(&file, args.rows, args.stations, &DataType::Float64)?;
        println!("wrote     {} rows of {} stations in {:.1?}", args.rows, args.stations, started.elapsed());
    }
    let mut config = SessionConfig::new();
    if let Some(n) = args.partitions {
        config = config.with_target_partitions(n);
    }
    let context = SessionContext::new_with_config(config);
    let functions = Functions::open(&args.checkpoint)?;
    let functions = if args.rounded { functions.rounded() } else { functions };
    functions.register(&context);
    context.register_parquet("readings", &file.display().to_string(), ParquetReadOptions::default()).await?;

    let floor = timed("avg, stddev", &context, readings::FLOOR, args.rows).await?;
    let ours = timed("posteriors", &context, POSTERIORS, args.rows).await?;
    let alone = library(&args)?;
    println!("library   {:.0} rows/s without the engine", 1.0 / alone);
    println!("ratio     {:.1} to avg and stddev, {:.2} to the library", ours / floor, ours / alone);

    let started = Instant::now();
    context.sql(&format!("CREATE TABLE posteriors AS {POSTERIORS}")).await?.collect().await?;
    let took = started.elapsed();
    let stored = context.sql("SELECT posterior FROM posteriors").await?.collect().await?;
    let lengths = stored.iter().flat_map(|batch| batch.column(0).as_binary_view().lengths());
    println!("stored    {:.1} MB of posteriors in {took:.1?}", lengths.map(f64::from).sum::<f64>() / 1e6);
    let stations = DRAWN.map(|station| station.to_string()).join(", ");
    let sql = format!(
        "SELECT station, t, p.mean, p.std FROM (SELECT station, t, cmanp_predict(posterior, t, cos({omega} * t), \
         sin({omega} * t)) AS p FROM posteriors CROSS JOIN (SELECT value / 100.0 - 2.0 AS t FROM generate_series(0, 400)) \
         WHERE station IN ({stations})) ORDER BY station, t",
        omega = readings::OMEGA
    );
    let started = Instant::now();
    let predicted = context.sql(&sql).await?.collect().await?;
    let observed = format!("SELECT station, t, y FROM readings WHERE station IN ({stations}) LIMIT 2000");
    let observed = context.sql(&observed).await?.collect().await?;
    let picture = args.out.join("station_posteriors.svg");
    picture::draw(&picture, &DRAWN, &columns(&predicted), &columns(&observed))?;
    println!("predicted and drew {} in {:.1?}", picture.display(), started.elapsed());
    if let Some(bytes) = resident() {
        println!("resident  {:.0} MB at most", bytes as f64 / 1e6);
    }
    Ok(())
}

/// Runs a query, and says how long it took; seconds a row.
async fn timed(what: &str, context: &SessionContext, sql: &str, n: usize) -> Result<f64> {
    let started = Instant::now();
    let table = context.sql(sql).await?;
    let mut stream = table.execute_stream().await?;
    let mut n_groups = 0;
    use futures::StreamExt as _;
    while let Some(batch) = stream.next().await {
        n_groups += batch?.num_rows();
    }
    let took = started.elapsed().as_secs_f64();
    println!("{what:9} {:.0} rows/s, {took:.1} s, {n_groups} groups", n as f64 / took);
    Ok(took / n as f64)
}

/// Seconds a row of the library by itself: blocks as the engine's groups have them, a group for each thread.
fn library(args: &Args) -> Result<f64> {
    let refused = |error: wgpu_attention::Error| DataFusionError::External(Box::new(error));
    let model = Cmanp::open(&Device::cpu(), &args.checkpoint).map_err(refused)?;
    let model = if args.rounded { model } else { model.exact().map_err(refused)? };
    let n = 512;
    let rows: Vec<readings::Reading> = (0..n).map(|i| readings::reading(i, 1)).collect();
    let x: Vec<f64> = rows.iter().flat_map(|row| row.x()).collect();
    let y: Vec<f32> = rows.iter().map(|row| row.y as f32).collect();
    let (threads, times) = (rayon::current_num_threads(), 200);
    let started = Instant::now();
    (0..threads)
        .into_par_iter()
        .map(|_| {
            let first = model.condition(&Context::new(&x, &y))?;
            (1..times).try_fold(first, |posterior, _| posterior.update(&Context::new(&x, &y)))
        })
        .collect::<wgpu_attention::Result<Vec<_>>>()
        .map_err(refused)?;
    Ok(started.elapsed().as_secs_f64() / (threads * times * n) as f64)
}

/// Rows of a station and numbers.
fn columns(batches: &[RecordBatch]) -> Vec<(i64, Vec<f64>)> {
    let of = |batch: &RecordBatch| {
        let stations = batch.column(0).as_primitive::<Int64Type>().clone();
        let numbers: Vec<_> = batch.columns()[1..].iter().map(|c| c.as_primitive::<Float64Type>().clone()).collect();
        let row = move |i: usize| (stations.value(i), numbers.iter().map(|c| c.value(i)).collect());
        (0..batch.num_rows()).map(row).collect::<Vec<_>>()
    };
    batches.iter().flat_map(of).collect()
}

/// The most memory that this process has had, where the system says so.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
