//! Completes patches of photographs of which some pixels are seen: how grey each of the others is, and how
//! sure that is.
//!
//!     cargo run --release --example image
//!     cargo run --release --example image -- --photograph mine.png
//!
//! A CMANP and a TNP-KR, trained on patches of other photographs (`data/README.md` names all of them), beside
//! an exact Gaussian process that is fitted to each patch and the nearest pixel, from 5, 20 and 50% of the
//! pixels. Then the CMANP reads pixels as a stream: its error falls, and what it keeps stays as large as it
//! was. Writes `image.svg`.

mod baseline;
mod photograph;
mod picture;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use rand::{SeedableRng, rngs::StdRng};
use shared::{normal::Normal, out, progress, say};
use wgpu_attention::{
    Device,
    models::{
        Prediction,
        cmanp::{self, Cmanp},
        tnp_kr::{self, Locations, TnpKr},
    },
};

use photograph::{PIXELS, Patch, Photograph, SIDE};
use picture::Panel;

/// Completes patches of photographs from some of their pixels: for one of your own give --photograph FILE.
#[derive(Parser)]
struct Args {
    /// A PNG, of which patches are completed; may be given several times [default: the two photographs of
    /// data/photographs that no network was trained on].
    #[arg(long, value_name = "FILE")]
    photograph: Vec<PathBuf>,
    /// The trained CMANP.
    #[arg(long, value_name = "FILE", default_value = "checkpoints/cmanp_image.safetensors")]
    cmanp: PathBuf,
    /// The trained TNP-KR.
    #[arg(long, value_name = "FILE", default_value = "checkpoints/image.safetensors")]
    tnp_kr: PathBuf,
    /// cpu, gpu, best, or a part of an adapter's name.
    #[arg(long, default_value = "best")]
    device: String,
    /// Where the picture goes.
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// Patches that are scored, of each photograph.
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u16).range(1..=1000))]
    patches: u16,
    /// Chooses the patches and the pixels seen.
    #[arg(long, default_value = "0")]
    seed: u64,
}

/// Of the pixels, that are seen.
const SHARES: [f64; 3] = [0.05, 0.2, 0.5];
/// Photographs that are shown, and where the block of patches that is drawn begins.
const SHOWN: [(&str, [usize; 2]); 2] = [("astronaut", [4, 32]), ("camera", [12, 34])];
/// Patches along one side of that block.
const BLOCK: usize = 2;
/// Pixels that a stream has brought when it is scored, and those that it is scored by.
const STREAM: [usize; 7] = [8, 16, 32, 64, 128, 256, 512];
/// Of grey, which goes from 0 to 1: what the networks call 0, and 1 less that.
const MIDDLE: f64 = 0.5;
const UNIT: f64 = 0.25;

fn main() -> Result<()> {
    let args = Args::parse();
    out::folder(&args.out, &["image.svg"])?;
    let shipped = || SHOWN.iter().map(|(name, _)| Path::new("data/photographs").join(format!("{name}.png"))).collect();
    let paths: Vec<PathBuf> = if args.photograph.is_empty() { shipped() } else { args.photograph };
    let photographs: Vec<Photograph> = paths.iter().map(|path| Photograph::open(path)).collect::<Result<_>>()?;
    let device = Device::by_name(&args.device)?;
    let networks = Networks::open(&device, &args.cmanp, &args.tnp_kr)?;
    say!("device    {device}")?;

    let mut rng = StdRng::seed_from_u64(args.seed);
    let mut patches = Vec::new();
    for photograph in &photographs {
        let Photograph { name, width, height, .. } = photograph;
        say!("{name:<9} {width} × {height} pixels, {} patches of {SIDE} × {SIDE}", args.patches)?;
        for _ in 0..args.patches {
            let grey = photograph.draw_patch(&mut rng);
            patches.push(Patch::new(grey, &mut rng));
        }
    }
    for share in SHARES {
        score(&networks, &patches, share)?;
    }
    stream(&networks, &patches)?;

    let mut rows = Vec::new();
    for photograph in &photographs {
        let block = Block::new(photograph, &mut rng);
        for share in SHARES {
            let n_seen = seen(share);
            let [cmanp, tnp_kr] = networks.predict(&block.patches, n_seen)?;
            let patches = &block.patches;
            let both = [&cmanp, &tnp_kr]
                .map(|found| [Panel::means(patches, n_seen, found), Panel::stds(patches, n_seen, found)]);
            let panels = [Panel::seen(patches, n_seen)].into_iter().chain(both.into_iter().flatten());
            rows.push((
                format!("{}, {:.0}%", photograph.name, 100.0 * share),
                panels.chain([Panel::truth(patches)]).collect(),
            ));
        }
    }
    let svg = args.out.join("image.svg");
    picture::draw(&svg, &["seen", "CMANP", "its deviation", "TNP-KR", "its deviation", "the photograph"], &rows)?;
    say!("\nwrote {}", svg.display())
}

