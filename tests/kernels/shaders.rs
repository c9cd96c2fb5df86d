//! Every shader variant, without any GPU: parsed and validated by naga, and written as
//! SPIR-V, HLSL, MSL and WGSL again. `spirv-val` checks the SPIR-V where it is installed.
#![cfg(feature = "gpu")]

use std::{
    io::Write,
    process::{Command, Stdio},
};

use naga::{back, front, valid};
use wgpu_attention::shaders::variants;

/// naga's module and what its validator found, under WebGPU's own rules but for matrix units.
fn validated(name: &str, wgsl: &str) -> (naga::Module, valid::ModuleInfo) {
    let refused = |message: String| panic!("{name}:\n{message}");
    let module = front::wgsl::parse_str(wgsl).unwrap_or_else(|error| refused(error.emit_to_string(wgsl)));
    // Otherwise no capability beyond WebGPU's core, of which packed halves are a part.
    let capabilities = match wgsl.contains("enable wgpu_cooperative_matrix;") {
        true => {
            valid::Capabilities::COOPERATIVE_MATRIX
                | valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32
                | valid::Capabilities::SHADER_FLOAT16
                | valid::Capabilities::SUBGROUP
        }
        false => valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32,
    };
    let mut validator = valid::Validator::new(valid::ValidationFlags::all(), capabilities);
    let info = validator.validate(&module);
    let info = info.unwrap_or_else(|error| panic!("{name}:\n{}", error.emit_to_string(wgsl)));
    (module, info)
}

#[test]
fn every_variant_is_valid_in_every_language() {
    let shaders = variants().unwrap();
    assert!(shaders.len() > 100, "only {} variants", shaders.len());
    let mut words = Vec::new();
    for shader in &shaders {
        let name = &shader.name;
        let (module, info) = validated(name, &shader.wgsl);

        let options = back::spv::Options { lang_version: (1, 3), ..Default::default() };
        let pipeline =
            back::spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".into() };
        let spirv = back::spv::write_vec(&module, &info, &options, Some(&pipeline))
            .unwrap_or_else(|error| panic!("{name}: SPIR-V: {error}"));
        // HLSL has no such matrices, and `spirv-val` not everywhere.
        if shader.needs.matrix_units {
            let options =
                back::msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
            back::msl::write_string(&module, &info, &options, &Default::default())
                .unwrap_or_else(|error| panic!("{name}: MSL: {error}"));
            continue;
        }
        words.push((name, spirv));

        let mut hlsl = String::new();
        let options = back::hlsl::Options {
            shader_model: back::hlsl::ShaderModel::V5_1,
            fake_missing_bindings: true,
            ..Default::default()
        };
        back::hlsl::Writer::new(&mut hlsl, &options, &Default::default())
            .write(&module, &info, None)
            .unwrap_or_else(|error| panic!("{name}: HLSL: {error}"));

        let options = back::msl::Options { fake_missing_bindings: true, ..Default::default() };
        back::msl::write_string(&module, &info, &options, &Default::default())
            .unwrap_or_else(|error| panic!("{name}: MSL: {error}"));

        let wgsl = back::wgsl::write_string(&module, &info, back::wgsl::WriterFlags::empty())
            .unwrap_or_else(|error| panic!("{name}: WGSL: {error}"));
        validated(&format!("{name}, written again"), &wgsl);
    }
    spirv_val(&words);
}

