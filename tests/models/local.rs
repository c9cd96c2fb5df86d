//! Predictions from the nearest observations, beside conditioning on those by hand.

use crate::support::{CHECKPOINT, devices};
use wgpu_attention::{
    Device,
    models::{
        Prediction,
        tnp_kr::{BiasConfig, Config, Context, GroupConfig, Local, Locations, TnpKr},
    },
    ops::{BiasKernel, Distance},
};

/// What is predicted of each place, mean and deviation.
fn predicted(model: &TnpKr, context: &Context<'_>, at: &Locations<'_>, n: usize, local: &Local) -> Vec<[f32; 2]> {
    let mut all = vec![[f32::NAN; 2]; n];
    let receive = |part: &wgpu_attention::models::Neighbourhood, prediction: Prediction| {
        assert_eq!(prediction.shape(), [1, part.places.len(), 1]);
        for ((&place, &mean), &std) in part.places.iter().zip(prediction.mean()).zip(prediction.std()) {
            assert!(all[place][0].is_nan(), "place {place} came twice");
            all[place] = [mean, std];
        }
        Ok(())
    };
    model.predict_local(context, at, local, receive).unwrap();
    all
}

/// A rough function of the plane, far from the origin.
fn field(n: usize, spread: f64) -> (Vec<f64>, Vec<f32>) {
    let place =
        |i: usize| [1e6 + spread * ((i * 37 % 101) as f64 / 101.0), -5e5 + spread * ((i * 53 % 97) as f64 / 97.0)];
    let places: Vec<f64> = (0..n).flat_map(place).collect();
    let value = |p: &[f64]| 280.0 + 3.0 * (((p[0] - 1e6) / spread * 9.0).sin() + ((p[1] + 5e5) / spread * 7.0).cos());
    let values = places.chunks(2).map(|p| value(p) as f32).collect();
    (places, values)
}

#[test]
fn places_are_predicted_as_from_their_neighbourhoods_alone() {
    let config = Config { n_blocks: 2, ..Config::scan(1) };
    for (name, device) in &devices() {
        let model = TnpKr::random(device, &config, 3).unwrap();
        let (places, values) = field(400, 2.0);
        let (asked, _) = field(70, 1.9);
        let keep: Vec<bool> = (0..400).map(|i| i % 5 != 0).collect();
        let context = Context::new(Locations::space(2, &places), &values).mask(&keep);
        let at = Locations::space(2, &asked);
        for (nearest, together) in [(1, 1), (7, 1), (40, 16), (1000, 8)] {
            let local = Local::nearest(nearest).together(together);
            let found = predicted(&model, &context, &at, 70, &local);
            for part in model.neighbourhoods(&context, &at, &local).unwrap() {
                assert_eq!(part.observations.len(), nearest.min(320));
                assert!(part.observations.iter().all(|i| keep[*i]));
                let pick = |from: &[f64], indices: &[usize]| -> Vec<f64> {
                    indices.iter().flat_map(|i| from[2 * i..2 * i + 2].to_vec()).collect()
                };
                let near: Vec<f32> = part.observations.iter().map(|i| values[*i]).collect();
                let (from, to) = (pick(&places, &part.observations), pick(&asked, &part.places));
                let alone = model.condition(&Context::new(Locations::space(2, &from), &near)).unwrap();
                let alone = alone.predict(&Locations::space(2, &to)).unwrap();
                for (i, &place) in part.places.iter().enumerate() {
                    let expected = [alone.mean()[i], alone.std()[i]];
                    for (a, b) in found[place].iter().zip(expected) {
                        assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{name}: {place}: {a} {b}");
                    }
                }
            }
        }
    }
}

/// The units of coordinates and values, and where they begin, change nothing but the units of what is
/// predicted.
#[test]
fn standardised_neighbourhoods_know_no_units() {
    for (name, device) in &devices() {
        let model = TnpKr::random(device, &Config { n_blocks: 2, ..Config::scan(1) }, 4).unwrap();
        let local = Local::nearest(50).together(8).standardise();
        let (places, values) = field(300, 2.0);
        let (asked, _) = field(40, 1.9);
        let base = predicted(
            &model,
            &Context::new(Locations::space(2, &places), &values),
            &Locations::space(2, &asked),
            40,
            &local,
        );
        let moved = |p: &[f64]| -> Vec<f64> { p.iter().map(|x| 1000.0 * x - 7.0).collect() };
        let (places, asked) = (moved(&places), moved(&asked));
        let values: Vec<f32> = values.iter().map(|y| 10.0 * (y - 280.0)).collect();
        let context = Context::new(Locations::space(2, &places), &values);
        let other = predicted(&model, &context, &Locations::space(2, &asked), 40, &local);
        for (a, b) in base.iter().zip(&other) {
            // Values of 280 in f32 are 3e-5 apart, ten times that in the other units.
            assert!((10.0 * (a[0] - 280.0) - b[0]).abs() < 0.02, "{name}: {a:?} {b:?}");
            assert!((10.0 * a[1] - b[1]).abs() < 2e-3 * b[1], "{name}: {a:?} {b:?}");
        }
        // A constant field has no deviation to be scaled by.
        let flat = vec![5.0; 300];
        let context = Context::new(Locations::space(2, &places), &flat);
        let flat = predicted(&model, &context, &Locations::space(2, &asked), 40, &local);
        assert!(flat.iter().all(|[mean, std]| mean.is_finite() && *std > 0.0));
    }
}

