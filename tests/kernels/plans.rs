//! Which variant runs: chosen, asked for, and said in words; and pipelines that outlive a program.
#![cfg(feature = "gpu")]

use crate::support::{Random, error, refused};
use wgpu_attention::{
    Device, Tensor,
    device::{AdapterKind, Decision, GpuOptions, Tuned, variants},
    ops::{
        Activation, AttentionMemory, Direction, HeadMoves, Layout, Linear, LinearAttention, Lsam, Lstm, Normalizer,
        Probabilities, ScanAttention, TapeInputs, TapeOptions, attention_memory, linear, lsam, lstm, scan_attention,
        tape, unit_norm,
    },
};

/// What an operation computes, and what it says of it.
fn run(device: &Device, operation: &str) -> (Decision, Vec<f32>) {
    let mut random = Random::new(3);
    // A recurrence of large weights magnifies rounding.
    let scale = if ["lstm", "lsam"].contains(&operation) { 0.3 } else { 1.0 };
    let mut tensor =
        |shape: &[usize]| Tensor::new(device, shape, &random.scaled(shape.iter().product(), scale)).unwrap();
    let (decision, found) = match operation {
        "linear" => {
            let layer = Linear { weight: tensor(&[28, 68]), bias: Some(tensor(&[68])) };
            let x = tensor(&[100, 28]);
            (layer.decision(&x), linear(&x, &layer, Activation::Relu, None).unwrap())
        }
        "attention_memory" => {
            let (k, v) = (unit_norm(&tensor(&[2, 50, 8])).unwrap(), tensor(&[2, 50, 8]));
            let p = Probabilities::sigmoid(&tensor(&[2, 50, 1])).unwrap();
            let options = AttentionMemory::new(Layout::Projected { n_heads: 1 }).p_write(&p).p_erase(&p);
            (options.decision(&k, &v), attention_memory(&k, &k, &v, &options).unwrap().values)
        }
        "tape" => {
            let (value, action) = (tensor(&[2, 50, 8]), tensor(&[2, 50, HeadMoves::NoJump.n_actions()]));
            let inputs =
                TapeInputs { value: &value, key: None, query: None, action: &action, n_tapes: 1, tape_length: 9 };
            let moves = TapeOptions { heads: HeadMoves::NoJump, ..Default::default() };
            (inputs.decision(moves), tape(&inputs, moves, None).unwrap().values)
        }
        "lstm" => {
            let x = tensor(&[2, 50, 8]);
            let input = Linear { weight: tensor(&[8, 36]), bias: None };
            let layer = Lstm { input, hidden: tensor(&[9, 36]) };
            (layer.decision(&x), lstm(&x, &layer, None).unwrap().values)
        }
        "lsam" => {
            let x = tensor(&[2, 50, 8]);
            let input = Linear { weight: tensor(&[8, 34]), bias: None };
            let layer = Lsam { n_heads: 2, input, hidden: tensor(&[10, 34]) };
            (layer.decision(&x), lsam(&x, &layer, None, Direction::Reverse).unwrap().values)
        }
        "scan_attention" => {
            let (q, kv) = (tensor(&[1, 2, 70, 8]), tensor(&[1, 2, 300, 8]));
            let options = ScanAttention::default();
            (options.decision(&q, &kv, &kv), scan_attention(&q, &kv, &kv, &options).unwrap().values)
        }
        "linear_attention" => {
            let mut memory = LinearAttention::favor(Layout::HeadMajor, tensor(&[40, 8]));
            memory.normalizer = Normalizer::FeatureSum { floor: 1e-6 };
            let (keys, values) = (tensor(&[2, 3, 50, 8]), tensor(&[2, 3, 50, 36]));
            let state = memory.write(None, &keys, &values, None).unwrap();
            (memory.decision(&keys, &values), memory.read(&keys, &state).unwrap().values)
        }
        other => panic!("{other} has no variants"),
    };
    (decision.unwrap(), found.read().unwrap())
}

/// The same of all that have variants.
fn run_all(device: &Device) -> Vec<(Decision, Vec<f32>)> {
    variants().into_keys().map(|operation| run(device, operation)).collect()
}

