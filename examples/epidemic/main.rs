//! Forecasts an epidemic that was observed at some places on some days: the probability that each place is
//! susceptible, infected or recovered, on each of the next ten days.
//!
//!     cargo run --release --example epidemic
//!
//! Draws epidemics on a lattice that the network has not seen, shows it a part of the last two weeks, and
//! scores what it says of the days to come beside persistence: the state of the nearest observation, with the
//! odds that it had in 200 other epidemics. Writes `forecast.csv` and `epidemic.svg`, of the first one.

mod persistence;
mod sir;
mod strip;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use shared::{out, say};
use wgpu_attention::{
    Device,
    models::{
        Output,
        tnp_kr::{Context, Locations, TnpKr},
    },
};

use persistence::{Persistence, last_seen};
use sir::{AHEAD, BACK, Epidemic, PLACES, Spot, State};
use strip::Panel;

/// Forecasts epidemics on a lattice, which it draws; reads no data.
#[derive(Parser)]
struct Args {
    /// The trained network.
    #[arg(long, value_name = "FILE", default_value = "checkpoints/epidemic.safetensors")]
    checkpoint: PathBuf,
    /// cpu, gpu, best, or a part of an adapter's name.
    #[arg(long, default_value = "best")]
    device: String,
    /// Where the results go.
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// How many epidemics are scored.
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u16).range(2..=1000))]
    epidemics: u16,
    /// Observations of each: a place on a day; the network was trained on 16 to 256.
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u16).range(1..=2048))]
    observations: u16,
    /// How many of the last 14 days they are spread over.
    #[arg(long, value_name = "N", default_value = "7", value_parser = clap::value_parser!(u8).range(1..=BACK as i64))]
    days: u8,
    /// Chooses the epidemics and what is observed.
    #[arg(long, default_value = "0")]
    seed: u64,
}

/// Places and days of each epidemic that are scored.
const SCORED: usize = 1024;
/// Epidemics that the network forecasts at once.
const BATCH: usize = 50;
/// Days ahead that are drawn.
const DRAWN: [i32; 4] = [1, 3, 6, 10];

/// An epidemic, and what was observed of it.
struct Case {
    epidemic: Epidemic,
    observed: Vec<Spot>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (n, n_days) = (usize::from(args.observations), usize::from(args.days));
    ensure!(n <= n_days * PLACES, "--observations {n}: {n_days} days have only {} places", n_days * PLACES);
    out::folder(&args.out, &["forecast.csv", "epidemic.svg"])?;
    let device = Device::by_name(&args.device)?;
    let model = TnpKr::open(&device, &args.checkpoint)
        .context("cannot load the model (run in the repository's root, or give --checkpoint)")?;
    ensure!(
        model.config().output == Output::Categorical && model.config().n_values == State::ALL.len(),
        "{} forecasts no three classes",
        args.checkpoint.display()
    );
    say!("device    {device}")?;
    say!("{} epidemics, {n} observations of each on {n_days} of the last {BACK} days\n", args.epidemics)?;

    let mut rng = StdRng::seed_from_u64(args.seed);
    let case = |_| {
        let epidemic = Epidemic::draw(&mut rng);
        let observed = epidemic.observe(&mut rng, n, n_days);
        Case { epidemic, observed }
    };
    let cases: Vec<Case> = (0..args.epidemics).map(case).collect();
    let persistence = Persistence::count(args.seed.wrapping_add(1), n, n_days);
    let start = Instant::now();
    score(&model, &persistence, &cases, &mut rng)?;
    say!("\nforecast {} places and days in {:.1} s", cases.len() * SCORED, start.elapsed().as_secs_f64())?;

    let spots: Vec<Spot> =
        (1..=AHEAD as i32).flat_map(|day| (0..PLACES).map(move |place| Spot { place, day })).collect();
    let first = &cases[..1];
    let forecast = predict(&model, first, std::slice::from_ref(&spots))?.swap_remove(0);
    let (csv, svg) = (args.out.join("forecast.csv"), args.out.join("epidemic.svg"));
    write(&csv, &first[0].epidemic, &spots, &forecast)?;
    draw(&svg, &first[0], &persistence, &forecast)?;
    say!("wrote {} and {}", csv.display(), svg.display())
}

/// The probabilities of each state, at places and days of each epidemic: all are one batch.
fn predict(model: &TnpKr, cases: &[Case], at: &[Vec<Spot>]) -> Result<Vec<Vec<[f64; 3]>>> {
    let coordinates = |spots: &mut dyn Iterator<Item = &Spot>| -> (Vec<f32>, Vec<f32>) {
        let (places, days): (Vec<_>, Vec<_>) = spots.map(|spot| spot.coordinates()).unzip();
        (places.concat(), days)
    };
    let (places, days) = coordinates(&mut cases.iter().flat_map(|case| &case.observed));
    let seen =
        |case: &Case| case.observed.iter().flat_map(|&spot| case.epidemic.state(spot).one_hot()).collect::<Vec<_>>();
    let values: Vec<f32> = cases.iter().flat_map(seen).collect();
    let context = Context::new(Locations::space(2, &places).time(&days).batch(cases.len()), &values);
    let (places, days) = coordinates(&mut at.iter().flatten());
    let prediction = model.condition(&context)?.predict(&Locations::space(2, &places).time(&days).batch(at.len()))?;
    let rows: Vec<[f64; 3]> = prediction.mean().as_chunks().0.iter().map(|row: &[f32; 3]| row.map(f64::from)).collect();
    Ok(rows.chunks(at[0].len()).map(<[_]>::to_vec).collect())
}