/// By hand what the documentation says: values of mean 0 and deviation 1, places of root mean square 1.
#[test]
fn standardised_neighbourhoods_are_scaled_as_networks_were_trained() {
    let local = Local::nearest(30).together(4).standardise();
    let ((places, values), (asked, _)) = (field(100, 2.0), field(20, 1.9));
    for (name, device) in &devices() {
        let model = TnpKr::random(device, &Config { n_blocks: 2, ..Config::scan(1) }, 4).unwrap();
        let (context, at) = (Context::new(Locations::space(2, &places), &values), Locations::space(2, &asked));
        let found = predicted(&model, &context, &at, 20, &local);
        for part in model.neighbourhoods(&context, &at, &local).unwrap() {
            let n = part.observations.len() as f64;
            let mean = |of: &dyn Fn(usize) -> f64| part.observations.iter().map(|i| of(*i)).sum::<f64>() / n;
            let middle = [0, 1].map(|c| mean(&|i| places[2 * i + c]));
            let size = mean(&|i| (0..2).map(|c| (places[2 * i + c] - middle[c]).powi(2)).sum()).sqrt();
            let level = mean(&|i| f64::from(values[i]));
            let unit = mean(&|i| (f64::from(values[i]) - level).powi(2)).sqrt();
            let scaled = |from: &[f64], indices: &[usize]| -> Vec<f64> {
                indices.iter().flat_map(|i| [0, 1].map(|c| (from[2 * i + c] - middle[c]) / size)).collect()
            };
            let near: Vec<f32> =
                part.observations.iter().map(|i| ((f64::from(values[*i]) - level) / unit) as f32).collect();
            let (from, to) = (scaled(&places, &part.observations), scaled(&asked, &part.places));
            let posterior = model.condition(&Context::new(Locations::space(2, &from), &near)).unwrap();
            let alone = posterior.predict(&Locations::space(2, &to)).unwrap().in_units(&[unit], &[level]).unwrap();
            for (i, &place) in part.places.iter().enumerate() {
                let ([a, b], [mean, std]) = (found[place], [alone.mean()[i], alone.std()[i]]);
                // Values of 280 in f32 are 3e-5 apart.
                assert!(
                    (a - mean).abs() < 1e-3 && (b - std).abs() < 1e-3 * std,
                    "{name}: {place}: {a} {b}, {mean} {std}"
                );
            }
        }
    }
}

/// An hour is worth so many units of space.
#[test]
fn weights_multiply_differences() {
    let mut config = Config { n_blocks: 1, ..Config::scan(1) };
    config.groups = vec![group("s", Distance::Euclidean), group("t", Distance::Euclidean)];
    let model = TnpKr::random(&Device::cpu(), &config, 5).unwrap();
    // One unit of space away, and three of time.
    let context = Context::new(Locations::space(1, &[1.0f32, 0.0]).time(&[0.0f32, 3.0]), &[1.0, 2.0]);
    let at = Locations::space(1, &[0.0f32]).time(&[0.0f32]);
    for (weight, nearest) in [(0.25, 1), (0.32, 1), (0.35, 0), (0.5, 0), (1.0, 0)] {
        let parts = model.neighbourhoods(&context, &at, &Local::nearest(1).weight("t", weight)).unwrap();
        assert_eq!(parts[0].observations, [nearest], "weight {weight}");
    }
}

fn group(name: &str, distance: Distance) -> GroupConfig {
    let bias = BiasConfig { kernel: BiasKernel::Rbf, distance, n_basis: 2 };
    GroupConfig { name: name.into(), dim: None, embed: false, bias: Some(bias), category: None }
}

