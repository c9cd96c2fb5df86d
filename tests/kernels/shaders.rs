//! Every shader variant, without any GPU: parsed and validated by naga, and written as
//! SPIR-V, HLSL, MSL and, where operands can share bindings, WGSL again. `spirv-val` checks the SPIR-V where it is installed.
#![cfg(feature = "gpu")]

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::LazyLock,
};

use crate::support::is_part;
use naga::{back, front, valid};
use wgpu_attention::shaders::{Needs, Shader, variants};

/// All texts, for it takes half a minute to make them.
static SHADERS: LazyLock<Vec<Shader>> = LazyLock::new(|| variants().unwrap());

/// naga's module and what its validator found, under WebGPU's own rules but for matrix units and subgroups.
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
        false if wgsl.contains("@builtin(subgroup_") => {
            valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32 | valid::Capabilities::SUBGROUP
        }
        false => valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32,
    };
    let mut validator = valid::Validator::new(valid::ValidationFlags::all(), capabilities);
    let info = validator.validate(&module);
    let info = info.unwrap_or_else(|error| panic!("{name}:\n{}", error.emit_to_string(wgsl)));
    (module, info)
}

/// Everything that is asked of a text, for what takes time is to parse and to validate it; what starts a program, and
/// what is parsed again, of every third (see [`every`](crate::support::every)).
#[test]
fn every_variant_is_valid_in_every_language_and_portable() {
    assert!(SHADERS.len() > 100, "only {} variants", SHADERS.len());
    let mut words = Vec::new();
    for (i, shader) in SHADERS.iter().enumerate() {
        let name = &shader.name;
        let (module, info) = validated(name, &shader.wgsl);
        let needs = shader.needs().unwrap();
        within_the_portable_limits(shader, needs, &module);
        not_dropped_by_fast_mathematics(shader, &module, &info);

        let options = back::spv::Options { lang_version: (1, 3), ..Default::default() };
        let pipeline =
            back::spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".into() };
        let spirv = back::spv::write_vec(&module, &info, &options, Some(&pipeline))
            .unwrap_or_else(|error| panic!("{name}: SPIR-V: {error}"));
        // HLSL has no such matrices, and `spirv-val` not everywhere.
        let of_metal = match needs {
            needs if needs.matrix_units => (2, 4),
            needs if needs.subgroups => (2, 1),
            _ => (1, 2),
        };
        msl(name, &module, &info, of_metal);
        if needs.matrix_units {
            continue;
        }
        no_loop_of_one_round(shader);

        let mut hlsl = String::new();
        let options = back::hlsl::Options {
            shader_model: match needs.subgroups {
                true => back::hlsl::ShaderModel::V6_0,
                false => back::hlsl::ShaderModel::V5_1,
            },
            fake_missing_bindings: true,
            ..Default::default()
        };
        back::hlsl::Writer::new(&mut hlsl, &options, &Default::default())
            .write(&module, &info, None)
            .unwrap_or_else(|error| panic!("{name}: HLSL: {error}"));

        if !is_part(0, i, 3) {
            continue;
        }
        words.push((name, spirv));
        // What runs instead on a device that binds few buffers.
        if let Some(wgsl) = shader.shared().unwrap() {
            validated(&format!("{name}, with shared bindings"), &wgsl);
        }
    }
    spirv_val(&words);
}

