//! From a `.wgsl` file to text, and from text to what a launch must know of it.
//!
//! The files in `shaders/` are WGSL with a few lines of minijinja: a line that begins with
//! `//#` is a statement (`if`, `for`, `include`), `{{ x }}` a constant. Rust owns every tile and
//! workgroup size and passes it in; what is bound where and where a parameter lies is read from
//! the text that comes out. So host and shader cannot disagree.

use std::{marker::PhantomData, sync::OnceLock};

use minijinja::{Environment, UndefinedBehavior, syntax::SyntaxConfig};
use naga::{AddressSpace, StorageAccess, TypeInner};
use serde::Serialize;

use crate::error::{Error, Result};

/// What several kernels include.
const LIBRARY: &[(&str, &str)] = &[
    ("lib/activation.wgsl", include_str!("../../../shaders/lib/activation.wgsl")),
    ("lib/bias.wgsl", include_str!("../../../shaders/lib/bias.wgsl")),
    ("lib/decay.wgsl", include_str!("../../../shaders/lib/decay.wgsl")),
    ("lib/element.wgsl", include_str!("../../../shaders/lib/element.wgsl")),
    ("lib/feature_map.wgsl", include_str!("../../../shaders/lib/feature_map.wgsl")),
    ("lib/finite.wgsl", include_str!("../../../shaders/lib/finite.wgsl")),
    ("lib/geodesic.wgsl", include_str!("../../../shaders/lib/geodesic.wgsl")),
    ("lib/group.wgsl", include_str!("../../../shaders/lib/group.wgsl")),
    ("lib/lanes.wgsl", include_str!("../../../shaders/lib/lanes.wgsl")),
    ("lib/length.wgsl", include_str!("../../../shaders/lib/length.wgsl")),
    ("lib/pairs.wgsl", include_str!("../../../shaders/lib/pairs.wgsl")),
    ("lib/relu.wgsl", include_str!("../../../shaders/lib/relu.wgsl")),
    ("lib/rounded.wgsl", include_str!("../../../shaders/lib/rounded.wgsl")),
    ("lib/scan_attention.wgsl", include_str!("../../../shaders/lib/scan_attention.wgsl")),
    ("lib/scan_group.wgsl", include_str!("../../../shaders/lib/scan_group.wgsl")),
    ("lib/scan_keys.wgsl", include_str!("../../../shaders/lib/scan_keys.wgsl")),
    ("lib/scan_pairs.wgsl", include_str!("../../../shaders/lib/scan_pairs.wgsl")),
    ("lib/scan_places.wgsl", include_str!("../../../shaders/lib/scan_places.wgsl")),
    ("lib/scan_queries.wgsl", include_str!("../../../shaders/lib/scan_queries.wgsl")),
    ("lib/scan_results.wgsl", include_str!("../../../shaders/lib/scan_results.wgsl")),
    ("lib/scan_start.wgsl", include_str!("../../../shaders/lib/scan_start.wgsl")),
    ("lib/scan_store.wgsl", include_str!("../../../shaders/lib/scan_store.wgsl")),
    ("lib/scan_votes.wgsl", include_str!("../../../shaders/lib/scan_votes.wgsl")),
    ("lib/sigmoid.wgsl", include_str!("../../../shaders/lib/sigmoid.wgsl")),
    ("lib/slots.wgsl", include_str!("../../../shaders/lib/slots.wgsl")),
    ("lib/step_columns.wgsl", include_str!("../../../shaders/lib/step_columns.wgsl")),
];

/// A kernel: its file, the constants `C` that make a text of it, and the uniform `P` that a
/// launch of it reads.
pub(crate) struct Kernel<C, P> {
    /// The file without `.wgsl`.
    pub name: &'static str,
    source: &'static str,
    types: PhantomData<fn(C) -> P>,
}

/// One text of one kernel.
#[derive(Clone, Debug)]
pub struct Shader {
    /// The kernel and what this text is specialised for; no two have the same.
    pub name: String,
    /// The text, with one entry point `main`.
    pub wgsl: String,
    /// The fields of the uniform as the host lays them out; a test holds them against the text.
    #[cfg_attr(not(test), allow(dead_code))]
    pub(crate) params: &'static [Field],
}