#[test]
fn great_circles_cross_the_date_line_and_time_reads_nothing_later() {
    let mut config = Config { n_blocks: 1, ..Config::scan(1) };
    config.groups = vec![group("s", Distance::GreatCircle), group("t", Distance::CausalTime)];
    let model = TnpKr::random(&Device::cpu(), &config, 5).unwrap();
    let (s, t) = ([179.5f32, 10.0, -179.5, 0.0, 170.0, 80.0, 0.0, 0.0], [0.0f32, 0.0, 5.0, 1.0]);
    let context = Context::new(Locations::space(2, &s).time(&t), &[1.0, 2.0, 3.0, 4.0]);
    let at = Locations::space(2, &[-179.9, 10.0, -179.9, 0.0]).time(&[3.0, 9.0]);
    let parts = model.neighbourhoods(&context, &at, &Local::nearest(2).weight("t", 0.0)).unwrap();
    let of = |place: usize| parts.iter().find(|part| part.places == [place]).unwrap().observations.clone();
    assert_eq!((of(0)[0], of(1)[0]), (0, 1)); // across the line; that of moment 5 is not there at 3
    assert!(!of(0).contains(&2));
    // Three observations for one place and four for the other: none is read twice.
    let found = predicted(&model, &context, &at, 2, &Local::nearest(9));
    let alone = model.condition(&context).unwrap().predict(&at).unwrap();
    for (i, [mean, _]) in found.iter().enumerate() {
        assert!((mean - alone.mean()[i]).abs() < 1e-5, "{i}: {mean} {}", alone.mean()[i]);
    }
    let early = Locations::space(2, &[0.0, 0.0]).time(&[-1.0]);
    let error = model.neighbourhoods(&context, &early, &Local::nearest(2)).unwrap_err().to_string();
    assert!(error.contains("before the first observation"), "{error}");
}

