//! What a window over a stream promises, measured: flat cost and memory, however much has come and gone, and at
//! its end the posterior of its points alone. Not a criterion bench: it is one run.
//!
//!     cargo bench --bench cmanp_window                                    # 1,000,000 points, a window of 100,000
//!     cargo bench --bench cmanp_window -- 10000000 100000 1000 exact      # points, window, block, sums
//!
//! The model is the committed one; sums are `exact` or `rounded`. First the operation by itself, then the network.

use std::time::Instant;

use support::{numbers, resident_bytes};
use wgpu_attention::{
    Device, Tensor,
    models::cmanp::{Cmanp, Context, Window},
    ops::{self, Layout, Merge, RollingAttention},
};

/// Heads, queries and numbers of a head, those of a layer of the committed model.
const SIZES: [usize; 3] = [4, 48, 12];

/// What of a run is shown: tenths, whose times are to be the same.
const PARTS: usize = 10;

fn main() {
    // Cargo adds an argument of its own.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let number = |i: usize, default| args.get(i).map_or(default, |text| text.parse().expect("a number"));
    let sizes = [number(0, 1_000_000), number(1, 100_000), number(2, 1000)];
    let is_exact = args.get(3).is_none_or(|name| name == "exact");
    let [n, window, block] = sizes;
    assert!(block > 0 && window % block == 0 && n >= window, "a window of whole blocks, and as many points at least");
    let sums = if is_exact { "exact" } else { "rounded" };
    println!("{}, {n} points, a window of {window}, blocks of {block}, {sums} sums", Device::cpu());
    operation(sizes, is_exact);
    network(sizes, is_exact);
}

/// Feeds `n` points in blocks, and says what every tenth of them took.
fn fed(what: &str, n: usize, block: usize, mut feed: impl FnMut(usize) -> usize) {
    let (mut fastest, mut slowest, mut most) = (f64::INFINITY, 0.0f64, 0);
    let tenth = n.div_ceil(PARTS).next_multiple_of(block);
    for from in (0..n).step_by(tenth) {
        let started = Instant::now();
        let to = n.min(from + tenth);
        for at in (from..to).step_by(block) {
            most = most.max(feed(at));
        }
        let took = started.elapsed().as_secs_f64() * 1e9 / (to - from) as f64;
        (fastest, slowest) = (fastest.min(took), slowest.max(took));
        println!("{what}: points {from} to {to}: {took:.0} ns a point, {:?} bytes resident", resident_bytes());
    }
    println!("{what}: {fastest:.0} to {slowest:.0} ns a point, {most} bytes in the window at most");
}

/// Rolling attention: states of blocks in two stacks.
fn operation([n, window, block]: [usize; 3], is_exact: bool) {
    let [heads, n_queries, dim] = SIZES;
    let device = Device::cpu();
    let tensor = |numbers: &[f32]| Tensor::new(&device, &[1, numbers.len() / (heads * dim), heads * dim], numbers);
    let queries = numbers(n_queries * heads * dim);
    let attention = RollingAttention::new(Layout::Projected { n_heads: heads }, tensor(&queries).unwrap());
    // Another start for every block, so that blocks differ.
    let pool = numbers((1 << 16) * heads * dim);
    let of_block = |at: usize, shift: usize| {
        let first = (at / block * 7919 + shift) % ((1 << 16) - block);
        &pool[first * heads * dim..(first + block) * heads * dim]
    };
    let keys = |at: usize| [of_block(at, 0), of_block(at, 31)].map(|numbers| tensor(numbers).unwrap());
    let last: Vec<f32> = (n - window..n).step_by(block).flat_map(|at| of_block(at, 0).to_vec()).collect();
    let last_values: Vec<f32> = (n - window..n).step_by(block).flat_map(|at| of_block(at, 31).to_vec()).collect();
    let (last, last_values) = (tensor(&last).unwrap(), tensor(&last_values).unwrap());
    if is_exact {
        // Numbers are in -1..1, so a score is at most the root of 12.
        let exact = attention.exact(&vec![4.0; heads * n_queries], 1.0).unwrap();
        let write = |at| {
            let [k, v] = keys(at);
            exact.write(None, &k, &v, None).unwrap()
        };
        let state = slid([n, window, block], write, |state| state.n_bytes());
        let scratch = exact.write(None, &last, &last_values, None).unwrap();
        assert!(state == scratch, "the state is not that of the last {window} points");
        println!("operation: the state is that of the last {window} points written at once, to the bit");
    } else {
        let write = |at| {
            let [k, v] = keys(at);
            attention.write(None, &k, &v, None).unwrap()
        };
        let state = slid([n, window, block], write, |state| state.n_bytes());
        let scratch = attention.write(None, &last, &last_values, None).unwrap();
        let [found, expected] = [state, scratch].map(|state| attention.read(&state).unwrap().values.read().unwrap());
        let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-6, "{off} from the last {window} points");
        println!("operation: read, it is at most {off:e} from the last {window} points written at once");
    }
}

