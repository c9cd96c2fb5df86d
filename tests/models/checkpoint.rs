//! Checkpoints: names that differ, files that are something else, and every model opened from one.

use std::path::PathBuf;

use crate::support::{Random, bound, devices, error, refused};
use wgpu_attention::{
    DType, Device, Error,
    checkpoint::Checkpoint,
    models::{
        cmanp::Cmanp,
        nam::{FewShot, LsamAe, LsamAeConfig, NamTmAe, NamTransformer, TransformerConfig},
        tnp_kr::{Config, Context, Locations, TnpKr},
    },
    serde_json,
};

fn checkpoints(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("checkpoints").join(name)
}

#[test]
fn names_are_suggested_and_mended() {
    let device = Device::cpu();
    let good = Checkpoint::open(checkpoints("gp_1d.safetensors")).unwrap();
    type Rename = fn(&str) -> String;
    let renames: [(Rename, Rename, &str); 3] = [
        (|name| format!("module.{name}"), |name| name.replacen("module.", "", 1), "module.embed_obs.embedding"),
        (|name| format!("params/{name}"), |name| name.replacen("params/", "", 1), "params/embed_obs.embedding"),
        (|name| name.replace('.', "/"), |name| name.replace('/', "."), "embed_obs/embedding"),
    ];
    for (spoil, mend, there) in renames {
        let mut checkpoint = good.clone();
        checkpoint.rename(spoil).unwrap();
        let error = TnpKr::from_checkpoint(&device, &checkpoint).unwrap_err();
        let Error::MissingParameter { file, name, similar, .. } = &error else { panic!("{error}") };
        assert!(file.ends_with("gp_1d.safetensors"), "{file}");
        assert_eq!((name.as_str(), similar[0].as_str()), ("embed_obs.embedding", there));
        assert!(similar.len() <= 3);
        refused::<()>(Err(error), &["gp_1d.safetensors", there, "Checkpoint::rename"]);
        checkpoint.rename(mend).unwrap();
        assert_eq!(checkpoint.fingerprint(), good.fingerprint());
        TnpKr::from_checkpoint(&device, &checkpoint).unwrap();
    }
    // What was used already is no suggestion.
    let config: Config = serde_json::from_str(good.metadata("config").unwrap()).unwrap();
    let deeper = Config { n_blocks: 7, ..config };
    let error = TnpKr::new(&device, &deeper, &good).unwrap_err().to_string();
    assert!(error.contains("KRBlock_6") && !error.contains("KRBlock_5"), "{error}");
}

#[test]
fn parameters_are_seen_renamed_and_removed() {
    let mut checkpoint = Checkpoint::default();
    checkpoint.insert("a.x", &[2, 1], vec![1.0, 2.0]).unwrap();
    checkpoint.insert("b.x", &[1], vec![3.0]).unwrap();
    assert_eq!(checkpoint.shape("a.x"), Some(&[2, 1][..]));
    assert_eq!(checkpoint.get("b.x"), Some((&[1][..], &[3.0][..])));
    assert_eq!((checkpoint.shape("x"), checkpoint.get("x")), (None, None));
    let before = checkpoint.fingerprint();
    refused(checkpoint.rename(|_| "x".into()), &["\"x\"", "\"a.x\"", "\"b.x\""]);
    assert_eq!(checkpoint.fingerprint(), before, "a refused renaming changes nothing");
    // What no parameter can be has a name, too.
    let counted = safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![], &[0; 8]).unwrap();
    let counted = safetensors::serialize([("n", counted)], None).unwrap();
    let mut both = Checkpoint::from_bytes(&counted).unwrap();
    both.insert("a.x", &[1], vec![1.0]).unwrap();
    refused(both.rename(|_| "x".into()), &["\"x\"", "\"a.x\"", "\"n\""]);
    checkpoint.rename(|name| name.replace('.', "/")).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a/x", "b/x"]);
    assert_eq!(checkpoint.remove("a/x"), Some((vec![2, 1], vec![1.0, 2.0])));
    assert_eq!((checkpoint.remove("a/x"), checkpoint.n_parameters()), (None, 1));
}