/// What a device must offer for a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Needs {
    /// Storage buffers bound at once (`max_storage_buffers_per_shader_stage`).
    pub storage_buffers: u32,
    /// The same where operands share bindings, which costs a copy of each: the form that a launch
    /// takes on a device that offers fewer than [`Needs::storage_buffers`]. 0 of a kernel whose work another
    /// does there.
    pub shared_storage_buffers: u32,
    /// Bytes of workgroup memory (`max_compute_workgroup_storage_size`).
    pub workgroup_bytes: u32,
    /// Threads of a workgroup (`max_compute_invocations_per_workgroup`).
    pub threads: u32,
    /// Whether it needs matrix units: [`GpuOptions::matrix_units`](crate::device::GpuOptions::matrix_units).
    pub matrix_units: bool,
    /// Whether its threads exchange numbers within a subgroup (the feature `subgroups`; `Features::SUBGROUP` of
    /// `wgpu`).
    pub subgroups: bool,
}

/// A field of a uniform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub name: &'static str,
    /// In bytes.
    pub offset: usize,
    pub size: usize,
}

/// The uniform of a kernel; made by [`params!`].
pub(crate) trait Params: bytemuck::Pod + Default {
    /// In their order.
    const FIELDS: &'static [Field];
}

/// Declares the uniform of a kernel as the shader does, which a test holds against the text.
/// The launch fills in `first_group`, `n_groups` and, for an operand `x`, `x_base`.
macro_rules! params {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
        struct $name { $($(#[$field_meta])* $field: $type,)* }

        impl $crate::device::gpu::Params for $name {
            const FIELDS: &'static [$crate::device::gpu::Field] = &[$($crate::device::gpu::Field {
                name: stringify!($field),
                offset: std::mem::offset_of!($name, $field),
                size: size_of::<$type>(),
            }),*];
        }
    };
}
pub(crate) use params;

/// What a text declares.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    /// Sorted by binding.
    pub operands: Vec<Operand>,
    /// Of the uniform: names and offsets in bytes.
    pub fields: Vec<(String, usize)>,
    pub needs: Needs,
}

/// A storage buffer of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operand {
    pub name: String,
    pub binding: u32,
    pub is_written: bool,
    /// Numbers of 32 bits in an element: 4 where the text reads vectors.
    pub words: usize,
}

impl Operand {
    /// Whether it may lie in one binding with others, which then must have elements of one type.
    pub fn can_share(&self, interface: &Interface) -> bool {
        self.words == 1 && interface.base(self).is_some()
    }
}

impl Interface {
    /// Where a field of the uniform is, in bytes.
    pub(crate) fn offset(&self, field: &str) -> Option<usize> {
        self.fields.iter().find(|(name, _)| name == field).map(|(_, offset)| *offset)
    }

    /// Where the uniform says at which element an operand begins; it may then lie anywhere in a
    /// binding, also beside another.
    pub(crate) fn base(&self, operand: &Operand) -> Option<usize> {
        self.offset(&format!("{}_base", operand.name))
    }
}

impl<C: Serialize, P: Params> Kernel<C, P> {
    /// The kernel of a file, its text included.
    pub(crate) const fn new(name: &'static str, source: &'static str) -> Self {
        Self { name, source, types: PhantomData }
    }

    /// The text with its constants filled in.
    pub(crate) fn text(&self, constants: &C) -> Result<String> {
        expand(self.name, self.source, constants)
    }

    /// A text of this kernel, for those who read or check it.
    pub(crate) fn shader(&self, label: &str, constants: &C) -> Result<Shader> {
        let name = [self.name, label].join(" ").trim().to_owned();
        Ok(Shader { name, wgsl: self.text(constants)?, params: P::FIELDS })
    }

    /// The texts of all these constants, each with a label.
    pub(crate) fn shaders(&self, all: impl IntoIterator<Item = (String, C)>) -> Result<Vec<Shader>> {
        all.into_iter().map(|(label, constants)| self.shader(&label, &constants)).collect()
    }
}

impl Shader {
    /// What a device must offer to run it; the text is parsed for that.
    ///
    /// # Errors
    /// As [`shaders::variants`](crate::shaders::variants).
    pub fn needs(&self) -> Result<Needs> {
        Ok(self.interface()?.needs)
    }

