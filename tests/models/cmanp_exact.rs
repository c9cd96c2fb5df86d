//! Posteriors with exact sums, windows, and what is left out.

use crate::support::{Random, assert_predicted, devices, parameters, refused};
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::cmanp::{Cmanp, Config, Context, Posterior, Window},
    ops::leave_one_out,
};

const TRAINED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/checkpoints/cmanp_gp_1d.safetensors");

/// Points of the committed network: a time, a phase and a value.
struct Data {
    x: Vec<f64>,
    y: Vec<f32>,
}

fn data(random: &mut Random, n: usize) -> Data {
    let times: Vec<f64> = random.numbers(n).iter().map(|t| (2.4 * f64::from(*t)).clamp(-2.4, 2.4)).collect();
    let noise = random.numbers(n);
    let x = times.iter().flat_map(|t| [*t, (9.0 * t).cos(), (9.0 * t).sin()]).collect();
    let y = times.iter().zip(noise).map(|(t, e)| (2.0 * t).sin() as f32 + 0.1 * e).collect();
    Data { x, y }
}

impl Data {
    fn context(&self) -> Context<'_> {
        Context::new(&self.x, &self.y)
    }

    fn pick(&self, points: &[usize]) -> Self {
        let x = points.iter().flat_map(|i| &self.x[i * 3..][..3]).copied().collect();
        Self { x, y: points.iter().map(|i| self.y[*i]).collect() }
    }
}

fn bytes(posterior: &Posterior) -> Vec<u8> {
    posterior.to_checkpoint().unwrap().to_bytes().unwrap()
}

#[test]
fn any_cut_order_and_tree_gives_the_same_bytes() {
    let mut random = Random::new(1);
    let plain = Cmanp::open(&Device::cpu(), TRAINED).unwrap();
    let model = plain.exact().unwrap();
    let (all, targets) = (data(&mut random, 700), data(&mut random, 20));
    let whole = model.condition(&all.context()).unwrap();
    let expected = bytes(&whole);
    let prediction = whole.predict(&targets.x).unwrap();
    assert_predicted(&prediction, &plain.condition(&all.context()).unwrap().predict(&targets.x).unwrap(), "plain");
    for block in [1, 7, 128, 129] {
        assert!(bytes(&model.condition_in_blocks(&all.context(), block).unwrap()) == expected, "blocks of {block}");
    }
    for n_parts in [2, 7, 64] {
        let mut states: Vec<Posterior> = random
            .shuffled(700)
            .chunks(700usize.div_ceil(n_parts))
            .map(|points| {
                let (first, rest) = points.split_at(points.len() / 2 + 1);
                let first = model.condition(&all.pick(first).context()).unwrap();
                first.update(&all.pick(rest).context()).unwrap()
            })
            .collect();
        while states.len() > 1 {
            let a = states.swap_remove(random.below(states.len()));
            let b = states.swap_remove(random.below(states.len()));
            // Sent to another machine in between.
            let b = model.restore(&Checkpoint::from_bytes(&bytes(&b)).unwrap()).unwrap();
            states.push(a.merge(&b).unwrap());
        }
        assert!(bytes(&states[0]) == expected, "{n_parts} parts");
    }
    // Taken out again; the range of the coordinates is all that stays.
    let (kept, gone) = (all.pick(&(0..500).collect::<Vec<_>>()), all.pick(&(500..700).collect::<Vec<_>>()));
    let left = whole.without(&model.condition(&gone.context()).unwrap()).unwrap();
    let from_scratch = model.condition(&kept.context()).unwrap();
    assert_eq!(left.n_points(), [500]);
    assert!(left.exact_states() == from_scratch.exact_states());
    let [a, b] = [left, from_scratch].map(|posterior| posterior.predict(&targets.x).unwrap());
    assert_eq!((a.mean(), a.std()), (b.mean(), b.std()));
}

#[test]
fn whatever_came_alone_can_be_read() {
    // How far scores may lie apart is bounded in training, see `bound_scores` in training/cmanp.py.
    let plain = Cmanp::open(&Device::cpu(), TRAINED).unwrap();
    let model = plain.exact().unwrap();
    let at = [0.5, 1.0, 0.0];
    for t in [-300.0, -2.4, 0.0, 1.1, 900.0] {
        for [cos, sin] in [[1.0, 0.0], [-0.6, 0.8], [0.0, -1.0], [50.0, -50.0]] {
            for y in [-1e6, -3.0, 0.0, 0.4, 3.0, 1e6] {
                let (x, y) = ([t, cos, sin], [y]);
                let read = |model: &Cmanp| model.condition(&Context::new(&x, &y)).unwrap().predict(&at);
                assert_predicted(&read(&model).unwrap(), &read(&plain).unwrap(), &format!("{x:?} {y:?}"));
            }
        }
    }
}

