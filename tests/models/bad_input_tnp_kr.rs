//! Bad input of TNP-KR, and files that are none of its checkpoints.

use crate::support::{CHECKPOINT, devices, refused};
use wgpu_attention::{
    Device, Error,
    checkpoint::Checkpoint,
    models::tnp_kr::{AttentionConfig, Config, Context, KrBlock, Locations, TnpKr},
};

#[test]
fn contexts_and_predictions() {
    for (_, device) in devices() {
        let model = TnpKr::open(&device, CHECKPOINT).unwrap();
        let at = |x| Locations::space(1, x);
        let x = [0.0, 1.0, 2.0];
        refused(model.condition(&Context::new(at(&[]), &[])), &["context is empty", "at least one"]);
        refused(model.condition(&Context::new(at(&x), &x).mask(&[false; 3])), &["context is empty", "batch element 0"]);
        refused(model.condition(&Context::new(at(&x), &x).mask(&[true; 2])), &["[1, 3]", "3", "2"]);
        refused(model.condition(&Context::new(at(&x[..2]), &x)), &["[1, 3, 1]", "2"]);
        refused(model.condition(&Context::new(at(&[0.0, f32::NAN, 2.0]), &x)), &["coordinates \"s\"[1]", "NaN"]);
        refused(model.condition(&Context::new(at(&x), &[0.0, f32::INFINITY, 2.0])), &["values of point 1", "inf"]);
        refused(model.condition(&Context::new(at(&x).time(&x), &x)), &["\"t\"", "[\"s\"]"]);
        refused(model.condition(&Context::new(Locations::default(), &x)), &["0 of name \"s\"", "once"]);
        refused(model.condition(&Context::new(at(&x).group("s", 1, &x), &x)), &["2 of name \"s\"", "once"]);
        refused(model.condition(&Context::new(Locations::space(0, &x), &x)), &["dim"]);
        refused(model.condition(&Context::new(at(&x).batch(0), &x)), &["batch"]);
        refused(model.condition(&Context::new(at(&x).batch(2), &x)), &["[2, 1, 1]"]);
        let posterior = model.condition(&Context::new(at(&x), &x)).unwrap();
        refused(posterior.predict(&at(&[f32::NAN])), &["coordinates \"s\"[0]", "NaN"]);
        refused(posterior.predict(&Locations::space(2, &[0.0, 0.0])), &["coordinate columns", "0..2", "0..1"]);
        refused(posterior.predict(&at(&x).batch(3)), &["batch", "3", "1"]);
        refused(posterior.predict_tiles(&at(&x), 0, |_, _| Ok(())), &["tile_size"]);
        assert_eq!(posterior.predict(&at(&[])).unwrap().shape(), [1, 0, 1]);
        // No numbers are as many points of any size.
        for dim in [1 << 17, 1 << 63] {
            refused(posterior.predict(&Locations::space(dim, &[0.0f32; 0])), &["dim", "1 to 65536"]);
        }
        // A receiver may stop.
        let stop = || Error::Config { message: "enough".into() };
        refused(posterior.predict_tiles(&at(&x), 1, |_, _| Err(stop())), &["enough"]);
    }
}

/// A safetensors file with this header and this much data.
fn file(header: &str, n_bytes: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; n_bytes]].concat()
}

#[test]
fn hostile_files() {
    let good = std::fs::read(CHECKPOINT).unwrap();
    for length in [0, 1, 7, 8, 9, 100, 1000, good.len() / 2, good.len() - 1] {
        refused(Checkpoint::from_bytes(&good[..length]), &["not a readable checkpoint"]);
    }
    // A header of 4 GiB, of more than memory, and of the largest number.
    for length in [4u64 << 30, 1 << 50, u64::MAX] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([b'{'; 100]);
        refused(Checkpoint::from_bytes(&bytes), &["not a readable checkpoint"]);
    }
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    assert!(Checkpoint::from_bytes(&file(&tensor("F32", "[2]", "[0,8]"), 8)).is_ok());
    for (header, n_bytes) in [
        (tensor("F32", "[2]", "[0,8]"), 4),
        (tensor("F32", "[3]", "[0,8]"), 8),
        (tensor("F32", "[2]", "[8,0]"), 8),
        (tensor("F32", "[4611686018427387904,4]", "[0,8]"), 8),
        (tensor("F32", "[18446744073709551615]", "[0,8]"), 8),
        (tensor("F99", "[2]", "[0,8]"), 8),
        ("{".into(), 8),
        ("[]".into(), 0),
        ("\u{0}".into(), 0),
    ] {
        refused(Checkpoint::from_bytes(&file(&header, n_bytes)), &["not a readable checkpoint"]);
    }
    let mut nan = file(&tensor("F32", "[2]", "[0,8]"), 0);
    nan.extend([0.0f32.to_le_bytes(), f32::NAN.to_le_bytes()].concat());
    let nan = Checkpoint::from_bytes(&nan).unwrap();
    let load = |checkpoint: &Checkpoint| checkpoint.load(&Device::cpu(), |p| p.tensor("a", &[2]));
    refused(load(&nan), &["parameter a", "[1]", "NaN"]);
    refused(Checkpoint::open("does/not/exist.safetensors"), &["does/not/exist.safetensors"]);
}