/// Runs `spirv-val` on every module; says so where it is not installed.
fn spirv_val(modules: &[(&String, Vec<u32>)]) {
    if Command::new("spirv-val").arg("--version").output().is_err() {
        println!("spirv-val is not installed: naga's own validation stands alone");
        return;
    }
    for (name, words) in modules {
        let mut child = Command::new("spirv-val")
            .args(["--target-env", "vulkan1.1", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        let message = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{name}: spirv-val: {}", String::from_utf8_lossy(&message));
    }
}

#[test]
fn every_variant_stays_within_the_portable_limits() {
    for shader in variants().unwrap() {
        let (module, _) = validated(&shader.name, &shader.wgsl);
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).unwrap();
        let in_space = |space: naga::AddressSpace| {
            module
                .global_variables
                .iter()
                .filter(move |(_, variable)| std::mem::discriminant(&variable.space) == std::mem::discriminant(&space))
        };
        let workgroup: u32 =
            in_space(naga::AddressSpace::WorkGroup).map(|(_, variable)| layouter[variable.ty].size).sum();
        // The plan takes these tiles only where they fit.
        let is_large =
            shader.name.starts_with("scan_attention wide 16") || shader.name.starts_with("scan_attention rolled 16");
        let most = if shader.needs.matrix_units {
            64
        } else if is_large {
            32
        } else {
            16
        } << 10;
        assert!(workgroup <= most, "{}: {workgroup} bytes of workgroup memory", shader.name);
        let storage = in_space(naga::AddressSpace::Storage { access: naga::StorageAccess::LOAD }).count();
        let has = |what: &str| shader.name.contains(what);
        let all_gates = ["query=true", "p_read=true", "p_write=true", "p_erase=true", "decay=true"];
        // One more for each of these; where there are too few, operands share bindings.
        let more = [has("matrix=true") && !has("bias=none"), has("many parameters"), all_gates.into_iter().all(has)];
        let allowed = 8 + more.into_iter().filter(|more| *more).count();
        assert!(storage <= allowed, "{}: {storage} storage buffers", shader.name);
        let size = module.entry_points[0].workgroup_size;
        assert!(size.iter().product::<u32>() <= 256, "{}: {size:?} threads", shader.name);
        // What is published is what naga finds here.
        let needs = shader.needs;
        let found = [storage as u32, workgroup, size.iter().product()];
        assert_eq!([needs.storage_buffers, needs.workgroup_bytes, needs.threads], found, "{}", shader.name);
        // Vectors share no bindings: where there are few, another text runs.
        let words = |variable: &naga::GlobalVariable| match module.types[variable.ty].inner {
            naga::TypeInner::Array { stride, .. } => stride / 4,
            _ => 1,
        };
        let reads_vectors =
            module.global_variables.iter().any(|(_, variable)| variable.binding.is_some() && words(variable) > 1);
        assert!(needs.shared_storage_buffers <= 4 || reads_vectors, "{}: {needs:?}", shader.name);
    }
}

#[test]
fn no_name_and_no_text_stands_twice() {
    let shaders = variants().unwrap();
    let (mut names, mut texts) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    for shader in &shaders {
        assert!(names.insert(&shader.name), "the name {} stands twice", shader.name);
        assert!(texts.insert(&shader.wgsl), "the text of {} stands twice", shader.name);
    }
}

/// The tables of `docs/limits.md`.
fn tables() -> [String; 2] {
    use wgpu_attention::{
        checkpoint,
        models::{cmanp, nam},
        ops,
    };

    let mut needed =
        "| kernel | storage buffers | where operands share | workgroup memory, bytes | threads |\n".to_owned();
    needed += "|---|---|---|---|---|\n";
    for (kernel, needs) in wgpu_attention::shaders::needs().unwrap() {
        let (buffers, shared) = (needs.storage_buffers, needs.shared_storage_buffers);
        needed += &format!("| `{kernel}` | {buffers} | {shared} | {} | {} |\n", needs.workgroup_bytes, needs.threads);
    }
    let sizes = [
        ("`scan_attention`: numbers of a head", ops::scan_attention::MAX_HEAD_DIM as u64, "everywhere"),
        ("coordinates of one bias term", ops::scan_attention::MAX_COORDINATES as u64, "everywhere"),
        ("`attention_memory`: numbers of a head", ops::attention_memory::MAX_HEAD_DIM as u64, "on a GPU"),
        ("CMANP-AND: numbers predicted together", cmanp::MAX_JOINT as u64, "everywhere"),
        ("checkpoint: bytes of a file", checkpoint::MAX_BYTES, "everywhere"),
        ("checkpoint: bytes of its header beyond those of its data", checkpoint::MAX_HEADER, "everywhere"),
        ("NAM-TM: numbers of all tapes of a sequence", nam::MAX_TAPES as u64, "everywhere"),
    ];
    let mut allowed = "| what | at most | |\n|---|---|---|\n".to_owned();
    sizes.iter().for_each(|(what, most, place)| allowed += &format!("| {what} | {most} | {place} |\n"));
    [needed, allowed]
}

#[test]
fn the_page_of_limits_is_true() {
    let page = include_str!("../../docs/limits.md");
    for table in tables() {
        assert!(page.contains(&table), "docs/limits.md has another table than this:\n\n{table}");
    }
}