#[test]
fn batches_and_masks_are_exact_too() {
    let mut random = Random::new(2);
    let config: Config = wgpu_attention::serde_json::from_str(
        r#"{"dim_x": 2, "dim_y": 3, "d_model": 12, "dim_feedforward": 16, "n_heads": 2, "n_latents": 7,
            "n_latents_per_layer": 5, "n_layers": 2, "emb_depth": 3, "bound_std": true}"#,
    )
    .unwrap();
    let checkpoint =
        parameters(|checkpoint| Cmanp::new(&Device::cpu(), &config, checkpoint), |_, shape| random.layer(shape, 2.0)).1;
    let plain = Cmanp::new(&Device::cpu(), &config, &checkpoint).unwrap();
    let model = plain.exact().unwrap();
    let (x, y, targets) = (random.scaled(3 * 40 * 2, 2.0), random.numbers(3 * 40 * 3), random.scaled(3 * 4 * 2, 2.0));
    let mut mask = random.booleans(3 * 40, 0.6);
    (0..3).for_each(|b| mask[b * 40] = true);
    let context = Context::new(&x, &y).batch(3).mask(&mask);
    let whole = model.condition(&context).unwrap();
    assert!(bytes(&whole) == bytes(&model.condition_in_blocks(&context, 7).unwrap()));
    let [a, b] = [whole.predict(&targets), plain.condition(&context).unwrap().predict(&targets)].map(Result::unwrap);
    assert_predicted(&a, &b, "batch");
    let [a, b] =
        [whole.draws(&targets, 1, 3), plain.condition(&context).unwrap().draws(&targets, 1, 3)].map(Result::unwrap);
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-3 * (1.0 + b.abs())), "{a:?} and {b:?}");
}

#[test]
fn a_window_is_its_last_points_from_scratch() {
    let mut random = Random::new(3);
    let targets = data(&mut random, 9);
    for (name, device) in devices() {
        let plain = Cmanp::open(&device, TRAINED).unwrap();
        let is_cpu = device == Device::cpu();
        for model in std::iter::once(plain.clone()).chain(is_cpu.then(|| plain.exact().unwrap())) {
            let all = data(&mut random, 300);
            let mut window = Window::new(&model, 16).unwrap();
            let (mut at, mut most) = (0, 0);
            for n in [1, 15, 3, 40, 16, 1, 100, 7, 50, 67] {
                window.push(&all.pick(&(at..at + n).collect::<Vec<_>>()).context()).unwrap();
                at += n;
                window.keep(53).unwrap();
                let first = at.saturating_sub(53);
                let posterior = window.posterior().unwrap();
                assert_eq!(posterior.n_points(), [(at - first) as u64]);
                let scratch = model.condition(&all.pick(&(first..at).collect::<Vec<_>>()).context()).unwrap();
                let (a, b) = (posterior.predict(&targets.x).unwrap(), scratch.predict(&targets.x).unwrap());
                assert_predicted(&a, &b, &format!("{name} after {at}"));
                assert_eq!(a.outside(), b.outside());
                assert!(
                    model.device() != &Device::cpu()
                        || !scratch.states().is_empty()
                        || bytes(&posterior) == bytes(&scratch)
                );
                most = most.max(window.n_bytes());
            }
            // The points, and a posterior for every 16 of them and of those that have not left yet.
            assert!(most <= 120 * 28 + 9 * window.posterior().unwrap().n_bytes(), "{most}");
            window.forget(53).unwrap();
            refused(window.posterior(), &["empty"]);
            refused(window.forget(1), &["cmanp::Window::forget", "0"]);
            window.push(&all.pick(&[3]).context()).unwrap();
            assert_eq!(window.posterior().unwrap().n_points(), [1]);
        }
    }
    // What overflows in the network is refused, in the first block or in a later one, and the window goes on.
    let exact = Cmanp::open(&Device::cpu(), TRAINED).unwrap().exact().unwrap();
    let mut window = Window::new(&exact, 1).unwrap();
    let x = [0.0, 1.0, 0.0, 0.1, 1.0, 0.0];
    for had in 0..2 {
        refused(window.push(&Context::new(&x, &[0.5, 3e38])), &["finite"]);
        assert_eq!(window.n_points(), had);
        window.push(&Context::new(&x[..3], &[0.2])).unwrap();
        assert_eq!(window.posterior().unwrap().n_points(), [had as u64 + 1]);
    }
    // One that was taken in before its block was full is forgotten as any other.
    let mut window = Window::new(&exact, 3).unwrap();
    for (i, y) in [0.1, 0.2, 0.3, 3e38, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0].into_iter().enumerate() {
        let pushed = window.push(&Context::new(&[0.1 * i as f32, 1.0, 0.0], &[y]));
        assert!(pushed.is_ok() || i >= 5, "point {i}: {pushed:?}");
        window.keep(5).unwrap();
    }
    assert_eq!(window.n_points(), 5);
    assert_eq!(window.posterior().unwrap().n_points(), [5]);
    // By time, the first coordinate.
    let model = Cmanp::open(&Device::cpu(), TRAINED).unwrap();
    let mut window = Window::new(&model, 4).unwrap().origin(&[100.0, 0.0, 0.0]);
    for i in 0..40 {
        let t = 98.0 + 0.1 * f64::from(i);
        window.push(&Context::new(&[t, 1.0, 0.0], &[0.5])).unwrap();
        window.forget_before(0, t - 0.55).unwrap();
        assert_eq!(window.n_points(), 6.min(i as usize + 1));
    }
    refused(window.forget_before(3, 0.0), &["column", "3"]);
    refused(window.forget_before(0, f64::NAN), &["moment", "NaN"]);
    // Whether a point is taken does not depend on which come with it: single ones, blocks of four and all at once.
    let minutes: Vec<f64> = (0..16).flat_map(|i| [2000.0 + 0.001 * f64::from(i), 1.0, 0.0]).collect();
    let resolution = ["2000.0", "give an origin"];
    refused(model.condition(&Context::new(&minutes, &[0.5; 16])), &resolution);
    refused(model.condition(&Context::new(&minutes[..3], &[0.5])), &resolution);
    let mut far = Window::new(&model, 4).unwrap();
    refused(far.push(&Context::new(&minutes[..3], &[0.5])), &resolution);
    assert_eq!(far.n_points(), 0);
    let mut near = Window::new(&model, 4).unwrap().origin(&[2000.0, 0.0, 0.0]);
    minutes.chunks(3).for_each(|point| near.push(&Context::new(point, &[0.5])).unwrap());
    assert_eq!(near.posterior().unwrap().n_points(), [16]);
    refused(window.push(&Context::new(&[f64::NAN, 0.0, 0.0], &[0.5])), &["x of point 0"]);
    refused(window.push(&Context::new(&[1.0, 0.0, 0.0], &[0.5]).origin(&[1.0; 3])), &["Window::origin"]);
    refused(Window::new(&model, 0), &["step"]);
}