#[test]
fn parameters_that_do_not_fit() {
    let device = Device::cpu();
    let checkpoint = Checkpoint::open(CHECKPOINT).unwrap();
    let config: Config = serde_json::from_str(checkpoint.metadata("config").unwrap()).unwrap();
    assert!(TnpKr::new(&device, &config, &checkpoint).is_ok());
    refused(checkpoint.metadata("colour"), &["colour", "config"]);

    let mut extra = checkpoint.clone();
    extra.insert("KRBlock_0.surprise", &[1], vec![0.0]).unwrap();
    refused(TnpKr::new(&device, &config, &extra), &["KRBlock_0.surprise", "1 parameter"]);
    refused(extra.insert("b", &[2], vec![0.0]), &["[2]", "1"]);
    let mut misshapen = checkpoint.clone();
    misshapen.insert("KRBlock_3.attn.attn.s_bias_b", &[4, 4], vec![0.0; 16]).unwrap();
    refused(TnpKr::new(&device, &config, &misshapen), &["KRBlock_3.attn.attn.s_bias_b", "[4, 4]", "[4, 5]"]);
    refused(TnpKr::new(&device, &config, &Checkpoint::default()), &["embed_obs.embedding", "missing", "[2, 4]"]);
    let deeper = Config { n_blocks: 7, ..config.clone() };
    refused(TnpKr::new(&device, &deeper, &checkpoint), &["KRBlock_6.", "missing"]);
    let shallower = Config { n_blocks: 5, ..config.clone() };
    refused(TnpKr::new(&device, &shallower, &checkpoint), &["KRBlock_5.", "does not use"]);

    refused(TnpKr::new(&device, &Config { n_blocks: 0, ..config.clone() }, &checkpoint), &["n_blocks", "1 or more"]);
    let mut other = config.clone();
    other.head.dims = vec![64, 3];
    refused(TnpKr::new(&device, &other, &checkpoint), &["head ends in width 3", "2"]);
    other = config.clone();
    other.ffn.dims = vec![];
    refused(TnpKr::new(&device, &other, &checkpoint), &["ffn.dims", "one or more"]);
    other = config.clone();
    other.groups[0].embed = true;
    refused(TnpKr::new(&device, &other, &checkpoint), &["\"s\"", "dim"]);
    other = config.clone();
    other.groups.push(other.groups[0].clone());
    refused(TnpKr::new(&device, &other, &checkpoint), &["\"s\"", "twice"]);
    // Sums of them overflowed.
    other = config.clone();
    other.groups[0].dim = Some(usize::MAX);
    refused(other.check(), &["dim of a group", "1024"]);
    let linear = Config::performer(2, 1);
    assert!(linear.check().is_ok());
    other = linear.clone();
    other.groups[0].embed = false;
    refused(other.check(), &["\"s\"", "not embedded"]);
    other = linear.clone();
    other.groups[0].bias = config.groups[0].bias.clone();
    refused(other.check(), &["\"s\"", "only scan attention"]);
    other = Config::deep_kernel(2, 1);
    other.groups[0].name = "x".into();
    refused(other.check(), &["\"s\"", "dim"]);
    for n_heads in [0, 3] {
        other = Config::deep_kernel(2, 1);
        other.attention = match other.attention {
            AttentionConfig::DeepKernel { proj_qks, proj_vs, .. } => {
                AttentionConfig::DeepKernel { n_heads, proj_qks, proj_vs }
            }
            _ => unreachable!(),
        };
        refused(other.check(), &["heads", "multiples"]);
        refused(checkpoint.load(&device, |parameters| KrBlock::load(parameters, &other)), &["multiples"]);
    }
    for text in ["{}", "null", r#"{"n_blocks": -1}"#, &serde_json::to_string(&config).unwrap().replace("rbf", "cubic")]
    {
        assert!(serde_json::from_str::<Config>(text).is_err());
    }
}