fn slid<T: Merge>([n, window, block]: [usize; 3], write: impl Fn(usize) -> T, n_bytes: impl Fn(&T) -> usize) -> T {
    let mut last = ops::Window::default();
    let mut of_one = 0;
    fed("operation", n, block, |at| {
        let state = write(at);
        of_one = n_bytes(&state);
        last.push(state).unwrap();
        if last.len() > window / block {
            assert!(last.pop().unwrap());
        }
        // One more is merged of those that came last.
        (last.len() + 1) * of_one
    });
    last.state().unwrap().expect("blocks")
}

/// The network, its window and its posterior.
fn network([n, window, block]: [usize; 3], is_exact: bool) {
    let model = Cmanp::open(&Device::cpu(), "../checkpoints/cmanp_gp_1d.safetensors").unwrap();
    let model = if is_exact { model.exact().unwrap() } else { model };
    let (times, values) = (numbers(1 << 16), numbers(1 << 17));
    let points = |at: usize| {
        let t = |i: usize| 2.0 * times[(at + i) * 7919 % times.len()];
        let x: Vec<f32> = (0..block).flat_map(|i| [t(i), (44.0 * t(i)).cos(), (44.0 * t(i)).sin()]).collect();
        let y: Vec<f32> = (0..block).map(|i| t(i).sin() + 0.3 * values[(at + i) * 31 % values.len()]).collect();
        (x, y)
    };
    let mut last = Window::new(&model, block).unwrap();
    fed("network", n, block, |at| {
        let (x, y) = points(at);
        last.push(&Context::new(&x, &y)).unwrap();
        last.keep(window).unwrap();
        last.n_bytes()
    });
    let started = Instant::now();
    let posterior = last.posterior().unwrap();
    println!("network: the posterior of the window in {:.2?}", started.elapsed());
    let (x, y): (Vec<_>, Vec<_>) = (n - window..n).step_by(block).map(points).unzip();
    let scratch = model.condition(&Context::new(&x.concat(), &y.concat())).unwrap();
    assert_eq!(posterior.n_points(), scratch.n_points());
    if is_exact {
        let bytes = [&posterior, &scratch].map(|posterior| posterior.to_checkpoint().unwrap().to_bytes().unwrap());
        assert!(bytes[0] == bytes[1], "the posterior is not that of the last {window} points");
        println!("network: its {} bytes are those of the last {window} points read at once", bytes[0].len());
    }
    let (at, _) = points(0);
    let [found, expected] = [posterior, scratch].map(|posterior| posterior.predict(&at).unwrap());
    let off = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let (mean, std) = (off(found.mean(), expected.mean()), off(found.std(), expected.std()));
    assert!(mean < 1e-4 && std < 1e-4, "means {mean} and deviations {std} from the last {window} points");
    println!("network: predictions at {block} points differ by {mean:e} in the mean, {std:e} in the deviation");
}