fn seen(share: f64) -> usize {
    (share * PIXELS as f64).round() as usize
}

/// What is drawn of a photograph.
struct Block {
    patches: Vec<Patch>,
}

impl Block {
    /// Of a photograph that is not shipped the middle, as much as it has.
    fn new(photograph: &Photograph, rng: &mut StdRng) -> Self {
        let across = BLOCK.min(photograph.width.min(photograph.height) / SIDE);
        let room = [photograph.height, photograph.width].map(|n| n - across * SIDE);
        let chosen = SHOWN.iter().find(|(name, _)| *name == photograph.name).map(|(_, at)| *at);
        let middle = room.map(|n| n / 2);
        let at = chosen.filter(|at| at.iter().zip(room).all(|(&at, room)| at <= room)).unwrap_or(middle);
        Self { patches: photograph.block(at, across).into_iter().map(|grey| Patch::new(grey, rng)).collect() }
    }
}

/// The networks, which are given places and scaled greys.
struct Networks {
    cmanp: Cmanp,
    tnp_kr: TnpKr,
}

/// Pixels of all patches, from one to another in their order: places, and scaled greys.
fn points(patches: &[Patch], range: std::ops::Range<usize>) -> (Vec<f32>, Vec<f32>) {
    let parts: Vec<_> = patches.iter().map(|patch| patch.part(range.clone())).collect();
    let places = parts.iter().flat_map(|(places, _)| places.as_flattened()).map(|&x| x as f32).collect();
    let greys = parts.iter().flat_map(|(_, greys)| greys).map(|&grey| ((grey - MIDDLE) / UNIT) as f32).collect();
    (places, greys)
}

/// In units of grey, patch by patch.
fn normals(prediction: &Prediction, n_patches: usize) -> Result<Vec<Vec<Normal>>> {
    let prediction = prediction.in_units(&[UNIT], &[MIDDLE])?;
    let pairs = prediction.mean().iter().zip(prediction.std());
    let all: Vec<Normal> = pairs.map(|(&mean, &std)| Normal { mean: mean.into(), std: std.into() }).collect();
    Ok(all.chunks(all.len() / n_patches).map(<[_]>::to_vec).collect())
}

impl Networks {
    fn open(device: &Device, cmanp: &Path, tnp_kr: &Path) -> Result<Self> {
        let hint = "cannot load the model (run in the repository's root, or give --cmanp and --tnp-kr)";
        let (cmanp_file, cmanp) = (cmanp, Cmanp::open(device, cmanp).context(hint)?);
        let config = cmanp.config();
        ensure!(
            config.dim_x == 2 && config.dim_y == 1,
            "{} completes no pictures: a point has {} coordinates and {} values, 2 and 1 are needed",
            cmanp_file.display(),
            config.dim_x,
            config.dim_y
        );
        Ok(Self { cmanp, tnp_kr: TnpKr::open(device, tnp_kr).context(hint)? })
    }

    fn read_tnp_kr(&self, patches: &[Patch], n_seen: usize) -> Result<tnp_kr::Posterior> {
        let (places, greys) = points(patches, 0..n_seen);
        Ok(self.tnp_kr.condition(&tnp_kr::Context::new(Locations::space(2, &places).batch(patches.len()), &greys))?)
    }

    /// All pixels but the first, as the CMANP and as the TNP-KR predict them.
    fn predict(&self, patches: &[Patch], n_seen: usize) -> Result<[Vec<Vec<Normal>>; 2]> {
        let n = patches.len();
        let (places, greys) = points(patches, 0..n_seen);
        let (at, _) = points(patches, n_seen..PIXELS);
        let cmanp = self.cmanp.condition(&cmanp::Context::new(&places, &greys).batch(n))?.predict(&at)?;
        let tnp_kr = self.read_tnp_kr(patches, n_seen)?.predict(&Locations::space(2, &at).batch(n))?;
        Ok([normals(&cmanp, n)?, normals(&tnp_kr, n)?])
    }
}

