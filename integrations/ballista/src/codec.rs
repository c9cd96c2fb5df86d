//! How functions travel in plans: by name, with what their bits depend on.

use std::sync::Arc;

use ballista_core::serde::{BallistaLogicalExtensionCodec, BallistaPhysicalExtensionCodec};
use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::TableProvider,
    common::{DataFusionError, Result, TableReference},
    datasource::file_format::FileFormatFactory,
    execution::TaskContext,
    logical_expr::{AggregateUDF, Extension, LogicalPlan, ScalarUDF},
    physical_plan::ExecutionPlan,
};
use datafusion_proto::{
    logical_plan::LogicalExtensionCodec,
    physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension},
};
use wgpu_attention_datafusion::Functions;

/// The functions that a machine has.
#[derive(Debug)]
struct Known {
    aggregates: Vec<Arc<AggregateUDF>>,
    scalars: Vec<Arc<ScalarUDF>>,
    identity: String,
}

impl Known {
    fn new(functions: &Functions) -> Self {
        Self { aggregates: functions.aggregates(), scalars: functions.scalars(), identity: functions.identity() }
    }

    fn write_aggregate(&self, function: &AggregateUDF, buffer: &mut Vec<u8>) -> Result<()> {
        self.write(&self.aggregates, AggregateUDF::name, function, buffer)
    }

    fn write_scalar(&self, function: &ScalarUDF, buffer: &mut Vec<u8>) -> Result<()> {
        self.write(&self.scalars, ScalarUDF::name, function, buffer)
    }

    /// Of functions that are not ours nothing is written: they are looked up by name. So none that has a name of ours
    /// may pass, for a machine would run its own in its place.
    fn write<F: PartialEq>(
        &self,
        own: &[Arc<F>],
        name: fn(&F) -> &str,
        function: &F,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        match own.iter().find(|own| name(own) == name(function)) {
            Some(own) if **own == *function => buffer.extend_from_slice(self.identity.as_bytes()),
            Some(_) => {
                let message = format!(
                    "{}: the session has a function of this name that is of another model, other sums or another origin; \
                     allowed is {}",
                    name(function),
                    self.identity
                );
                return Err(DataFusionError::Plan(message));
            }
            None => {}
        }
        Ok(())
    }

    fn aggregate(&self, name: &str, written: &[u8]) -> Result<Arc<AggregateUDF>> {
        self.read(&self.aggregates, AggregateUDF::name, name, written)
    }

    fn scalar(&self, name: &str, written: &[u8]) -> Result<Arc<ScalarUDF>> {
        self.read(&self.scalars, ScalarUDF::name, name, written)
    }

    fn read<F>(&self, own: &[Arc<F>], name: fn(&F) -> &str, wanted: &str, written: &[u8]) -> Result<Arc<F>> {
        let own = own.iter().find(|own| name(own) == wanted).ok_or_else(|| self.unknown(wanted))?;
        self.check(wanted, written)?;
        Ok(own.clone())
    }

    fn unknown(&self, name: &str) -> DataFusionError {
        let names = self.aggregates.iter().map(|own| own.name()).chain(self.scalars.iter().map(|own| own.name()));
        let names = names.collect::<Vec<_>>().join(", ");
        DataFusionError::Plan(format!("{name}: no such function is known to this machine, allowed are {names}"))
    }

    fn check(&self, name: &str, written: &[u8]) -> Result<()> {
        if written == self.identity.as_bytes() {
            return Ok(());
        }
        let written = String::from_utf8_lossy(written);
        let own = &self.identity;
        let message =
            format!("{name}: the query was planned with {written}, but this machine has {own}; allowed are the same");
        Err(DataFusionError::Plan(message))
    }
}

/// Plans as a client sends them to a scheduler.
#[derive(Debug)]
pub struct Logical {
    known: Known,
    ballista: BallistaLogicalExtensionCodec,
}

impl Logical {
    /// That knows these functions.
    pub fn new(functions: &Functions) -> Self {
        Self { known: Known::new(functions), ballista: BallistaLogicalExtensionCodec::default() }
    }
}

impl LogicalExtensionCodec for Logical {
    fn try_decode(&self, buf: &[u8], inputs: &[LogicalPlan], ctx: &TaskContext) -> Result<Extension> {
        self.ballista.try_decode(buf, inputs, ctx)
    }

    fn try_encode(&self, node: &Extension, buf: &mut Vec<u8>) -> Result<()> {
        self.ballista.try_encode(node, buf)
    }

    fn try_decode_table_provider(
        &self,
        buf: &[u8],
        table_ref: &TableReference,
        schema: SchemaRef,
        ctx: &TaskContext,
    ) -> Result<Arc<dyn TableProvider>> {
        self.ballista.try_decode_table_provider(buf, table_ref, schema, ctx)
    }

    fn try_encode_table_provider(
        &self,
        table_ref: &TableReference,
        node: Arc<dyn TableProvider>,
        buf: &mut Vec<u8>,
    ) -> Result<()> {
        self.ballista.try_encode_table_provider(table_ref, node, buf)
    }

    fn try_decode_file_format(&self, buf: &[u8], ctx: &TaskContext) -> Result<Arc<dyn FileFormatFactory>> {
        self.ballista.try_decode_file_format(buf, ctx)
    }

    fn try_encode_file_format(&self, buf: &mut Vec<u8>, node: Arc<dyn FileFormatFactory>) -> Result<()> {
        self.ballista.try_encode_file_format(buf, node)
    }

    fn try_decode_udf(&self, name: &str, buf: &[u8]) -> Result<Arc<ScalarUDF>> {
        self.known.scalar(name, buf)
    }

    fn try_encode_udf(&self, node: &ScalarUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.known.write_scalar(node, buf)
    }

    fn try_decode_udaf(&self, name: &str, buf: &[u8]) -> Result<Arc<AggregateUDF>> {
        self.known.aggregate(name, buf)
    }

    fn try_encode_udaf(&self, node: &AggregateUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.known.write_aggregate(node, buf)
    }
}

/// Plans as a scheduler sends them to executors.
#[derive(Debug)]
pub struct Physical {
    known: Known,
    ballista: BallistaPhysicalExtensionCodec,
}

impl Physical {
    /// That knows these functions.
    pub fn new(functions: &Functions) -> Self {
        Self { known: Known::new(functions), ballista: BallistaPhysicalExtensionCodec::default() }
    }
}

impl PhysicalExtensionCodec for Physical {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.ballista.try_decode(buf, inputs, ctx, proto_converter)
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        self.ballista.try_encode(node, buf, proto_converter)
    }

    fn try_decode_udf(&self, name: &str, buf: &[u8]) -> Result<Arc<ScalarUDF>> {
        self.known.scalar(name, buf)
    }

    fn try_encode_udf(&self, node: &ScalarUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.known.write_scalar(node, buf)
    }

    fn try_decode_udaf(&self, name: &str, buf: &[u8]) -> Result<Arc<AggregateUDF>> {
        self.known.aggregate(name, buf)
    }

    fn try_encode_udaf(&self, node: &AggregateUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.known.write_aggregate(node, buf)
    }
}