#[test]
fn variants_that_are_asked_for_run_and_agree() {
    for (operation, variants) in variants() {
        let truth: Vec<f64> = run(&Device::cpu(), operation).1.into_iter().map(f64::from).collect();
        // Matrix units have tests of their own.
        for variant in variants.iter().filter(|variant| **variant != "matrix") {
            for adapter in Device::adapters() {
                let options = GpuOptions::default().variant(operation, *variant);
                let device = Device::on_adapter(&adapter, &options).unwrap();
                if !crate::support::has_what_it_needs(&device) {
                    println!("{adapter} cannot run {variant}: it was not tried there");
                    continue;
                }
                let (decision, numbers) = run(&device, operation);
                assert_eq!((decision.op, decision.variant), (operation, *variant), "{decision}");
                assert!(decision.why.contains("asked for"), "{decision}");
                let error = error(&numbers, &truth);
                assert!(error < 2e-5, "{adapter}: {decision}: {error}");
            }
        }
    }
    for adapter in Device::adapters() {
        let unknown = GpuOptions::default().variant("linear", "tile 7");
        refused(
            Device::on_adapter(&adapter, &unknown),
            &["linear", "tile 7", "tile 32, tile 64, vector 32, vector 64"],
        );
        let unknown = GpuOptions::default().variant("liner", "tile 32");
        refused(Device::on_adapter(&adapter, &unknown), &["liner", "linear"]);
    }
}

#[test]
fn tuned_variants_are_those_of_their_adapter_alone() {
    for adapter in Device::adapters() {
        let forced = |options: &GpuOptions| Device::on_adapter(&adapter, options).unwrap().capabilities().forced;
        let own = Device::on_adapter(&adapter, &GpuOptions::default()).unwrap().capabilities();
        let mut tuned = Tuned::new(own.driver);
        tuned.variants.insert("linear".into(), "tile 64".into());
        let options = GpuOptions::default().tuned(tuned.clone());
        assert_eq!(forced(&options)["linear"], "tile 64");
        // What the application asks for goes first.
        assert_eq!(forced(&options.variant("linear", "tile 32"))["linear"], "tile 32");
        tuned.driver += " of another version";
        let options = GpuOptions::default().tuned(tuned);
        refused(Device::on_adapter(&adapter, &options), &["of another version"]);
    }
    let path = std::env::temp_dir().join(format!("wgpu-attention-tuned-{}.json", std::process::id()));
    for (text, words) in [
        ("{", ["a file that `tune` wrote", "EOF"]),
        (r#"{"driver": "a", "variants": {}, "speed": 9}"#, ["a file that `tune` wrote", "speed"]),
        (r#"{"driver": "a", "variants": {"linear": "tile 7"}}"#, ["tile 7", "tile 32"]),
    ] {
        std::fs::write(&path, text).unwrap();
        refused(Tuned::open(&path), &words);
    }
    std::fs::remove_file(&path).unwrap();
    refused(Tuned::open(&path), &["wgpu-attention-tuned"]);
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
        let truth = run_all(&first);
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
        assert_eq!(run_all(&second), truth, "{adapter}");
        second.save_pipelines().unwrap();
        assert!(files() == kept, "{adapter}: the second start compiled something");
        // What is no such file is passed over and replaced.
        for (data, path) in &kept {
            std::fs::write(path, &data[..data.len() / 2]).unwrap();
            let third = Device::on_adapter(&adapter, &options).unwrap();
            assert_eq!(run_all(&third), truth, "{adapter}");
            third.save_pipelines().unwrap();
            assert!(std::fs::read(path).unwrap().len() > data.len() / 2, "{adapter}: the damaged file stays");
        }
    }
    let _ = std::fs::remove_dir_all(&folder);
}

/// What `docs/gpu.md` lists is what can be asked for.
#[test]
fn the_page_names_every_variant() {
    let page = include_str!("../../docs/gpu.md");
    for (operation, variants) in wgpu_attention::device::variants() {
        let named = format!("`{operation}`");
        let row = page.lines().find(|line| line.starts_with('|') && line.split('|').nth(1).unwrap().contains(&named));
        let row = row.unwrap_or_else(|| panic!("docs/gpu.md has no row for {operation}"));
        for variant in variants {
            assert!(row.contains(&format!("`{variant}`")), "docs/gpu.md does not name {variant} of {operation}");
        }
    }
}