/// Of a forecast: log-likelihood, Brier score, and whether the most likely state came, in %.
fn scores(p: [f64; 3], came: State) -> [f64; 3] {
    let most_likely = (0..3).max_by(|a, b| p[*a].total_cmp(&p[*b]));
    let brier = p.iter().zip(came.one_hot()).map(|(p, is)| (p - f64::from(is)).powi(2)).sum();
    let is_right = most_likely == Some(came as usize);
    [p[came as usize].max(f64::MIN_POSITIVE).ln(), brier, 100.0 * f64::from(u8::from(is_right))]
}

fn mean(numbers: impl Iterator<Item = f64>) -> f64 {
    let (n, sum) = numbers.fold((0.0, 0.0), |(n, sum), number| (n + 1.0, sum + number));
    sum / n
}

/// The mean over epidemics, and its standard error: forecasts of one epidemic go together, epidemics do not.
fn mean_and_error(of_each: &[f64]) -> [f64; 2] {
    let (n, middle) = (of_each.len() as f64, mean(of_each.iter().copied()));
    let variance = of_each.iter().map(|number| (number - middle).powi(2)).sum::<f64>() / (n - 1.0);
    [middle, (variance / n).sqrt()]
}

/// Prints how good forecasts are, by how far they look ahead.
fn score(model: &TnpKr, persistence: &Persistence, cases: &[Case], rng: &mut StdRng) -> Result<()> {
    const HORIZONS: [(&str, std::ops::RangeInclusive<i32>); 4] =
        [("1 to 3 days", 1..=3), ("4 to 6 days", 4..=6), ("7 to 10 days", 7..=10), ("all", 1..=10)];
    let mut spot = |_| Spot { place: rng.random_range(0..PLACES), day: rng.random_range(1..=AHEAD as i32) };
    let at: Vec<Vec<Spot>> = cases.iter().map(|_| (0..SCORED).map(&mut spot).collect()).collect();
    // Batches of some, so that memory does not grow with the number of epidemics.
    let batches = cases.chunks(BATCH).zip(at.chunks(BATCH));
    let networks: Vec<_> = batches.map(|(cases, at)| predict(model, cases, at)).collect::<Result<_>>()?;
    let goes_on = |case: &Case, &spot: &Spot| persistence.forecast(&case.epidemic, &case.observed, spot);
    let persistences: Vec<_> =
        cases.iter().zip(&at).map(|(case, at)| at.iter().map(|spot| goes_on(case, spot)).collect()).collect();
    let both = [("network", networks.concat()), ("persistence", persistences)];
    say!("means over the epidemics ± their standard errors\n")?;
    say!("{:<14} {:<14} {:>16} {:>16} {:>18}", "", "", "log-likelihood", "Brier", "most likely right")?;
    for (name, days) in HORIZONS {
        for (who, forecasts) in &both {
            let of_case = |((case, at), forecasts): ((&Case, &Vec<Spot>), &Vec<[f64; 3]>)| -> [f64; 3] {
                let each = at.iter().zip(forecasts).filter(|(spot, _)| days.contains(&spot.day));
                let each: Vec<_> = each.map(|(&spot, &p)| scores(p, case.epidemic.state(spot))).collect();
                std::array::from_fn(|i| mean(each.iter().map(|scores| scores[i])))
            };
            let of_each: Vec<_> = cases.iter().zip(&at).zip(forecasts).map(of_case).collect();
            let [ll, brier, right] =
                [0, 1, 2].map(|i| mean_and_error(&of_each.iter().map(|scores| scores[i]).collect::<Vec<_>>()));
            let three = |[mean, error]: [f64; 2]| format!("{mean:.3} ± {error:.3}");
            let right = format!("{:.1} ± {:.1}", right[0], right[1]);
            say!("{name:<14} {who:<14} {:>16} {:>16} {right:>16} %", three(ll), three(brier))?;
        }
    }
    Ok(())
}

fn write(path: &Path, epidemic: &Epidemic, spots: &[Spot], forecast: &[[f64; 3]]) -> Result<()> {
    out::table(path, |csv| {
        csv.write_record(["row", "column", "day", "susceptible", "infected", "recovered", "came"])?;
        spots.iter().zip(forecast).try_for_each(|(&spot, p)| {
            let (row, column) = (spot.place / sir::SIDE, spot.place % sir::SIDE);
            let numbers = [row.to_string(), column.to_string(), spot.day.to_string()];
            let came = format!("{:?}", epidemic.state(spot)).to_lowercase();
            csv.write_record(numbers.into_iter().chain(p.map(|p| format!("{p:.4}"))).chain([came]))
        })
    })
}

/// Above what was seen and what came, below what persistence and the network made of it.
fn draw(path: &Path, case: &Case, persistence: &Persistence, forecast: &[[f64; 3]]) -> Result<()> {
    let Case { epidemic, observed } = case;
    let came = |day: i32| {
        let states = (0..PLACES).map(move |place| Some(epidemic.state(Spot { place, day })));
        let title = if day == 0 { "today".to_owned() } else { format!("day +{day}: came") };
        Panel::of_states(title, states)
    };
    let of_day = |day: i32| {
        let from = (day as usize - 1) * PLACES;
        Panel::of_probabilities(format!("day +{day}: forecast"), forecast[from..from + PLACES].iter().copied())
    };
    let seen = Panel::of_states("last observed".into(), last_seen(epidemic, observed).into_iter());
    let last = DRAWN[DRAWN.len() - 1];
    let goes_on = (0..PLACES).map(|place| persistence.forecast(epidemic, observed, Spot { place, day: last }));
    let goes_on = Panel::of_probabilities(format!("day +{last}: persistence"), goes_on);
    let above = [came(0)].into_iter().chain(DRAWN.map(came)).collect();
    let below = [seen].into_iter().chain(DRAWN.map(of_day)).chain([goes_on]).collect();
    strip::draw(path, &[above, below])
}