/// Every variant as `wgpu`'s DX12 backend writes it, a file each, for Microsoft's compilers: what
/// `.ci/platforms` does. `WGPU_ATTENTION_HLSL` names the folder; in it are `5.1` for FXC, `6.0` and `6.2` for
/// DXC, and `checked 5.1` of the texts in which snippets of the user's may stand.
#[test]
#[ignore = "writes files"]
fn hlsl_of_every_variant() {
    use back::hlsl::{BindTarget, Options, ShaderModel, Writer};
    let folder = std::path::PathBuf::from(std::env::var_os("WGPU_ATTENTION_HLSL").expect("WGPU_ATTENTION_HLSL"));
    let models = [
        ("5.1", ShaderModel::V5_1, false),
        ("6.0", ShaderModel::V6_0, false),
        ("6.2", ShaderModel::V6_2, false),
        ("checked 5.1", ShaderModel::V5_1, true),
    ];
    for shader in SHADERS.iter() {
        let needs = shader.needs().unwrap();
        if needs.matrix_units {
            continue;
        }
        let (module, info) = validated(&shader.name, &shader.wgsl);
        // Registers in the order of the bindings: of what is read, what is written, and uniforms.
        let mut next = [0u32; 3];
        let mut binding_map = back::hlsl::BindingMap::new();
        for (_, variable) in module.global_variables.iter() {
            let Some(binding) = variable.binding else { continue };
            let kind = match variable.space {
                naga::AddressSpace::Storage { access } => access.contains(naga::StorageAccess::STORE) as usize,
                _ => 2,
            };
            let register = next[kind];
            next[kind] += 1;
            binding_map.insert(binding, BindTarget { register, restrict_indexing: true, ..Default::default() });
        }
        let file = shader.name.replace(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)), "_") + ".hlsl";
        for (name, shader_model, checked) in models {
            if checked && !shader.name.contains("scan_attention") {
                continue;
            }
            // FXC has no subgroups.
            if shader_model == ShaderModel::V5_1 && needs.subgroups {
                continue;
            }
            let options = Options {
                shader_model,
                binding_map: binding_map.clone(),
                special_constants_binding: Some(BindTarget { space: 1, ..Default::default() }),
                zero_initialize_workgroup_memory: false,
                restrict_indexing: checked,
                force_loop_bounding: checked,
                ..Default::default()
            };
            let mut hlsl = String::new();
            Writer::new(&mut hlsl, &options, &Default::default())
                .write(&module, &info, None)
                .unwrap_or_else(|error| panic!("{}: HLSL: {error}", shader.name));
            std::fs::create_dir_all(folder.join(name)).unwrap();
            std::fs::write(folder.join(name).join(&file), hlsl).unwrap();
        }
    }
}

/// As `wgpu` writes it for Metal, trusted and checked.
fn msl(name: &str, module: &naga::Module, info: &valid::ModuleInfo, lang_version: (u8, u8)) {
    use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
    for (checked, policy) in [(false, BoundsCheckPolicy::Unchecked), (true, BoundsCheckPolicy::Restrict)] {
        let options = back::msl::Options {
            lang_version,
            fake_missing_bindings: true,
            bounds_check_policies: BoundsCheckPolicies { index: policy, buffer: policy, ..Default::default() },
            force_loop_bounding: checked,
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        };
        back::msl::write_string(module, info, &options, &Default::default())
            .unwrap_or_else(|error| panic!("{name}: MSL: {error}"));
    }
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

/// Metal's compiler assumes that no number is NaN or infinite, and that sums may be taken in any
/// order. So no text has such a literal, compares, subtracts or divides a number with itself, multiplies
/// with nothing, or takes back what it just added.
fn not_dropped_by_fast_mathematics(shader: &Shader, module: &naga::Module, info: &valid::ModuleInfo) {
    let functions = module.functions.iter().map(|(at, function)| (function, &info[at]));
    let entries = module.entry_points.iter().zip(0..).map(|(entry, at)| (&entry.function, info.get_entry_point(at)));
    for (function, info) in functions.chain(entries) {
        for (at, expression) in function.expressions.iter() {
            let is_float = info[at].ty.inner_with(&module.types).scalar_kind() == Some(naga::ScalarKind::Float);
            if let Some(fault) = dropped_by_fast_mathematics(function, expression, is_float) {
                let line = function.expressions.get_span(at).location(&shader.wgsl).line_number;
                panic!("{}, line {line}: {fault}", shader.name);
            }
        }
    }
}

fn dropped_by_fast_mathematics(
    function: &naga::Function,
    expression: &naga::Expression,
    is_float: bool,
) -> Option<&'static str> {
    use naga::{BinaryOperator as Do, Expression::Binary, Expression::Literal, Expression::Load};
    let of = |at| &function.expressions[at];
    // Of a variable, two loads are the same number where nothing is written in between: nearly always.
    let same = |a, b| a == b || matches!((of(a), of(b)), (Load { pointer: p }, Load { pointer: q }) if p == q);
    let number = |at| match of(at) {
        Literal(naga::Literal::F32(x)) => Some(*x),
        _ => None,
    };
    match *expression {
        Literal(naga::Literal::F32(x)) if !x.is_finite() => Some("a number that is not finite"),
        Binary { op: Do::Equal | Do::NotEqual, left, right } if same(left, right) => {
            Some("a number is compared with itself")
        }
        Binary {
            op: Do::Equal | Do::NotEqual | Do::Less | Do::LessEqual | Do::Greater | Do::GreaterEqual,
            left,
            right,
        } if [left, right].into_iter().filter_map(number).any(|x| x.abs() > 3e38) => {
            Some("a comparison that only an infinite number could tell")
        }
        Binary { op: Do::Subtract | Do::Divide, left, right } if is_float && same(left, right) => {
            Some("a number and itself are subtracted or divided")
        }
        Binary { op: Do::Multiply, left, right }
            if is_float && [left, right].into_iter().filter_map(number).any(|x| x == 0.0) =>
        {
            Some("a product with nothing")
        }
        Binary { op: Do::Subtract, left, right } if is_float => match *of(left) {
            Binary { op: Do::Add, left: a, right: b } if same(a, right) || same(b, right) => {
                Some("what was added is subtracted again")
            }
            _ => None,
        },
        _ => None,
    }
}

