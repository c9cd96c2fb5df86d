//! One binding for several operands, for devices that bind few: what is read lies side by side in
//! one buffer, what is written in another. The text is the same; only the names that its storage
//! buffers go by become one.

use naga::{AddressSpace, Expression, GlobalVariable, Handle, Module, StorageAccess, back, compact, valid};

use super::shader::{Interface, Shader, parse, reflect};
use crate::error::{Error, Result};

impl Shader {
    /// The text that runs instead on a device that binds fewer storage buffers than
    /// [`Needs::storage_buffers`](super::Needs): its operands share bindings. `None` where nothing can be shared.
    ///
    /// # Errors
    /// As [`shaders::variants`](crate::shaders::variants).
    pub fn shared(&self) -> Result<Option<String>> {
        let module = parse(&self.name, &self.wgsl)?;
        let interface = reflect(&self.name, &module)?;
        let needs = interface.needs;
        if needs.shared_storage_buffers == 0 || needs.shared_storage_buffers == needs.storage_buffers {
            return Ok(None);
        }
        share(&self.name, module, &interface).map(Some)
    }
}

/// The text of a module in which the operands that have a base share a binding: those that are
/// read that of the first of them, and those that are written likewise.
pub(super) fn share(name: &str, mut module: Module, interface: &Interface) -> Result<String> {
    for is_written in [false, true] {
        let shares = |variable: &GlobalVariable| {
            let name = variable.name.as_deref().unwrap_or_default();
            let operand = interface.operands.iter().find(|operand| operand.name == name);
            operand.is_some_and(|operand| operand.is_written == is_written && operand.can_share(interface))
        };
        let all: Vec<_> =
            module.global_variables.iter().filter(|(_, variable)| shares(variable)).map(|(at, _)| at).collect();
        let Some((&first, others)) = all.split_first() else { continue };
        for function in module.functions.iter_mut().map(|(_, function)| function) {
            rename(&mut function.expressions, first, others);
        }
        for entry in &mut module.entry_points {
            rename(&mut entry.function.expressions, first, others);
        }
        let access = if is_written { StorageAccess::LOAD | StorageAccess::STORE } else { StorageAccess::LOAD };
        module.global_variables[first].space = AddressSpace::Storage { access };
    }
    compact::compact(&mut module, compact::KeepUnused::No);
    let defect =
        |message: String| Error::Validation { what: format!("the shader {name} with shared bindings"), message };
    let mut validator = valid::Validator::new(valid::ValidationFlags::all(), valid::Capabilities::all());
    let info = validator.validate(&module).map_err(|error| defect(error.emit_to_string("")))?;
    back::wgsl::write_string(&module, &info, back::wgsl::WriterFlags::empty())
        .map_err(|error| defect(error.to_string()))
}

fn rename(expressions: &mut naga::Arena<Expression>, to: Handle<GlobalVariable>, from: &[Handle<GlobalVariable>]) {
    for (_, expression) in expressions.iter_mut() {
        if let Expression::GlobalVariable(variable) = expression
            && from.contains(variable)
        {
            *variable = to;
        }
    }
}
