//! How functions travel between machines, and what a machine with others says.

use datafusion::{
    execution::FunctionRegistry,
    functions_aggregate::sum::sum_udaf,
    logical_expr::{AggregateUDF, ScalarUDF},
    prelude::SessionContext,
};
use datafusion_proto::{logical_plan::LogicalExtensionCodec, physical_plan::PhysicalExtensionCodec};
use wgpu_attention_ballista::{Logical, Physical};
use wgpu_attention_datafusion::Functions;

const CHECKPOINT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../checkpoints/cmanp_gp_1d.safetensors");

fn functions() -> Functions {
    Functions::open(CHECKPOINT).unwrap()
}

/// What a plan says of a function, twice: to a scheduler and to an executor.
fn written(functions: &Functions, aggregate: &AggregateUDF) -> [Vec<u8>; 2] {
    let mut written = [Vec::new(), Vec::new()];
    Logical::new(functions).try_encode_udaf(aggregate, &mut written[0]).unwrap();
    Physical::new(functions).try_encode_udaf(aggregate, &mut written[1]).unwrap();
    written
}

#[test]
fn functions_arrive_as_they_were_sent() {
    let functions = functions();
    for own in functions.aggregates() {
        let [logical, physical] = written(&functions, &own);
        assert!(!logical.is_empty());
        // The other machine has opened the checkpoint by itself.
        let other = self::functions();
        assert_eq!(Logical::new(&other).try_decode_udaf(own.name(), &logical).unwrap(), own);
        assert_eq!(Physical::new(&other).try_decode_udaf(own.name(), &physical).unwrap(), own);
    }
    for own in functions.scalars() {
        let (mut logical, mut physical) = (Vec::new(), Vec::new());
        Logical::new(&functions).try_encode_udf(&own, &mut logical).unwrap();
        Physical::new(&functions).try_encode_udf(&own, &mut physical).unwrap();
        assert_eq!(Logical::new(&functions).try_decode_udf(own.name(), &logical).unwrap(), own);
        assert_eq!(Physical::new(&functions).try_decode_udf(own.name(), &physical).unwrap(), own);
    }
    // Those of the engine are looked up by their names.
    assert!(written(&functions, &sum_udaf()).iter().all(Vec::is_empty));
    let context = SessionContext::new();
    let abs: std::sync::Arc<ScalarUDF> = context.udf("abs").unwrap();
    let mut buffer = Vec::new();
    Physical::new(&functions).try_encode_udf(&abs, &mut buffer).unwrap();
    assert!(buffer.is_empty());
}

#[test]
fn a_machine_with_another_model_refuses() {
    let functions = functions();
    let condition = functions.aggregates().remove(0);
    let [logical, physical] = written(&functions, &condition);
    for other in [functions.rounded(), functions.origin(&[1.0, 0.0, 0.0]).unwrap()] {
        let errors = [
            Logical::new(&other).try_decode_udaf("cmanp_condition", &logical).unwrap_err().to_string(),
            Physical::new(&other).try_decode_udaf("cmanp_condition", &physical).unwrap_err().to_string(),
        ];
        for error in errors {
            let words = ["cmanp_condition", &functions.identity(), &other.identity()];
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
        // What was sent by name alone is checked, too.
        assert!(Physical::new(&other).try_decode_udaf("cmanp_condition", b"").is_err());
    }
    for error in [
        Logical::new(&functions).try_decode_udaf("cmanp_forget", &logical).unwrap_err(),
        Physical::new(&functions).try_decode_udf("cmanp_forget", &physical).unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(
            ["cmanp_forget", "cmanp_condition", "cmanp_predict"].iter().all(|name| error.contains(name)),
            "{error}"
        );
    }
}

/// Nothing was written of them, so that a scheduler ran its own, which it had under the same name.
#[test]
fn functions_of_another_model_than_the_sessions_are_not_sent() {
    let functions = functions();
    for other in [functions.rounded(), functions.origin(&[1.0, 0.0, 0.0]).unwrap()] {
        let (aggregate, scalar) = (other.aggregates().remove(0), other.scalars().remove(0));
        let (logical, physical) = (Logical::new(&functions), Physical::new(&functions));
        for error in [
            logical.try_encode_udaf(&aggregate, &mut Vec::new()).unwrap_err(),
            physical.try_encode_udaf(&aggregate, &mut Vec::new()).unwrap_err(),
            logical.try_encode_udf(&scalar, &mut Vec::new()).unwrap_err(),
            physical.try_encode_udf(&scalar, &mut Vec::new()).unwrap_err(),
        ] {
            let error = error.to_string();
            assert!(error.contains("cmanp_") && error.contains(&functions.identity()), "{error}");
        }
    }
}
