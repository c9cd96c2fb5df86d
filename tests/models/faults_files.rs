//! Faults of files, each by its number.

use std::time::{Duration, Instant};

use crate::support::{CHECKPOINT, Random, refused};
use wgpu_attention::{
    Device, Error,
    checkpoint::Checkpoint,
    models::{
        cmanp::{self, Cmanp},
        nam::FewShot,
        tnp_kr::{Config, Context, Locations, TnpKr},
    },
};

const CMANP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/checkpoints/cmanp_gp_1d.safetensors");
const FEW_SHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/checkpoints/few_shot_nam_1.safetensors");

/// Fault R2: of 3,000 bits flipped in a saved posterior, 86% were accepted with another prediction.
#[test]
fn r2_no_flipped_bit_changes_a_prediction() {
    let device = Device::cpu();
    let mut random = Random::new(1);
    let (x, y) = (random.numbers(12), random.numbers(12));
    // Posteriors of each attention, with their counts.
    for config in [Config::scan(1), Config::deep_kernel(1, 1), Config::performer(1, 1)] {
        let model = TnpKr::random(&device, &Config { n_blocks: 1, ..config }, 5).unwrap();
        let posterior = model.condition(&Context::new(Locations::space(1, &x), &y).mask(&[true; 12])).unwrap();
        let at = Locations::space(1, &[0.1, 0.7]);
        let (bytes, before) = (posterior.to_checkpoint().unwrap().to_bytes().unwrap(), posterior.predict(&at).unwrap());
        no_flip(&bytes, &mut random, |checkpoint| {
            let restored = model.restore(&checkpoint)?;
            assert_eq!((restored.n_context(), restored.predict(&at)?), (12, before.clone()));
            Ok(())
        });
    }
    let model = Cmanp::open(&device, CMANP).unwrap();
    let posterior = model.condition(&cmanp::Context::new(&x, &y[..4])).unwrap();
    let mut saved = posterior.to_checkpoint().unwrap();
    // A counter beside the state, as a stream keeps it.
    saved.set_metadata("stream", r#"{"n_rows":1234}"#);
    no_flip(&saved.to_bytes().unwrap(), &mut random, |checkpoint| {
        let restored = model.restore(&checkpoint)?;
        assert_eq!((restored.n_points(), restored.predict(&x[..3])?), (&[4][..], posterior.predict(&x[..3])?));
        // The key may be another.
        let is_same = checkpoint.metadata("stream").is_ok_and(|text| text == r#"{"n_rows":1234}"#);
        assert!(is_same || checkpoint.metadata("stream").is_err());
        Ok(())
    });
    // Weights.
    let bytes = std::fs::read(FEW_SHOT).unwrap();
    let good = Checkpoint::from_bytes(&bytes).unwrap().fingerprint();
    no_flip(&bytes, &mut random, |checkpoint| {
        FewShot::from_checkpoint(&device, &checkpoint)?;
        assert_eq!(checkpoint.fingerprint(), good);
        Ok(())
    });
}

/// A bit flipped is refused, or what `same` asserts holds.
fn no_flip(bytes: &[u8], random: &mut Random, same: impl Fn(Checkpoint) -> Result<(), Error>) {
    let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let mut refused = 0;
    let places: Vec<f32> = random.scaled(400, 1.0);
    for (i, place) in places.iter().enumerate() {
        // Half of them in the header.
        let within = if i % 2 == 0 { header } else { bytes.len() };
        let bit = (f64::from(place.abs().fract()) * (8 * within) as f64) as usize;
        let mut damaged = bytes.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        refused += usize::from(Checkpoint::from_bytes(&damaged).and_then(&same).is_err());
    }
    assert!(refused > 380, "{refused} of 400 were refused");
    same(Checkpoint::from_bytes(bytes).unwrap()).unwrap();
}

/// Fault R2: counts that were changed in memory, with tensors as they were.
#[test]
fn r2_counts_belong_to_the_fingerprint() {
    let device = Device::cpu();
    let change = |saved: &Checkpoint, from: &str, to: &str| {
        let mut wrong = saved.clone();
        let text = saved.metadata("posterior").unwrap();
        assert!(text.contains(from), "{text}");
        wrong.set_metadata("posterior", text.replace(from, to));
        wrong
    };
    let model = Cmanp::open(&device, CMANP).unwrap();
    let saved = model.condition(&cmanp::Context::new(&[0.0; 6], &[0.1, 0.2])).unwrap().to_checkpoint().unwrap();
    refused(model.restore(&change(&saved, "\"n_points\":[2]", "\"n_points\":[3]")), &["counts", "not those"]);
    refused(model.restore(&change(&saved, "\"origin\":[0.0", "\"origin\":[0.5")), &["counts", "not those"]);
    let model = TnpKr::random(&device, &Config { n_blocks: 1, ..Config::deep_kernel(1, 1) }, 5).unwrap();
    let context = Context::new(Locations::space(1, &[0.0, 1.0]), &[0.1, 0.2]).mask(&[true, true]);
    let saved = model.condition(&context).unwrap().to_checkpoint().unwrap();
    refused(model.restore(&change(&saved, "\"n_keys\":[2]", "\"n_keys\":[1]")), &["counts", "not those"]);
    // A whole state in the place of another.
    let other = model.condition(&Context::new(Locations::space(1, &[0.0, 1.0]), &[9.0, 0.2])).unwrap();
    let mut wrong = other.to_checkpoint().unwrap();
    wrong.set_metadata("posterior", saved.metadata("posterior").unwrap());
    refused(model.restore(&wrong), &["states", "not those that were saved"]);
}

/// Fault R2: the same contents gave files that differed in the order of their metadata.
#[test]
fn r2_equal_contents_are_equal_files() {
    let make = |keys: &[&str]| {
        let mut checkpoint = Checkpoint::default();
        keys.iter().for_each(|key| checkpoint.set_metadata(key, key.to_uppercase()));
        checkpoint.insert("b", &[1], vec![1.0]).unwrap();
        checkpoint.insert("a", &[2], vec![2.0, 3.0]).unwrap();
        checkpoint.to_bytes().unwrap()
    };
    let keys = ["one", "two", "three", "four \"quoted\"\n", "fünf"];
    let reversed: Vec<&str> = keys.iter().rev().copied().collect();
    let bytes = make(&keys);
    assert_eq!(bytes, make(&reversed));
    let read = Checkpoint::from_bytes(&bytes).unwrap();
    assert_eq!((read.metadata("fünf").unwrap(), read.metadata_keys().len()), ("FÜNF", 5));
    assert_eq!((read.to_bytes().unwrap(), bytes.len() % 4), (bytes, 0));
    // Nothing at all, and metadata alone.
    let empty = Checkpoint::from_bytes(&Checkpoint::default().to_bytes().unwrap()).unwrap();
    assert_eq!((empty.n_parameters(), empty.metadata_keys().len()), (0, 0));
    // One key that this crate sets itself.
    let mut own = Checkpoint::default();
    own.set_metadata("fingerprint", "mine");
    assert!(Checkpoint::from_bytes(&own.to_bytes().unwrap()).unwrap().metadata("fingerprint").is_err());
}

/// Fault F11: what a file is instead of safetensors.
#[test]
fn f11_other_files_are_called_what_they_are() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1916128\n";
    for (bytes, word) in [
        (&pointer[..], "git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html lang=\"en\">", "HTML page"),
        (b"<HTML><head>", "HTML page"),
        (b"", "an empty file"),
        (b"{\"config\": 1}", "It is text"),
        (b"a,b\n1,2\n", "It is text"),
        (b"PK\x03\x04 and the rest of it", "zip"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9", "pickle"),
        (b"\x93NUMPY\x01\x00v\x00{'descr'", "NumPy"),
        (b"\x89HDF\r\n\x1a\n\0\0\0\0", "HDF5"),
        (b"GGUF\x03\0\0\0\0\0\0\0", "GGUF"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
    ] {
        refused(Checkpoint::from_bytes(bytes), &["not a readable checkpoint", word]);
    }
    let error = Checkpoint::open("does/not/exist.safetensors").unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
    assert!(std::error::Error::source(&error).is_none(), "the message says it already");
}

/// A safetensors file of tensors, each with its type and its bytes.
fn file(tensors: &[(&str, &str, &str, &[u8])]) -> Vec<u8> {
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        let offsets = format!("[{start},{}]", data.len());
        header.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#));
    }
    let header = format!("{{{}}}", header.join(","));
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// Fault F11: a counter of integers or a mask of -inf beside the weights had the whole file refused.
#[test]
fn f11_entries_that_nothing_asks_for_do_not_matter() {
    let infinite = [f32::NEG_INFINITY.to_le_bytes(), 0f32.to_le_bytes()].concat();
    let huge = 1e300f64.to_le_bytes();
    let bytes = file(&[
        ("norm.weight", "F32", "[1]", &2f32.to_le_bytes()),
        ("norm.num_batches_tracked", "I64", "[]", &7i64.to_le_bytes()),
        ("mask", "F32", "[2]", &infinite),
        ("keep", "BOOL", "[2]", &[0, 1]),
        ("huge", "F64", "[1]", &huge),
    ]);
    let mut checkpoint = Checkpoint::from_bytes(&bytes).unwrap();
    let load = |checkpoint: &Checkpoint, name: &str| checkpoint.load(&Device::cpu(), |p| p.tensor(name, &[1])?.read());
    assert_eq!(load(&checkpoint, "norm.weight").unwrap(), [2.0]);
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["norm.weight"]);
    refused(load(&checkpoint, "norm.num_batches_tracked"), &["num_batches_tracked has type I64", "F32"]);
    refused(load(&checkpoint, "mask"), &["<memory>", "parameter mask", "[0]", "-inf"]);
    refused(load(&checkpoint, "huge"), &["parameter huge", "inf"]);
    refused(load(&checkpoint, "keep"), &["keep has type BOOL"]);
    // Another name finds it, too, and one that is inserted replaces it.
    checkpoint.rename(|name| format!("model.{name}")).unwrap();
    refused(load(&checkpoint, "model.mask"), &["parameter model.mask", "-inf"]);
    checkpoint.insert("model.mask", &[1], vec![0.5]).unwrap();
    checkpoint.remove("model.norm.weight");
    assert_eq!(load(&checkpoint, "model.mask").unwrap(), [0.5]);
    // What is finite and used by nothing may be a wrong name, as before.
    let extra = file(&[("a", "F32", "[1]", &2f32.to_le_bytes()), ("b", "F32", "[1]", &2f32.to_le_bytes())]);
    refused(load(&Checkpoint::from_bytes(&extra).unwrap(), "a"), &["does not use", "b"]);
}

/// Fault R9: a header of 80 MB took 8 to 18 seconds and 1.5 to 2 GB.
#[test]
fn r9_headers_are_no_larger_than_their_data_need() {
    let entry = |i: usize| format!(r#""parameter.{i:09}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
    let header = format!("{{{}}}", (0..1_200_000).map(entry).collect::<Vec<_>>().join(","));
    assert!(header.len() > 80_000_000);
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let start = Instant::now();
    refused(Checkpoint::from_bytes(&bytes), &["its header has", "0 of data"]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // As many tensors as their data are worth.
    let tensors: Vec<String> = (0..10_000).map(|i| format!("layer.{i}.weight")).collect();
    let tensors: Vec<_> = tensors.iter().map(|name| (name.as_str(), "F32", "[1]", &[0u8; 4][..])).collect();
    assert_eq!(Checkpoint::from_bytes(&file(&tensors)).unwrap().n_parameters(), 10_000);
}

/// Newcomers' reports: of names that share no end, those that share most are suggested first.
#[test]
fn f11_renamed_parameters_are_ranked() {
    let mut checkpoint = Checkpoint::default();
    for name in ["aaa", "head.weight", "norm.gamma", "zzz.norm.gamma_0"] {
        checkpoint.insert(name, &[2], vec![0.0; 2]).unwrap();
    }
    let error = checkpoint.load(&Device::cpu(), |p| p.tensor("norm.scale", &[2])).unwrap_err();
    let Error::MissingParameter { similar, .. } = &error else { panic!("{error}") };
    assert_eq!(similar[..2], ["norm.gamma", "zzz.norm.gamma_0"]);
    // Of a file, more than the first that is missing.
    let mut checkpoint = Checkpoint::open(CHECKPOINT).unwrap();
    checkpoint.rename(|name| name.replace("KRBlock_", "block.")).unwrap();
    let error = TnpKr::from_checkpoint(&Device::cpu(), &checkpoint).unwrap_err();
    let Error::MissingParameter { name, others, .. } = &error else { panic!("{error}") };
    assert!(name.starts_with("KRBlock_0") && others.len() == 3, "{error}");
    refused::<()>(Err(error), &["KRBlock_0", "missing, too: KRBlock_0.", "block."]);
}
