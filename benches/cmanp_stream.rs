//! What a CMANP promises, measured: a long stream in flat memory at flat cost, beside conditioning
//! from scratch. Not a criterion bench: it is one run.
//!
//!     cargo bench --bench cmanp_stream                        # 10,000 points on the CPU
//!     cargo bench --bench cmanp_stream -- 10000000 64 small   # points, block, model, device
//!
//! The model is `full`, the size of the paper's Gaussian-process experiments, or `small`.

use std::time::Instant;

use support::{full_size_cmanp, numbers, resident_bytes, small_cmanp};
use wgpu_attention::{
    Device,
    models::cmanp::{Cmanp, Context, Posterior},
};

/// Updates whose latency is measured at each end, one point each.
const PROBES: usize = 300;

fn main() {
    // Cargo adds an argument of its own.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let number = |i: usize, default| args.get(i).map_or(default, |text| text.parse().expect("a number"));
    let (n, block) = (number(0, 10_000usize), number(1, 64usize));
    let device = args.get(3).map_or(Device::cpu(), |name| Device::by_name(name).expect("a device"));
    let is_small = args.get(2).is_some_and(|name| name == "small");
    let model = if is_small { small_cmanp(&device) } else { full_size_cmanp(&device) };
    println!("{device}, {} model, blocks of {block}", if is_small { "small" } else { "full" });

    let (x, y) = (numbers(1 << 16), numbers(1 << 16));
    let mut posterior = model.condition(&Context::new(&x[..10], &y[..10])).unwrap();
    latency(&model, &posterior);
    let (early, bytes) = (latency(&model, &posterior), posterior.n_bytes());
    println!("after {:>9} points: update of one point {early:.1} us, posterior {bytes} bytes", 10);

    let started = Instant::now();
    let (mut at, mut first_rate, mut first_resident) = (0, 0.0, None);
    let mut seen = 0;
    while seen < n {
        let size = block.min(n - seen);
        let points = at..at + size;
        posterior = posterior.update(&Context::new(&x[points.clone()], &y[points])).unwrap();
        seen += size;
        at = (at + size) % (x.len() - block);
        if first_resident.is_none() && seen >= n / 10 {
            device.wait().unwrap();
            first_rate = seen as f64 / started.elapsed().as_secs_f64();
            first_resident = resident_bytes();
        }
    }
    device.wait().unwrap();
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "streamed  {n} points in {seconds:.1} s: {:.0} points/s ({first_rate:.0} in the first tenth)",
        n as f64 / seconds
    );
    println!("resident  {first_resident:?} bytes after a tenth, {:?} at the end", resident_bytes());
    let late = latency(&model, &posterior);
    println!(
        "after {:>9} points: update of one point {late:.1} us, posterior {} bytes; ratio of latencies {:.2}",
        posterior.n_points()[0],
        posterior.n_bytes(),
        late / early
    );
    let context = Context::new(&x[..10_000], &y[..10_000]);
    let times = (0..5).map(|_| {
        let started = Instant::now();
        let posterior = model.condition(&context).unwrap();
        device.wait().unwrap();
        drop(posterior);
        started.elapsed().as_secs_f64() * 1e6
    });
    let again = median(times.collect());
    println!("conditioning on 10,000 points again: {:.1} ms, {:.0} updates of one point", again / 1e3, again / late);
}

/// The median time of an update of one point, in microseconds.
fn latency(model: &Cmanp, posterior: &Posterior) -> f64 {
    let times = (0..PROBES).map(|i| {
        let x = [i as f32 / PROBES as f32];
        let started = Instant::now();
        let updated = posterior.update(&Context::new(&x, &x)).unwrap();
        model.device().wait().unwrap();
        drop(updated);
        started.elapsed().as_secs_f64() * 1e6
    });
    median(times.collect())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
