//! Which variant runs: chosen, asked for, and said in words; and pipelines that outlive a program.
#![cfg(feature = "gpu")]

use crate::support::{Random, error, refused};
use wgpu_attention::{
    Device, Tensor,
    device::{AdapterKind, GpuOptions},
    ops::{
        Activation, AttentionMemory, HeadMoves, Layout, Linear, LinearAttention, Normalizer, Probabilities,
        ScanAttention, TapeInputs, TapeOptions, attention_memory, linear, tape, unit_norm,
    },
};

/// What every operation that has a choice computes, and what it says of it.
fn run(device: &Device) -> Vec<(String, Vec<f32>)> {
    let mut random = Random::new(3);
    let mut tensor = |shape: &[usize]| Tensor::new(device, shape, &random.numbers(shape.iter().product())).unwrap();
    let layer = Linear { weight: tensor(&[30, 70]), bias: Some(tensor(&[70])) };
    let x = tensor(&[100, 30]);
    let y = linear(&x, &layer, Activation::Relu, None).unwrap();
    let (k, v) = (unit_norm(&tensor(&[2, 50, 8])).unwrap(), tensor(&[2, 50, 8]));
    let p = Probabilities::sigmoid(&tensor(&[2, 50, 1])).unwrap();
    let options = AttentionMemory::new(Layout::Projected { n_heads: 1 }).p_write(&p).p_erase(&p);
    let read = attention_memory(&k, &k, &v, &options).unwrap().values;
    let action = tensor(&[2, 50, HeadMoves::NoJump.n_actions()]);
    let inputs = TapeInputs { value: &v, key: None, query: None, action: &action, n_tapes: 1, tape_length: 9 };
    let moves = TapeOptions { heads: HeadMoves::NoJump, ..Default::default() };
    let taped = tape(&inputs, moves, None).unwrap().values;
    let mut linear_memory = LinearAttention::favor(Layout::HeadMajor, tensor(&[40, 8]));
    linear_memory.normalizer = Normalizer::FeatureSum { floor: 1e-6 };
    let (keys, values) = (tensor(&[2, 3, 50, 8]), tensor(&[2, 3, 50, 36]));
    let state = linear_memory.write(None, &keys, &values, None).unwrap();
    let linear_read = linear_memory.read(&keys, &state).unwrap().values;
    vec![
        (layer.decision(&x).unwrap().to_string(), y.read().unwrap()),
        (options.decision(&k, &v).unwrap().to_string(), read.read().unwrap()),
        (inputs.decision(moves).unwrap().to_string(), taped.read().unwrap()),
        (linear_memory.decision(&keys, &values).unwrap().to_string(), linear_read.read().unwrap()),
    ]
}

#[test]
fn variants_that_are_asked_for_run_and_agree() {
    let truth: Vec<Vec<f64>> =
        run(&Device::cpu()).into_iter().map(|(_, y)| y.into_iter().map(f64::from).collect()).collect();
    for adapter in Device::adapters() {
        for (i, operation, variants) in [
            (0, "linear", &["tile 32", "tile 64"][..]),
            (1, "attention_memory", &["recurrent", "chunked", "chunked, scalars"]),
            (2, "tape", &["workgroup memory", "storage"]),
            (3, "linear_attention", &["vectors", "scalars"]),
        ] {
            for &variant in variants {
                let options = GpuOptions::default().variant(operation, variant);
                let found = run(&Device::on_adapter(&adapter, &options).unwrap());
                let (said, numbers) = &found[i];
                assert!(said.starts_with(&format!("{operation}: {variant}")), "{said}");
                assert!(said.contains("asked for"), "{said}");
                assert!(error(numbers, &truth[i]) < 2e-5, "{adapter}: {said}: {}", error(numbers, &truth[i]));
            }
        }
        let unknown = GpuOptions::default().variant("linear", "tile 7");
        refused(Device::on_adapter(&adapter, &unknown), &["linear", "tile 7", "tile 32, tile 64"]);
        let unknown = GpuOptions::default().variant("liner", "tile 32");
        refused(Device::on_adapter(&adapter, &unknown), &["liner", "linear"]);
    }
}

#[test]
fn decisions_say_what_runs_and_why() {
    let device = Device::cpu();
    let q = Tensor::new(&device, &[1, 1, 4, 2], &[0.0; 8]).unwrap();
    let on_cpu = ScanAttention::default().decision(&q, &q, &q).unwrap();
    assert_eq!((on_cpu.variant, on_cpu.launches), ("cpu", 0));
    for adapter in Device::adapters() {
        let device = Device::on_adapter(&adapter, &GpuOptions::default()).unwrap();
        let zeros = |shape: &[usize]| Tensor::zeros(&device, shape).unwrap();
        let (q, k) = (zeros(&[1, 4, 1, 32]), zeros(&[1, 4, 100_000, 32]));
        let decision = ScanAttention::default().decision(&q, &k, &k).unwrap();
        // Few queries over many keys are split, and the splits merged.
        assert!(decision.launches >= 2 && decision.why.contains("splits"), "{decision}");
        let capabilities = device.capabilities();
        assert!(capabilities.max_binding > 0 && capabilities.adapter == Some(adapter.kind), "{capabilities:?}");
    }
}

#[test]
fn pipelines_are_kept_from_one_start_to_the_next() {
    let folder = std::env::temp_dir().join(format!("wgpu-attention-pipelines-{}", std::process::id()));
    for adapter in Device::adapters() {
        let options = GpuOptions::default().pipeline_folder(&folder);
        let first = Device::on_adapter(&adapter, &options).unwrap();
        first.save_pipelines().unwrap();
        let size = || -> u64 {
            let entries = std::fs::read_dir(&folder).into_iter().flatten();
            entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
        };
        let empty = size();
        let truth = run(&first);
        first.save_pipelines().unwrap();
        // A software adapter's driver may keep the head of the file alone.
        let may_be_empty = adapter.backend != "vulkan" || adapter.kind == AdapterKind::Software;
        assert!(size() > empty || may_be_empty, "{adapter}: no pipeline was kept");
        let files = || -> Vec<_> {
            let entries = std::fs::read_dir(&folder).into_iter().flatten();
            entries.map(|entry| entry.unwrap().path()).map(|path| (std::fs::read(&path).unwrap(), path)).collect()
        };
        let kept = files();
        // Vulkan alone keeps them.
        assert_eq!(kept.is_empty(), adapter.backend != "vulkan", "{adapter}");
        drop(first);
        let second = Device::on_adapter(&adapter, &options).unwrap();
        assert_eq!(run(&second), truth, "{adapter}");
        second.save_pipelines().unwrap();
        assert!(files() == kept, "{adapter}: the second start compiled something");
        // What is no such file is passed over and replaced.
        for (data, path) in &kept {
            std::fs::write(path, &data[..data.len() / 2]).unwrap();
            let third = Device::on_adapter(&adapter, &options).unwrap();
            assert_eq!(run(&third), truth, "{adapter}");
            third.save_pipelines().unwrap();
            assert!(std::fs::read(path).unwrap().len() > data.len() / 2, "{adapter}: the damaged file stays");
        }
    }
    let _ = std::fs::remove_dir_all(&folder);
}
