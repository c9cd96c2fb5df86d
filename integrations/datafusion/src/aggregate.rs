//! The aggregates as the planner sees them.

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::{DataType, Field, FieldRef},
    common::{DataFusionError, Result},
    logical_expr::{
        Accumulator, AggregateUDFImpl, GroupsAccumulator, Signature, Volatility,
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::{AggregateOrderSensitivity, format_state_name},
    },
};

use crate::{
    accumulate::{Call, Groups, Single, Sliding},
    model::{Model, check_number, check_posterior},
};

/// What an aggregate reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Rows.
    Condition,
    /// Posteriors.
    Merge,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Condition => "condition",
            Self::Merge => "merge",
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Aggregate {
    model: Arc<Model>,
    kind: Kind,
    name: String,
    signature: Signature,
}

impl Aggregate {
    pub fn new(model: &Arc<Model>, kind: Kind) -> Self {
        let signature = Signature::user_defined(Volatility::Immutable);
        Self { model: model.clone(), kind, name: model.name(kind.name()), signature }
    }

    fn call(&self, args: &AccumulatorArgs<'_>) -> Result<Call> {
        if args.is_distinct {
            let message = format!("{}(DISTINCT ..) is not supported: two equal rows are two observations", self.name);
            return Err(DataFusionError::Plan(message));
        }
        let columns = args.exprs.iter().map(ToString::to_string).collect();
        Ok(Call { model: self.model.clone(), kind: self.kind, columns })
    }
}

impl AggregateUDFImpl for Aggregate {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::BinaryView)
    }

    fn coerce_types(&self, found: &[DataType]) -> Result<Vec<DataType>> {
        let (name, config) = (&self.name, self.model.cmanp.config());
        match self.kind {
            Kind::Merge => {
                let [posterior] = found else { return Err(wrong_count(name, "1: a posterior", found.len())) };
                check_posterior(&self.model, name, posterior)?;
                Ok(vec![DataType::BinaryView])
            }
            Kind::Condition => {
                let (dim_x, dim_y) = (config.dim_x, config.dim_y);
                if found.len() != dim_y + dim_x {
                    let allowed = format!("{}: {dim_y} of y, then {dim_x} of x, those of the model", dim_y + dim_x);
                    return Err(wrong_count(name, &allowed, found.len()));
                }
                for (i, found) in found.iter().enumerate() {
                    let what = if i < dim_y { format!("y{}", i + 1) } else { format!("x{}", i + 1 - dim_y) };
                    check_number(name, i + 1, &what, found)?;
                }
                Ok(vec![DataType::Float64; found.len()])
            }
        }
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Single::new(self.call(&args)?)))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let call = self.call(&args)?;
        let why = match self.kind {
            Kind::Merge => "of posteriors; merge them with GROUP BY or in a frame that begins UNBOUNDED PRECEDING",
            Kind::Condition if !self.model.is_exact() => "over rounded sums, which cannot be taken out again",
            Kind::Condition => return Ok(Box::new(Sliding::new(call))),
        };
        Err(DataFusionError::Plan(format!("{} cannot slide a frame {why}", self.name)))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let field = |name, data_type| Arc::new(Field::new(format_state_name(args.name, name), data_type, true));
        Ok(vec![field("posterior", DataType::LargeBinary), field("skipped", DataType::UInt64)])
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Groups::new(self.call(&args)?)))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

/// A call with another number of arguments.
pub(crate) fn wrong_count(name: &str, allowed: &str, found: usize) -> DataFusionError {
    DataFusionError::Plan(format!("{name} has {found} arguments, allowed are {allowed}"))
}