/// FXC refuses a barrier behind a loop that a thread, by its index, goes through once or not at all (X3663);
/// `lib/slots.wgsl` is how such loops are written.
fn no_loop_of_one_round(shader: &Shader) {
    for line in shader.wgsl.lines().filter(|line| line.contains("= thread;")) {
        // `for (var slot = thread; slot < 256u; slot += 128u) {`, where both are numbers.
        let number = |after, before| line.split_once(after)?.1.split_once(before)?.0.parse::<u32>().ok();
        if let (Some(end), Some(step)) = (number("< ", "u;"), number("+= ", "u)")) {
            assert!(step < end, "{}: {line}", shader.name);
        }
    }
}

fn is_for_wide_heads(shader: &Shader) -> bool {
    let names = [" wide 16", " rolled 16", " rolled 32", "_decode decode 2 by 16"];
    names.iter().any(|name| shader.name.starts_with(&format!("scan_attention{name}")))
}

fn within_the_portable_limits(shader: &Shader, needs: Needs, module: &naga::Module) {
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).unwrap();
    let in_space = |space: naga::AddressSpace| {
        module
            .global_variables
            .iter()
            .filter(move |(_, variable)| std::mem::discriminant(&variable.space) == std::mem::discriminant(&space))
    };
    let workgroup: u32 = in_space(naga::AddressSpace::WorkGroup).map(|(_, variable)| layouter[variable.ty].size).sum();
    // The plan takes these tiles only where they fit.
    let is_large = is_for_wide_heads(shader) || shader.name.starts_with("scan_attention_rows");
    let most = match (needs.matrix_units, is_large) {
        (true, _) => 64 << 10,
        (_, true) => 32 << 10,
        _ => 16 << 10,
    };
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

#[test]
fn no_name_and_no_text_stands_twice() {
    let (mut names, mut texts) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    for shader in SHADERS.iter() {
        assert!(names.insert(&shader.name), "the name {} stands twice", shader.name);
        assert!(texts.insert(&shader.wgsl), "the text of {} stands twice", shader.name);
    }
}

/// The table of sizes in `docs/limits.md`; that of kernels is held to the texts where it is read.
fn sizes() -> String {
    use wgpu_attention::{
        checkpoint,
        models::{cmanp, nam},
        ops,
    };

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
    allowed
}

#[test]
fn the_page_of_limits_is_true() {
    let table = sizes();
    let page = include_str!("../../docs/limits.md");
    assert!(page.contains(&table), "docs/limits.md has another table than this:\n\n{table}");
    // What is not in its table: the most that a text needs that is published.
    let most = |is: &dyn Fn(&Shader) -> bool| {
        let texts = SHADERS.iter().filter(|shader| is(shader));
        let bytes = texts.map(|shader| shader.needs().unwrap().workgroup_bytes).max().unwrap();
        format!("{},{:03} bytes", bytes / 1000, bytes % 1000)
    };
    let matrix = most(&|shader| shader.name.starts_with("scan_attention_matrix"));
    let wide = most(&is_for_wide_heads);
    let rows = most(&|shader| shader.name.starts_with("scan_attention_rows"));
    for said in [format!("up to {matrix}, by the width"), format!("at most {wide}"), format!("{rows}, 256 threads")] {
        assert!(page.contains(&said), "docs/limits.md does not say {said:?}");
    }
}