#[test]
fn errors_name_the_file() {
    let device = Device::cpu();
    let folder = std::env::temp_dir().join(format!("checkpoints-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("here.safetensors");
    let good = Checkpoint::open(checkpoints("gp_1d.safetensors")).unwrap();
    let spoiled = |spoil: &dyn Fn(&mut Checkpoint)| {
        let mut checkpoint = good.clone();
        spoil(&mut checkpoint);
        checkpoint.save(&path).unwrap();
        TnpKr::open(&device, &path)
    };
    let name = "embed_obs.embedding";
    refused(spoiled(&|c| drop(c.remove(name))), &["here.safetensors", name, "missing"]);
    refused(spoiled(&|c| c.insert(name, &[1], vec![0.0]).unwrap()), &["here.safetensors", name, "[1]", "[2, 4]"]);
    refused(spoiled(&|c| c.insert("more", &[1], vec![0.0]).unwrap()), &["here.safetensors", "more", "does not use"]);
    refused(spoiled(&|c| c.set_metadata("model", "cmanp")), &["here.safetensors", "cmanp", "tnp_kr"]);
    refused(spoiled(&|c| c.set_metadata("config", "{}")), &["here.safetensors", "n_blocks"]);
    // Numbers that are not finite cannot be inserted, so they are written over others.
    let mut bytes = good.to_bytes().unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    refused(Checkpoint::open(&path), &["here.safetensors", "not those that were saved"]);
    // Of a file that does not say what it was.
    let start = bytes.windows(11).position(|word| word == b"fingerprint").unwrap();
    bytes[start] = b'F';
    std::fs::write(&path, &bytes).unwrap();
    refused(TnpKr::open(&device, &path), &["here.safetensors", "parameter ", "NaN"]);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn other_formats_are_recognised() {
    refused(Checkpoint::from_bytes(b"PK\x03\x04 and the rest of it"), &["not a readable checkpoint", "zip", ".npz"]);
    refused(Checkpoint::from_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9"), &["not a readable checkpoint", "pickle", ".pt"]);
    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"n":{"dtype":"I64","shape":[],"data_offsets":[4,12]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 12]].concat();
    let all = Checkpoint::from_bytes(&file).unwrap();
    assert_eq!(all.load(&Device::cpu(), |p| p.tensor("a", &[1])).unwrap().read().unwrap(), [0.0]);
    refused(all.load(&Device::cpu(), |p| p.tensor("n", &[])), &["n has type I64", "F32"]);
    let read = Checkpoint::from_bytes_where(&file, |name| name != "n").unwrap();
    assert_eq!(read.names().collect::<Vec<_>>(), ["a"]);
}

/// As text, what is there of a network of thousands of parameters is a few words.
#[track_caller]
fn is_short(model: &impl std::fmt::Debug, words: &[&str]) {
    let text = format!("{model:?}");
    assert!(text.len() < 2500 && words.iter().all(|word| text.contains(word)), "{text}");
    assert!(!text.contains("Tensor("), "{text}");
}

#[test]
fn every_model_opens_from_bytes() {
    let device = Device::cpu();
    let read = |name: &str| Checkpoint::from_bytes(&std::fs::read(checkpoints(name)).unwrap()).unwrap();
    let model = TnpKr::from_checkpoint(&device, &read("gp_1d.safetensors")).unwrap();
    is_short(&model, &["TnpKr", "n_blocks", "CPU", "n_parameters"]);
    let posterior = model.condition(&Context::new(Locations::space(1, &[0.0]), &[1.0])).unwrap();
    is_short(&posterior, &["n_context: 1", "n_bytes"]);
    is_short(&Cmanp::from_checkpoint(&device, &read("cmanp_gp_1d.safetensors")).unwrap(), &["Cmanp", "d_model", "CPU"]);
    is_short(&NamTmAe::from_checkpoint(&device, &read("nam_tm_addition.safetensors")).unwrap(), &["NamTmAe"]);
    is_short(&FewShot::from_checkpoint(&device, &read("few_shot_nam_1.safetensors")).unwrap(), &["FewShot"]);

    let config = LsamAeConfig { vocab_size: 5, d_model: 8, n_heads: 2, dim_feedforward: 6 };
    let mut checkpoint = Checkpoint::random(1, |checkpoint| LsamAe::new(&device, &config, checkpoint)).unwrap();
    checkpoint.set_metadata("model", "nam_lsam");
    checkpoint.set_metadata("config", serde_json::to_string(&config).unwrap());
    let model = LsamAe::from_checkpoint(&device, &checkpoint).unwrap();
    is_short(&model, &["LsamAe", "vocab_size: 5"]);
    assert_eq!((model.config(), model.device()), (&config, &device));

    let config =
        r#"{"vocab":5,"max_len":3,"emb":4,"qkv":8,"mlp":4,"heads":4,"layers":1,"classes":2,"learn_pos":false}"#;
    let parsed: TransformerConfig = serde_json::from_str(config).unwrap();
    let mut checkpoint = Checkpoint::random(2, |checkpoint| NamTransformer::new(&device, &parsed, checkpoint)).unwrap();
    checkpoint.set_metadata("model", "nam_transformer");
    refused(NamTransformer::from_checkpoint(&device, &checkpoint), &["metadata", "\"config\"", "\"model\""]);
    checkpoint.set_metadata("config", config);
    let model = NamTransformer::from_checkpoint(&device, &checkpoint).unwrap();
    is_short(&model, &["NamTransformer", "max_len: 3"]);
    refused(LsamAe::from_checkpoint(&device, &checkpoint), &["nam_transformer", "nam_lsam"]);
}

#[test]
fn damaged_posteriors_are_called_so() {
    let config = Config { n_blocks: 1, ..Config::scan(1) };
    let model = TnpKr::random(&Device::cpu(), &config, 1).unwrap();
    let mut random = Random::new(2);
    let (x, y) = (random.numbers(10), random.numbers(5));
    let posterior = model.condition(&Context::new(Locations::space(2, &x), &y).mask(&[true; 5])).unwrap();
    let saved = posterior.to_checkpoint().unwrap();
    let with = |from: &str, to: &str| {
        let mut wrong = saved.clone();
        let metadata = saved.metadata("posterior").unwrap();
        assert!(metadata.contains(from), "{metadata}");
        wrong.set_metadata("posterior", metadata.replace(from, to));
        let error = model.restore(&wrong).unwrap_err();
        assert!(matches!(error, Error::Posterior { .. }), "{error}");
        error.to_string()
    };
    for (from, to, word) in [
        ("\"tnp_kr\"", "\"cmanp\"", "cmanp"),
        ("\"batch\":1", "\"batch\":0", "batch"),
        ("\"batch\":1", "\"batch\":-1", "-1"),
        ("\"batch\":1,", "", "null"),
        ("\"masked\":true", "\"surprise\":1,\"masked\":true", "surprise"),
        ("\"n_context\":5", "\"n_context\":0", "0 observations"),
    ] {
        let message = with(from, to);
        assert!(message.starts_with("saved posterior <memory>: ") && message.contains(word), "{message}");
    }
    let mut wrong = saved.clone();
    wrong.insert("mask", &[1, 5], vec![0.0; 5]).unwrap();
    refused(model.restore(&wrong), &["saved posterior", "not those that were saved"]);
    let [before, after] = [&saved, &wrong].map(|checkpoint| format!("\"states\":{}", checkpoint.fingerprint()));
    wrong.set_metadata("posterior", saved.metadata("posterior").unwrap().replace(&before, &after));
    refused(model.restore(&wrong), &["saved posterior", "mask"]);
}

/// Weights that are of f16 in a file are so on the device, and the predictions are those of the same numbers
/// as f32; the file takes half of the bytes.
#[test]
fn halves_of_a_file_stay_halves() {
    let mut wide = Checkpoint::open(checkpoints("gp_1d.safetensors")).unwrap();
    let names: Vec<String> = wide.names().map(str::to_owned).collect();
    let mut narrow = wide.clone();
    for name in &names {
        narrow.to_f16(name).unwrap();
        let (shape, numbers) = narrow.get(name).map(|(shape, numbers)| (shape.to_vec(), numbers.to_vec())).unwrap();
        wide.insert(name, &shape, numbers).unwrap();
    }
    let (of_wide, of_narrow) = (wide.to_bytes().unwrap(), narrow.to_bytes().unwrap());
    assert!(of_narrow.len() < of_wide.len() * 6 / 10, "{} and {}", of_narrow.len(), of_wide.len());
    let read = Checkpoint::from_bytes(&of_narrow).unwrap();
    assert_eq!((read.fingerprint(), read.to_bytes().unwrap()), (wide.fingerprint(), of_narrow));
    let context = Context::new(Locations::space(1, &[-1.0, 0.0, 1.0]), &[0.3, -0.1, 0.5]);
    for (name, device) in devices() {
        // One of the weights of both.
        let kernel = names.iter().find(|name| name.ends_with("Dense_0.kernel")).unwrap();
        for (checkpoint, dtype) in [(&wide, DType::F32), (&read, DType::F16)] {
            let mut one = checkpoint.clone();
            names.iter().filter(|name| *name != kernel).for_each(|name| drop(one.remove(name)));
            let shape = one.shape(kernel).unwrap().to_vec();
            let weight = one.load(&device, |parameters| parameters.weight(kernel, &shape)).unwrap();
            assert_eq!(weight.dtype(), dtype);
        }
        let predict = |checkpoint: &Checkpoint| {
            let model = TnpKr::from_checkpoint(&device, checkpoint).unwrap();
            let posterior = model.condition(&context).unwrap();
            let prediction = posterior.predict(&Locations::space(1, &[-0.5, 0.5, 2.0])).unwrap();
            [prediction.mean(), prediction.std()].concat()
        };
        let truth: Vec<f64> = predict(&wide).into_iter().map(f64::from).collect();
        let error = error(&predict(&read), &truth);
        assert!(error <= bound(&device, 5e-7), "{name}: off by {error:.2e}");
    }
    refused(narrow.to_f16("nothing"), &["Checkpoint::to_f16", "nothing"]);
    narrow.insert("large", &[2], vec![1.0, 1e6]).unwrap();
    refused(narrow.to_f16("large"), &["1000000 at 1", "65504"]);
}

/// Where nothing is, also if a run of the same number was killed.
fn temporary(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("wgpu-attention-checkpoint-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

/// What is written can be read: a file was replaced by one that nobody could open.
#[test]
fn what_could_not_be_read_is_not_written() {
    let mut checkpoint = Checkpoint::default();
    refused(checkpoint.insert("__metadata__", &[1], vec![1.0]), &["__metadata__", "another"]);
    refused(checkpoint.insert("a", &[usize::MAX, 2, 0], vec![]), &["numbers of one tensor"]);
    checkpoint.insert("a", &[1], vec![1.0]).unwrap();
    refused(checkpoint.rename(|_| "__metadata__".into()), &["__metadata__"]);
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a"]);
    let path = temporary("kept");
    checkpoint.save(&path).unwrap();
    checkpoint.set_metadata("long", "x".repeat(5 << 20));
    refused(checkpoint.save(&path), &["its header has", "allowed"]);
    assert!(Checkpoint::open(&path).unwrap().metadata("long").is_err());
    std::fs::remove_file(&path).unwrap();
}

/// A file goes where a link leads; what stands beside it under the name of the unfinished file is not followed.
#[test]
#[cfg(unix)]
fn links_stay_links_when_a_file_is_saved() {
    use std::os::unix::fs::symlink;
    let mut checkpoint = Checkpoint::default();
    checkpoint.insert("a", &[1], vec![1.0]).unwrap();
    let [link, target, other] = ["link", "target", "other"].map(temporary);
    std::fs::write(&target, "old").unwrap();
    std::fs::write(&other, "kept").unwrap();
    symlink(&target, &link).unwrap();
    let part = PathBuf::from(format!("{}.part", target.display()));
    symlink(&other, &part).unwrap();
    checkpoint.save(&link).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink() && !target.symlink_metadata().unwrap().is_symlink());
    assert_eq!(Checkpoint::open(&target).unwrap().fingerprint(), checkpoint.fingerprint());
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "kept");
    // A link that leads nowhere yet, and what is no file.
    std::fs::remove_file(&target).unwrap();
    checkpoint.save(&link).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink() && target.is_file());
    let null = temporary("null");
    symlink("/dev/null", &null).unwrap();
    refused(checkpoint.save(&null), &["null", "not a regular file"]);
    std::fs::remove_file(&null).unwrap();
    // A folder there is said to be in the way, and stays.
    std::fs::create_dir(&part).unwrap();
    refused(checkpoint.save(&target), &["target", ".part"]);
    std::fs::remove_dir(&part).unwrap();
    [link, target, other].iter().for_each(|path| std::fs::remove_file(path).unwrap());
}