/// Sums over pixels.
#[derive(Default)]
struct Score {
    n: f64,
    log_likelihood: f64,
    square: f64,
    covered: f64,
}

impl Score {
    fn of<'a>(pairs: impl Iterator<Item = (&'a Normal, &'a f64)>) -> Self {
        pairs.fold(Self::default(), |sum, (normal, &grey)| Self {
            n: sum.n + 1.0,
            log_likelihood: sum.log_likelihood + normal.log_density(grey),
            square: sum.square + (normal.mean - grey).powi(2),
            covered: sum.covered + f64::from(u8::from(normal.covers(grey))),
        })
    }

    /// The mean log-likelihood, the root of the mean square, and the share inside the band.
    fn means(&self) -> [f64; 3] {
        [self.log_likelihood / self.n, (self.square / self.n).sqrt(), self.covered / self.n]
    }
}

/// Prints how well the pixels that were not seen are predicted.
fn score(networks: &Networks, patches: &[Patch], share: f64) -> Result<()> {
    let n_seen = seen(share);
    let start = Instant::now();
    let [cmanp, tnp_kr] = networks.predict(patches, n_seen)?;
    let both = start.elapsed().as_secs_f64();
    let (mut process, mut nearest) = (Vec::new(), Vec::new());
    let bar = progress::bar("Gaussian processes", "patches", patches.len() as u64)?;
    let start = Instant::now();
    let mut truth = Vec::new();
    for patch in patches {
        let (places, grey) = patch.part(0..n_seen);
        let (at, hidden) = patch.part(n_seen..PIXELS);
        process.push(baseline::process(&places, &grey, &at)?);
        nearest.push(baseline::nearest_pixel(&places, &grey, &at));
        truth.extend(hidden);
        bar.add(1);
    }
    let exact = start.elapsed().as_secs_f64();
    say!(
        "\n{:.0}% of the pixels seen, {n_seen} of {PIXELS}; the networks {both:.1} s, the rest {exact:.1} s",
        100.0 * share
    )?;
    say!("{:<18} {:>15} {:>8} {:>12}", "", "log-likelihood", "RMSE", "in 95% band")?;
    for (name, found) in
        [("CMANP", &cmanp), ("TNP-KR", &tnp_kr), ("Gaussian process", &process), ("nearest pixel", &nearest)]
    {
        let [log_likelihood, rmse, inside] = Score::of(found.iter().flatten().zip(&truth)).means();
        say!("{name:<18} {log_likelihood:>15.3} {rmse:>8.4} {:>10.1} %", 100.0 * inside)?;
    }
    Ok(())
}

/// Prints how the CMANP's error falls while it reads, and how large what it keeps is: for each patch, beside the
/// TNP-KR's, which keeps every pixel.
fn stream(networks: &Networks, patches: &[Patch]) -> Result<()> {
    let n = patches.len();
    let last = STREAM[STREAM.len() - 1];
    let (at, _) = points(patches, last..PIXELS);
    let truth: Vec<f64> = patches.iter().flat_map(|patch| patch.part(last..PIXELS).1).collect();
    say!("\na stream of pixels, the last {} of each patch predicted", PIXELS - last)?;
    say!(
        "{:>11} {:>15} {:>8} {:>16} {:>18}",
        "pixels read",
        "log-likelihood",
        "RMSE",
        "CMANP keeps",
        "TNP-KR would keep"
    )?;
    let (mut posterior, mut read) = (None::<cmanp::Posterior>, 0);
    for upto in STREAM {
        let (places, greys) = points(patches, read..upto);
        let more = cmanp::Context::new(&places, &greys).batch(n);
        let now = match posterior {
            Some(before) => before.update(&more)?,
            None => networks.cmanp.condition(&more)?,
        };
        read = upto;
        let found = normals(&now.predict(&at)?, n)?;
        let [log_likelihood, rmse, _] = Score::of(found.iter().flatten().zip(&truth)).means();
        let kib = |bytes: usize| format!("{:.1} KiB", bytes as f64 / n as f64 / 1024.0);
        let (ours, other) = (kib(now.n_bytes()), kib(networks.read_tnp_kr(patches, read)?.n_bytes()));
        say!("{read:>11} {log_likelihood:>15.3} {rmse:>8.4} {ours:>16} {other:>18}")?;
        posterior = Some(now);
    }
    Ok(())
}