/// Places that come together are not kept from what only one of them may see.
#[test]
fn places_that_come_together_see_all_that_was_before_each() {
    let mut config = Config { n_blocks: 1, ..Config::scan(1) };
    config.groups = vec![group("s", Distance::Euclidean), group("t", Distance::CausalTime)];
    let model = TnpKr::random(&Device::cpu(), &config, 5).unwrap();
    let t: Vec<f32> = [0.0].into_iter().chain((0..15).map(|i| 1.5 + 0.1 * i as f32)).collect();
    let context = Context::new(Locations::space(1, &[0.0f32; 16]).time(&t), &[0.5; 16]);
    for weight in [1.0, 0.0] {
        let local = Local::nearest(8).together(16).weight("t", weight);
        let asked = |t: &[f32]| {
            let s = vec![0.0f32; t.len()];
            model.neighbourhoods(&context, &Locations::space(1, &s).time(t), &local).map_err(|error| error.to_string())
        };
        let seen = |parts: &[wgpu_attention::models::Neighbourhood], place: usize| {
            parts.iter().find(|part| part.places.contains(&place)).unwrap().observations.len()
        };
        let parts = asked(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!([0, 1, 2].map(|place| seen(&parts, place)), [1, 7, 8], "weight {weight}");
        // Those that see the same stay together.
        assert_eq!(asked(&[1.0; 3]).unwrap().len(), 1);
        // The place that is too early is named, not the one beside it.
        let refused = asked(&[3.0, -1.0]).unwrap_err();
        assert!(refused.contains("place 1, before all observations"), "{refused}");
    }
}

/// Whether a neighbourhood is like the training is said of it alone.
#[test]
fn what_lies_outside_is_that_of_the_neighbourhood() {
    let model = TnpKr::open(&Device::cpu(), CHECKPOINT).unwrap();
    let near: Vec<f64> = (0..40).map(|i| 0.1 * f64::from(i)).collect();
    let x: Vec<f64> = near.iter().copied().chain(near.iter().map(|x| x + 100.0)).collect();
    let y: Vec<f32> = x.iter().map(|&x| (2.0 * x).sin() as f32 + if x < 50.0 { 0.0 } else { 1013.0 }).collect();
    let at = Locations::space(1, &[101.55, 1.55]);
    let mut found = [None, None];
    let context = Context::new(Locations::space(1, &x), &y);
    model
        .predict_local(&context, &at, &Local::nearest(40), |part, prediction| {
            found[part.places[0]] = Some(prediction.outside().clone());
            Ok(())
        })
        .unwrap();
    let [far, near] = found.map(Option::unwrap);
    assert!(near.is_empty(), "{near}");
    assert!(far.to_string().contains("the mean of the values is 101"), "{far}");
    assert!(far.departures.iter().all(|departure| departure.element == 0));
}

/// A sum of equal numbers is rounded: stations with more observations than are asked for had the size of a rounding.
#[test]
fn observations_at_one_place_have_no_size() {
    let model = TnpKr::open(&Device::cpu(), CHECKPOINT).unwrap();
    let local = Local::nearest(64).standardise();
    let y: Vec<f32> = (0..80).map(|i| (i as f32).sin()).collect();
    let predict = |station: f64| {
        let x = vec![station; 80];
        predicted(&model, &Context::new(Locations::space(1, &x), &y), &Locations::space(1, &[station + 0.5]), 1, &local)
    };
    let [exact, rounded] = [13.0, 13.37].map(|station| predict(station)[0]);
    for (a, b) in exact.iter().zip(rounded) {
        assert!((a - b).abs() < 1e-4, "{exact:?} {rounded:?}");
    }
}

/// One observation, or several equal ones, says nothing of how much values vary: the deviation of a rounding was
/// certainty.
#[test]
fn observations_that_are_all_the_same_vary_as_all_do() {
    let model = TnpKr::open(&Device::cpu(), CHECKPOINT).unwrap();
    let x: Vec<f64> = (0..40).map(|i| 0.1 * f64::from(i)).collect();
    let y: Vec<f32> = x.iter().map(|x| (2.0 * x).sin() as f32).collect();
    let context = Context::new(Locations::space(1, &x), &y);
    let (at, local) = (Locations::space(1, &[1.55]), Local::nearest(1).standardise());
    let [mean, std] = predicted(&model, &context, &at, 1, &local)[0];
    // That of a rounding was 1e-7; the network is sure of what is near, but not so sure.
    assert!((mean - 0.04).abs() < 1.0 && (1e-3..2.0).contains(&std), "{mean} {std}");
}

/// A network that sees the coordinates themselves is given what is left of them, near as far.
#[test]
fn an_origin_is_taken_off_in_every_neighbourhood() {
    let places: Vec<f64> = (0..40).map(|i| f64::from(i) * 0.125).collect();
    let values: Vec<f32> = places.iter().map(|x| x.sin() as f32).collect();
    let (asked, origin) = ([0.5, 1.75, 4.0], 1e9);
    let [far, far_asked] = [&places[..], &asked].map(|x| x.iter().map(|x| x + origin).collect::<Vec<f64>>());
    let config = Config { n_blocks: 1, ..Config::deep_kernel(1, 1) };
    for (name, device) in devices() {
        let model = TnpKr::random(&device, &config, 3).unwrap();
        let local = Local::nearest(7);
        let near = Context::new(Locations::space(1, &places), &values);
        let near = predicted(&model, &near, &Locations::space(1, &asked), 3, &local);
        let far = Context::new(Locations::space(1, &far), &values).origin("s", &[origin]);
        assert_eq!(predicted(&model, &far, &Locations::space(1, &far_asked), 3, &local), near, "{name}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let model = TnpKr::open(&Device::cpu(), CHECKPOINT).unwrap();
    let (x, y) = ([0.0f32, 1.0, 2.0], [0.5f32, 0.1, 0.2]);
    let context = Context::new(Locations::space(1, &x), &y);
    let at = Locations::space(1, &[0.5f32]);
    let refused = |context: &Context<'_>, at: &Locations<'_>, local: Local, words: &[&str]| {
        let error = model.predict_local(context, at, &local, |_, _| Ok(())).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    refused(&context, &at, Local::nearest(0), &["nearest", "1 or more"]);
    refused(&context, &at, Local::nearest(1).together(0), &["together", "1 or more"]);
    refused(&context, &at, Local::nearest(1).weight("t", 1.0), &["\"t\"", "\"s\""]);
    refused(&context, &at, Local::nearest(1).weight("s", f64::NAN), &["NaN", "0, or 1e-100 to 1e100"]);
    refused(&context, &at, Local::nearest(1).weight("s", -1.0), &["-1", "0, or 1e-100 to 1e100"]);
    // Squares of such differences would all be infinite, or nothing, and any observation the nearest.
    for weight in [1e200, 1e300, 1e-200] {
        refused(&context, &at, Local::nearest(1).weight("s", weight), &["a weight", "1e100"]);
    }
    refused(&context, &Locations::space(2, &[0.5f32, 1.0]), Local::nearest(1), &["coordinate"]);
    refused(&context, &Locations::space(1, &[0.5f32, 1.0]).batch(2), Local::nearest(1), &["batch", "2"]);
    refused(&context, &Locations::space(1, &[f32::NAN]), Local::nearest(1), &["finite"]);
    refused(&Context::new(Locations::space(1, &[0.0f32; 0]), &[]), &at, Local::nearest(1), &["context"]);
    let deep = TnpKr::random(&Device::cpu(), &Config { n_blocks: 1, ..Config::deep_kernel(1, 1) }, 0).unwrap();
    let error = deep.predict_local(&context, &at, &Local::nearest(2).standardise(), |_, _| Ok(())).unwrap_err();
    assert!(error.to_string().contains("differences"), "{error}");
    let none = model.predict_local(&context, &Locations::space(1, &[0.0f32; 0]), &Local::nearest(1), |_, _| panic!());
    none.unwrap();
}
