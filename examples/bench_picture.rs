//! Draws what criterion measured: time over size, both logarithmic, a line for each function.
//!
//!     cargo bench --bench linear_attention
//!     cargo run --example bench_picture -- --group attention --out docs/attention.svg

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use plotters::prelude::*;
use shared::{out, say};

/// Draws a group of criterion's results, which `cargo bench` leaves in target/criterion.
///
/// Run it in the root of the repository.
#[derive(Parser)]
struct Args {
    /// The group, as the bench names it.
    #[arg(long)]
    group: String,
    /// The picture.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Only functions whose name begins so; that much is cut off in the legend.
    #[arg(long, default_value = "cpu, ")]
    prefix: String,
    /// What stands over the picture.
    #[arg(long, default_value = "")]
    title: String,
    /// Where criterion keeps its results.
    #[arg(long, value_name = "DIR", default_value = "target/criterion")]
    results: PathBuf,
}

/// Size and time in milliseconds, by the name of the function.
type Lines = BTreeMap<String, Vec<(f64, f64)>>;

fn main() -> Result<()> {
    let args = Args::parse();
    out::file(&args.out)?;
    let mut lines = Lines::new();
    collect(&args.results, &args, &mut lines)?;
    ensure!(!lines.is_empty(), "no results of group {:?} in {}", args.group, args.results.display());
    for (name, line) in &mut lines {
        line.sort_by(|a, b| a.0.total_cmp(&b.0));
        let times: Vec<_> = line.iter().map(|(size, ms)| format!("{size}: {ms:.3} ms")).collect();
        say!("{name:<24} {}", times.join(", "))?;
    }
    draw(&args, &lines).with_context(|| format!("cannot draw {}", args.out.display()))?;
    say!("wrote {}", args.out.display())?;
    Ok(())
}

/// Every `new/estimates.json` below a folder.
fn collect(folder: &Path, args: &Args, lines: &mut Lines) -> Result<()> {
    let read = |path: &Path| -> Result<serde_json::Value> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_str(&text)?)
    };
    let estimates = folder.join("new/estimates.json");
    if estimates.is_file() {
        let benchmark = read(&folder.join("new/benchmark.json"))?;
        let text = |name: &str| benchmark[name].as_str().unwrap_or_default().to_owned();
        let function = text("function_id");
        if text("group_id") == args.group
            && let Some(name) = function.strip_prefix(&args.prefix)
            && let (Ok(size), Some(ns)) =
                (text("value_str").parse(), read(&estimates)?["median"]["point_estimate"].as_f64())
        {
            lines.entry(name.to_owned()).or_default().push((size, ns * 1e-6));
        }
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, args, lines)?;
        }
    }
    Ok(())
}

fn draw(args: &Args, lines: &Lines) -> Result<()> {
    let points = || lines.values().flatten();
    let range = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) = points().map(of).fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
        0.8 * low..1.25 * high
    };
    let root = SVGBackend::new(&args.out, (760, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(&args.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(72)
        .build_cartesian_2d(range(|p| p.0).log_scale(), range(|p| p.1).log_scale())?;
    let label = |x: &f64| if *x >= 1.0 { format!("{x:.0}") } else { format!("{x}") };
    chart
        .configure_mesh()
        .x_desc("length")
        .y_desc("milliseconds")
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .light_line_style(WHITE)
        .draw()?;
    for (i, (name, line)) in lines.iter().enumerate() {
        let color =
            [RGBColor(31, 90, 166), RGBColor(200, 80, 30), RGBColor(40, 130, 70), RGBColor(120, 60, 140)][i % 4];
        let style = color.stroke_width(2);
        chart
            .draw_series(LineSeries::new(line.iter().copied(), style).point_size(3))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}
