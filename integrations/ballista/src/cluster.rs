//! What a scheduler, an executor and a session are configured with.

use std::sync::Arc;

use ballista::prelude::{SessionConfigExt as _, SessionContextExt as _};
use ballista_core::{registry::BallistaFunctionRegistry, utils::default_session_builder};
use ballista_executor::executor_process::ExecutorProcessConfig;
use ballista_scheduler::config::SchedulerConfig;
use datafusion::{
    common::Result,
    execution::{FunctionRegistry, SessionState, SessionStateBuilder},
    prelude::{SessionConfig, SessionContext},
};
use wgpu_attention_datafusion::Functions;

use crate::codec::{Logical, Physical};

/// How often an executor says that it is there.
pub const HEARTBEAT_SECONDS: u64 = 1;

/// After how long a silence an executor is given up, and what it had to do is done by others.
pub const LOST_AFTER_SECONDS: u64 = 15;

/// A scheduler that plans queries with these functions, and gives up an executor after [`LOST_AFTER_SECONDS`].
/// Host and port are Ballista's, unless they are set.
pub fn scheduler(functions: &Functions) -> SchedulerConfig {
    let known = functions.clone();
    SchedulerConfig {
        executor_timeout_seconds: LOST_AFTER_SECONDS,
        expire_dead_executor_interval_seconds: 2,
        // Without any executor a query fails, and does not wait.
        no_executors_grace_period_seconds: LOST_AFTER_SECONDS,
        override_session_builder: Some(Arc::new(move |config| {
            let mut state = default_session_builder(config)?;
            register(&known, &mut state)?;
            Ok(state)
        })),
        override_logical_codec: Some(Arc::new(Logical::new(functions))),
        override_physical_codec: Some(Arc::new(Physical::new(functions))),
        ..Default::default()
    }
}

/// An executor that runs these functions. Host, ports and the folder of its files are Ballista's, unless they are set.
pub fn executor(functions: &Functions) -> ExecutorProcessConfig {
    let mut registry = BallistaFunctionRegistry::default();
    registry.aggregate_functions.extend(functions.aggregates().into_iter().map(|own| (own.name().into(), own)));
    registry.scalar_functions.extend(functions.scalars().into_iter().map(|own| (own.name().into(), own)));
    ExecutorProcessConfig {
        executor_heartbeat_interval_seconds: HEARTBEAT_SECONDS,
        override_function_registry: Some(Arc::new(registry)),
        override_logical_codec: Some(Arc::new(Logical::new(functions))),
        override_physical_codec: Some(Arc::new(Physical::new(functions))),
        ..Default::default()
    }
}

/// A session whose queries run on the cluster of a scheduler, `http://host:port`, cut into so many partitions.
///
/// # Errors
/// The address is none.
pub async fn session(scheduler: &str, functions: &Functions, partitions: usize) -> Result<SessionContext> {
    let config = SessionConfig::new_with_ballista()
        .with_target_partitions(partitions)
        .with_ballista_logical_extension_codec(Arc::new(Logical::new(functions)))
        .with_ballista_physical_extension_codec(Arc::new(Physical::new(functions)))
        // Posteriors are views of large buffers. Sent as such, every message would carry all of them.
        .set_bool("datafusion.optimizer.expand_views_at_output", true)
        // A plan is optimised here and by the scheduler, and this rule, the second time, takes a field of a
        // prediction from another column.
        .set_bool("datafusion.optimizer.enable_leaf_expression_pushdown", false);
    let state = SessionStateBuilder::new().with_default_features().with_config(config).build();
    let context = SessionContext::remote_with_state(scheduler, state).await?;
    functions.register(&context);
    Ok(context)
}

fn register(functions: &Functions, state: &mut SessionState) -> Result<()> {
    for function in functions.aggregates() {
        state.register_udaf(function)?;
    }
    for function in functions.scalars() {
        state.register_udf(function)?;
    }
    Ok(())
}