#[test]
fn leaving_out_blocks_is_conditioning_on_the_others() {
    let mut random = Random::new(4);
    let (all, targets) = (data(&mut random, 120), data(&mut random, 9));
    let blocks: Vec<Vec<usize>> = (0..6).map(|i| (20 * i..20 * i + 20).collect()).collect();
    let plain = Cmanp::open(&Device::cpu(), TRAINED).unwrap();
    for model in [plain.clone(), plain.exact().unwrap()] {
        let posteriors: Vec<Posterior> =
            blocks.iter().map(|block| model.condition(&all.pick(block).context()).unwrap()).collect();
        for (i, left) in leave_one_out(&posteriors).unwrap().into_iter().enumerate() {
            let others: Vec<usize> = (0..120).filter(|point| point / 20 != i).collect();
            let scratch = model.condition(&all.pick(&others).context()).unwrap();
            let left = left.unwrap();
            assert_predicted(&left.predict(&targets.x).unwrap(), &scratch.predict(&targets.x).unwrap(), "left out");
            assert!(!scratch.states().is_empty() || bytes(&left) == bytes(&scratch));
        }
    }
}

#[test]
fn forms_do_not_mix_and_damage_is_refused() {
    let mut random = Random::new(5);
    let all = data(&mut random, 30);
    let plain = Cmanp::open(&Device::cpu(), TRAINED).unwrap();
    let model = plain.exact().unwrap();
    let (a, b) = (plain.condition(&all.context()).unwrap(), model.condition(&all.context()).unwrap());
    refused(a.merge(&b), &["Posterior::merge", "exact sums"]);
    refused(b.merge(&a), &["Posterior::merge", "not exact"]);
    refused(a.without(&a), &["Posterior::without", "Cmanp::exact"]);
    let build = |checkpoint: &Checkpoint| Cmanp::new(&Device::cpu(), plain.config(), checkpoint);
    let other = build(&Checkpoint::random(1, build).unwrap()).unwrap().exact().unwrap();
    refused(b.without(&other.condition(&all.context()).unwrap()), &["Posterior::without", "another model"]);
    refused(b.without(&b), &["Posterior::without", "30"]);
    refused(plain.restore(&b.to_checkpoint().unwrap()), &["exact"]);
    refused(model.restore(&a.to_checkpoint().unwrap()), &["not exact"]);
    let whole = bytes(&b);
    let restored = model.restore(&Checkpoint::from_bytes(&whole).unwrap()).unwrap();
    assert!(bytes(&restored) == whole && restored.exact_states() == b.exact_states());
    // Nothing that is damaged passes, and nothing panics.
    for i in (0..whole.len()).step_by(997) {
        let mut damaged = whole.clone();
        damaged[i] ^= 0x10;
        if let Ok(checkpoint) = Checkpoint::from_bytes(&damaged) {
            assert!(model.restore(&checkpoint).is_err(), "byte {i}");
        }
        assert!(Checkpoint::from_bytes(&whole[..i]).and_then(|checkpoint| model.restore(&checkpoint)).is_err());
    }
    refused(model.condition(&Context::new(&[0.0, f64::NAN, 0.0], &[1.0])), &["x of point 0"]);
    #[cfg(feature = "gpu")]
    for (name, device) in crate::support::gpus() {
        let model = Cmanp::open(&device, TRAINED).unwrap();
        assert!(model.exact().unwrap_err().to_string().contains("Device::cpu()"), "{name}");
    }
}