    /// What the text declares.
    pub(crate) fn interface(&self) -> Result<Interface> {
        reflect(&self.name, &parse(&self.name, &self.wgsl)?)
    }
}

fn expand(name: &str, source: &str, constants: &impl Serialize) -> Result<String> {
    static ENVIRONMENT: OnceLock<std::result::Result<Environment<'static>, String>> = OnceLock::new();
    let environment = ENVIRONMENT.get_or_init(|| {
        let text = |error: minijinja::Error| error.to_string();
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        // Lines that begin with `//!` tell those who include a file what it needs, and stand in no text.
        let syntax = SyntaxConfig::builder().line_statement_prefix("//#").line_comment_prefix("//!").build();
        environment.set_syntax(syntax.map_err(text)?);
        // The one function that the texts call; the built-in ones are a third of the engine.
        environment.add_function("range", |n: u32| (0..n).collect::<Vec<u32>>());
        for (file, source) in LIBRARY {
            environment.add_template(file, source).map_err(text)?;
        }
        Ok(environment)
    });
    let refused = |message: String| Error::Validation { what: format!("the template {name}.wgsl"), message };
    let environment = environment.as_ref().map_err(|message| refused(message.clone()))?;
    environment
        .render_named_str(name, source, minijinja::value::Serde(constants))
        .map_err(|error| refused(format!("{error:#}")))
}

/// The module of a text.
pub(crate) fn parse(name: &str, text: &str) -> Result<naga::Module> {
    naga::front::wgsl::parse_str(text)
        .map_err(|error| Error::Validation { what: format!("the shader {name}"), message: error.emit_to_string(text) })
}

/// What a module declares: storage buffers in group 0 and one uniform in group 1.
pub(crate) fn reflect(name: &str, module: &naga::Module) -> Result<Interface> {
    let defect = |message: String| Error::Validation { what: format!("the shader {name}"), message };
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).map_err(|error| defect(error.to_string()))?;
    let (mut operands, mut fields, mut workgroup_bytes) = (Vec::new(), Vec::new(), 0);
    for (_, variable) in module.global_variables.iter() {
        match (variable.space, &variable.binding) {
            (AddressSpace::Storage { access }, Some(at)) => operands.push(Operand {
                name: variable.name.clone().unwrap_or_default(),
                binding: at.binding,
                is_written: access.contains(StorageAccess::STORE),
                words: match module.types[variable.ty].inner {
                    TypeInner::Array { stride, .. } => stride as usize / 4,
                    _ => 1,
                },
            }),
            (AddressSpace::Uniform, Some(_)) => {
                if let TypeInner::Struct { members, .. } = &module.types[variable.ty].inner {
                    let field =
                        |member: &naga::StructMember| (member.name.clone().unwrap_or_default(), member.offset as usize);
                    fields.extend(members.iter().map(field));
                }
            }
            (AddressSpace::WorkGroup, _) => workgroup_bytes += layouter[variable.ty].size,
            _ => {}
        }
    }
    operands.sort_by_key(|operand| operand.binding);
    let [main] = module.entry_points.as_slice() else {
        return Err(defect(format!("{} entry points, allowed is one", module.entry_points.len())));
    };
    let needs = Needs {
        storage_buffers: operands.len() as u32,
        shared_storage_buffers: 0,
        workgroup_bytes,
        threads: main.workgroup_size.iter().product(),
        subgroups: module.entry_points.iter().flat_map(|entry| &entry.function.arguments).any(|argument| {
            use naga::{Binding::BuiltIn, BuiltIn as Of};
            let Some(BuiltIn(of)) = &argument.binding else { return false };
            matches!(of, Of::SubgroupId | Of::SubgroupSize | Of::SubgroupInvocationId | Of::NumSubgroups)
        }),
        matrix_units: module.types.iter().any(|(_, of)| matches!(of.inner, TypeInner::CooperativeMatrix { .. })),
    };
    let mut interface = Interface { operands, fields, needs };
    let kinds = |is_written| {
        let all = interface.operands.iter().filter(move |operand| operand.is_written == is_written);
        let (based, fixed): (Vec<_>, Vec<_>) = all.partition(|operand| operand.can_share(&interface));
        fixed.len() + usize::from(!based.is_empty())
    };
    interface.needs.shared_storage_buffers = (kinds(false) + kinds(true)) as u32;
    Ok(interface)
}
