//! What each kind of input may not do.

use std::{
    io::Cursor,
    sync::{Arc, LazyLock},
};

use shared::lines::Lines;
use wgpu_attention::{
    Device, Error, Tensor,
    checkpoint::Checkpoint,
    models::tnp_kr::Config,
    ops::{Bias, BiasTerm, CustomBias, ScanAttention, scan_attention},
    serde_json,
};

use crate::{
    corpus::corpus_file,
    models::{Saved, outputs, saved},
};

/// A checkpoint is refused, or its network says the same after it was written and read again; and
/// what is a prediction, not a tensor, is finite.
pub fn checkpoint(data: &[u8]) {
    let Ok(checkpoint) = Checkpoint::from_bytes(data) else { return };
    let Ok(said) = outputs(&checkpoint) else { return };
    let predicts = checkpoint.metadata("model").is_ok_and(|model| ["tnp_kr", "cmanp"].contains(&model));
    assert!(!predicts || said.iter().all(|x| x.is_finite()), "not finite: {said:?}");
    let again = outputs(&Checkpoint::from_bytes(&checkpoint.to_bytes().unwrap()).unwrap()).unwrap();
    let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&said), bits(&again));
}

/// A posterior is refused, or predicts to the bit what the committed one does, of which it is a mutation. (One that is
/// made today may differ from that in its last bits: instruction sets do.)
pub fn posterior(data: &[u8]) {
    let Ok(file) = Checkpoint::from_bytes(data) else { return };
    static COMMITTED: LazyLock<Vec<Vec<f32>>> = LazyLock::new(|| {
        let file = |saved: &Saved| Checkpoint::open(corpus_file("posterior", saved.name));
        saved().iter().map(|saved| saved.predict(&file(saved).unwrap()).unwrap()).collect()
    });
    for (saved, expected) in saved().iter().zip(&*COMMITTED) {
        if let Ok(said) = saved.predict(&file) {
            assert_eq!(&said, expected, "{}", saved.name);
        }
    }
}

/// A configuration of the papers' code is refused, or is one that can be checked and stored.
pub fn dl4bi(data: &[u8]) {
    let Ok(model) = serde_json::from_slice(data) else { return };
    for groups in [&[("s", 2)][..], &[("s", 1), ("t", 1)], &[("x", 3), ("s", 2)]] {
        if let Ok(config) = Config::from_dl4bi(&model, 1, groups) {
            let checked = config.check().is_ok();
            let text = serde_json::to_string(&config).unwrap();
            let again: Config = serde_json::from_str(&text).unwrap();
            assert_eq!((&again, again.check().is_ok()), (&config, checked));
        }
    }
}

/// A bias of one's own is refused as a snippet, or leaves the rest of the kernel as it is: with
/// values of 1 every query reads 1, whatever the weights, or 0 where it masks all keys, or NaN
/// where it is not finite.
pub fn snippet(data: &[u8]) {
    let Ok(wgsl) = std::str::from_utf8(data) else { return };
    let device = adapter();
    let one = |n: usize| Tensor::new(device, &[1, 1, n, 1], &vec![1.0; n]).unwrap();
    let coords = |n: usize| Tensor::new(device, &[1, n, 1], &vec![0.5; n]).unwrap();
    let bias =
        CustomBias { name: "snippet".into(), wgsl: wgsl.into(), cpu: Arc::new(|_, _, _, _| 0.0), params: vec![1.0; 2] };
    let terms = [BiasTerm::custom(0..1, bias)];
    let (here, there) = (coords(3), coords(5));
    let options = ScanAttention::default().bias(Bias::new(&here, &there, &terms));
    match scan_attention(&one(3), &one(5), &one(5), &options).and_then(|read| read.values.read()) {
        Ok(values) => {
            let allowed = |x: &f32| x.is_nan() || *x == 0.0 || (*x - 1.0).abs() < 1e-5;
            assert!(values.iter().all(allowed), "the snippet reads {values:?}");
        }
        Err(Error::BiasShader { .. } | Error::LimitExceeded { .. }) => {}
        Err(other) => panic!("the snippet is refused as {other}"),
    }
}

/// Lines of CSV are refused by line, or hold as many finite numbers as the header has columns.
pub fn csv(data: &[u8]) {
    let mut lines = Lines::new("csv", Box::new(Cursor::new(data.to_vec())));
    let Ok(names) = lines.header() else { return };
    while let Ok(true) = lines.advance() {
        if let Ok(numbers) = lines.numbers(&names) {
            assert!(numbers.len() == names.len() && numbers.iter().all(|x| x.is_finite()), "{numbers:?}");
        }
    }
}

/// The first adapter that there is, opened once; without one the snippets run nowhere.
pub(crate) fn adapter() -> &'static Device {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::gpu().unwrap_or_else(|_| Device::cpu()));
    &DEVICE
}
