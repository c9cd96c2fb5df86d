//! A scheduler, an executor or a query, each a process: what `run.sh` and `kill-test.sh` start.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Instant};

use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::{cluster::BallistaCluster, config::SchedulerConfig, scheduler_process::start_server};
use clap::{Args, Parser, Subcommand};
use datafusion::{
    arrow::{
        array::RecordBatch,
        compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch},
        datatypes::{Field, Schema},
        ipc::writer::FileWriter,
    },
    prelude::{ParquetReadOptions, SessionConfig, SessionContext},
};
use wgpu_attention_datafusion::Functions;

type Error = Box<dyn std::error::Error>;

/// The query of the example of embedded DataFusion.
const SQL: &str = include_str!("../../datafusion/examples/station_posteriors/posteriors.sql");

/// How a query ends whose answer is not that of the file.
const ANOTHER_ANSWER: u8 = 3;

#[derive(Parser)]
struct Cli {
    /// The checkpoint of the functions, the same on all machines.
    #[arg(long, default_value = "checkpoints/cmanp_gp_1d.safetensors")]
    checkpoint: PathBuf,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Cuts queries into tasks and gives them to executors.
    Scheduler {
        #[arg(long, default_value = "127.0.0.1:50050")]
        bind: SocketAddr,
        /// With how many executors it says at `/readyz` that it is ready.
        #[arg(long, default_value_t = 2)]
        executors: usize,
    },
    /// Runs tasks.
    Executor {
        #[arg(long, default_value = "127.0.0.1:50050")]
        scheduler: SocketAddr,
        /// The port of its results; that of its tasks is the next one.
        #[arg(long, default_value_t = 50051)]
        port: u16,
        /// Where its results are, until they have been read.
        #[arg(long)]
        work_dir: PathBuf,
        /// Partitions that it works on at once.
        #[arg(long, default_value_t = 1)]
        vcores: usize,
    },
    /// Asks a query of a table `readings`, writes the answer or compares it.
    Query(Query),
}

#[derive(Args)]
struct Query {
    /// The cluster's scheduler, `http://host:port`. Without it this process answers.
    #[arg(long)]
    scheduler: Option<String>,
    /// The table, as Parquet.
    #[arg(long)]
    file: PathBuf,
    #[arg(long, default_value = SQL)]
    sql: String,
    #[arg(long, default_value_t = 4)]
    partitions: usize,
    /// Where to write the answer.
    #[arg(long)]
    write: Option<PathBuf>,
    /// An answer that was written, to which this one has to be equal, bit for bit.
    #[arg(long)]
    compare: Option<PathBuf>,
}

fn main() -> ExitCode {
    env_logger::init();
    let cli = Cli::parse();
    // Planning calls itself deeper than the two megabytes that threads have.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(32 << 20).build();
    let done = runtime.map_err(Error::from).and_then(|runtime| runtime.block_on(run(cli)));
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

async fn run(cli: Cli) -> Result<ExitCode, Error> {
    let functions = Functions::open(&cli.checkpoint)?;
    match cli.role {
        Role::Scheduler { bind, executors } => {
            let config = SchedulerConfig {
                bind_host: bind.ip().to_string(),
                external_host: bind.ip().to_string(),
                bind_port: bind.port(),
                min_ready_executors: executors,
                ..wgpu_attention_ballista::scheduler(&functions)
            };
            let cluster = BallistaCluster::new_from_config(&config).await?;
            start_server(cluster, bind, Arc::new(config)).await?;
        }
        Role::Executor { scheduler, port, work_dir, vcores } => {
            std::fs::create_dir_all(&work_dir)?;
            let config = ExecutorProcessConfig {
                external_host: Some("127.0.0.1".into()),
                port,
                grpc_port: port + 1,
                scheduler_host: scheduler.ip().to_string(),
                scheduler_port: scheduler.port(),
                scheduler_connect_timeout_seconds: 30,
                work_dir: Some(work_dir.display().to_string()),
                vcores,
                ..wgpu_attention_ballista::executor(&functions)
            };
            start_executor_process(Arc::new(config)).await?;
        }
        Role::Query(query) => return ask(&functions, &query).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(functions: &Functions, query: &Query) -> Result<ExitCode, Error> {
    let context = match &query.scheduler {
        Some(scheduler) => wgpu_attention_ballista::session(scheduler, functions, query.partitions).await?,
        None => {
            let config = SessionConfig::new()
                .with_target_partitions(query.partitions)
                .set_bool("datafusion.optimizer.expand_views_at_output", true);
            let context = SessionContext::new_with_config(config);
            functions.register(&context);
            context
        }
    };
    let file = std::path::absolute(&query.file)?.display().to_string();
    context.register_parquet("readings", &file, ParquetReadOptions::default()).await?;
    let started = Instant::now();
    let answer = context.sql(&query.sql).await?.collect().await?;
    let took = started.elapsed();
    let (n_rows, bytes) = sorted(&answer)?;
    let place = query.scheduler.as_deref().map_or("this process".into(), |url| format!("the cluster of {url}"));
    print!("{place}, {} partitions: {n_rows} rows, {:.1} MB in {took:.1?}", query.partitions, bytes.len() as f64 / 1e6);
    if let Some(path) = &query.write {
        std::fs::write(path, &bytes)?;
    }
    let Some(path) = &query.compare else {
        println!();
        return Ok(ExitCode::SUCCESS);
    };
    let is_same = std::fs::read(path)? == bytes;
    println!(", {}", if is_same { "equal to the bit" } else { "NOT the answer that was written" });
    Ok(if is_same { ExitCode::SUCCESS } else { ANOTHER_ANSWER.into() })
}

/// All rows, in the order of their numbers: a table without an order has any. As bytes of an Arrow file.
fn sorted(answer: &[RecordBatch]) -> Result<(usize, Vec<u8>), Error> {
    let first = answer.first().ok_or("the query has no answer")?;
    let all = concat_batches(&first.schema(), answer)?;
    let numbers = all.columns().iter().filter(|column| column.data_type().is_primitive());
    let keys: Vec<SortColumn> = numbers.map(|values| SortColumn { values: values.clone(), options: None }).collect();
    let all = if keys.is_empty() { all } else { take_record_batch(&all, &lexsort_to_indices(&keys, None)?)? };
    // Which columns may be NULL is what a plan thinks, and no part of the answer.
    let schema = all.schema();
    let fields = schema.fields().iter().map(|field| Field::new(field.name(), field.data_type().clone(), true));
    let all = RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), all.columns().to_vec())?;
    let mut writer = FileWriter::try_new(Vec::new(), &all.schema())?;
    writer.write(&all)?;
    Ok((all.num_rows(), writer.into_inner()?))
}
