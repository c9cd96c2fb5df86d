//! What is asked of posteriors, row by row in SQL and posterior by posterior here.

use std::{collections::HashMap, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, BinaryViewArray, Float64Array, StringArray, StructArray, UInt64Array},
        buffer::NullBuffer,
        datatypes::{DataType, Field, Fields, Float64Type},
    },
    common::{Result, ScalarValue},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};
use rayon::prelude::*;

use crate::{
    accumulate::binary,
    aggregate::wrong_count,
    model::{Model, check_number, check_posterior, failed, guarded, not_a_posterior},
};

/// Quantiles by name.
const QUANTILES: [(&str, f64); 5] = [("q05", 0.05), ("q25", 0.25), ("q50", 0.5), ("q75", 0.75), ("q95", 0.95)];

/// Numbers of each value: mean, standard deviation and quantiles.
const NUMBERS: usize = 2 + QUANTILES.len();

/// Points that are predicted together, always as many: an operation may add in another order for another
/// number of rows, and the last digits are not to depend on the engine's batches.
const POINTS: usize = 64;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Predict {
    model: Arc<Model>,
    name: String,
    signature: Signature,
}

impl Predict {
    pub fn new(model: &Arc<Model>) -> Self {
        let signature = Signature::user_defined(Volatility::Immutable);
        Self { model: model.clone(), name: model.name("predict"), signature }
    }

    /// Mean, standard deviation and quantiles of each channel, numbered if there are several.
    fn fields(&self) -> Fields {
        let dim_y = self.model.cmanp.config().dim_y;
        let of = |c: usize| {
            let names = ["mean", "std"].into_iter().chain(QUANTILES.map(|(name, _)| name));
            let name = move |name: &str| if dim_y == 1 { name.into() } else { format!("{name}_{}", c + 1) };
            names.map(move |of| Field::new(name(of), DataType::Float64, true)).collect::<Vec<_>>()
        };
        (0..dim_y).flat_map(of).collect()
    }

    fn predict(&self, args: &ScalarFunctionArgs) -> Result<ColumnarValue> {
        let n = args.number_rows;
        // A literal is not repeated: it is thousands of bytes.
        let blobs = match &args.args[0] {
            ColumnarValue::Array(array) => binary(&self.name, array)?,
            ColumnarValue::Scalar(scalar) => binary(&self.name, &scalar.to_array()?)?,
        };
        let columns: Vec<ArrayRef> = args.args[1..].iter().map(|x| x.to_array(n)).collect::<Result<_>>()?;
        let columns: Vec<&Float64Array> = columns
            .iter()
            .map(|array| {
                let numbers = array.as_primitive_opt::<Float64Type>();
                numbers.ok_or_else(|| failed(&self.name, format_args!("a column is {}, not DOUBLE", array.data_type())))
            })
            .collect::<Result<_>>()?;
        let rows = self.rows_of_posteriors(n, blobs.as_binary_view(), &columns)?;
        let predict = |(bytes, rows): &(&[u8], Vec<usize>)| {
            let x: Vec<f64> = rows.iter().flat_map(|i| columns.iter().map(|column| column.value(*i))).collect();
            self.predict_points(bytes, &x)
        };
        let predicted: Vec<_> = rows.par_iter().map(predict).collect::<Result<_>>()?;
        let (fields, dim_y) = (self.fields(), self.model.cmanp.config().dim_y);
        let mut numbers = vec![vec![0.0; n]; fields.len()];
        let mut is_asked = vec![false; n];
        for ((_, rows), predicted) in rows.iter().zip(&predicted) {
            for (at, &i) in rows.iter().enumerate() {
                is_asked[i] = true;
                for c in 0..dim_y {
                    let of_value = predicted.iter().map(|numbers| numbers[at * dim_y + c]);
                    numbers[c * NUMBERS..].iter_mut().zip(of_value).for_each(|(column, x)| column[i] = x);
                }
            }
        }
        let nulls = NullBuffer::from(is_asked);
        let column = |numbers: Vec<f64>| Arc::new(Float64Array::new(numbers.into(), Some(nulls.clone()))) as ArrayRef;
        let arrays = numbers.into_iter().map(column).collect();
        Ok(ColumnarValue::Array(Arc::new(StructArray::try_new(fields, arrays, Some(nulls.clone()))?)))
    }

    /// The rows that ask each posterior; those with a NULL ask none.
    fn rows_of_posteriors<'a>(
        &self,
        n: usize,
        blobs: &'a BinaryViewArray,
        columns: &[&Float64Array],
    ) -> Result<Vec<(&'a [u8], Vec<usize>)>> {
        // Rows with the same view have the same posterior; the bytes of others may be the same, too.
        let mut of_view: HashMap<u128, usize> = HashMap::new();
        let mut of_bytes: HashMap<&[u8], usize> = HashMap::new();
        let mut rows: Vec<(&[u8], Vec<usize>)> = Vec::new();
        for i in 0..n {
            let blob = if blobs.len() == 1 { 0 } else { i };
            if blobs.is_null(blob) || columns.iter().any(|column| column.is_null(i)) {
                continue;
            }
            if let Some(c) = columns.iter().position(|column| !column.value(i).is_finite()) {
                let x = columns[c].value(i);
                let message = format!("argument {}, x{}, is {x} in row {i} of a batch", c + 2, c + 1);
                return Err(failed(&self.name, message + "; allowed are finite numbers and NULL, of which it is NULL"));
            }
            let at = *of_view.entry(blobs.views()[blob]).or_insert_with(|| {
                let bytes = blobs.value(blob);
                *of_bytes.entry(bytes).or_insert_with(|| {
                    rows.push((bytes, Vec::new()));
                    rows.len() - 1
                })
            });
            rows[at].1.push(i);
        }
        Ok(rows)
    }

    /// What a posterior says of points: mean, standard deviation and quantiles, of every value each.
    fn predict_points(&self, bytes: &[u8], x: &[f64]) -> Result<[Vec<f64>; NUMBERS]> {
        let config = self.model.cmanp.config();
        let refused = |error| not_a_posterior(&self.name, error);
        let posterior = self.model.ready(bytes).map_err(refused)?;
        let mut all = [const { Vec::new() }; NUMBERS];
        for x in x.chunks(POINTS * config.dim_x) {
            let mut points = x.to_vec();
            points.extend(x.iter().cycle().take(POINTS * config.dim_x - x.len()));
            let failed = |error| failed(&self.name, error);
            let predicted = posterior.predict(&points).map_err(failed)?;
            let wide = |numbers: &[f32]| numbers.iter().map(|x| f64::from(*x)).collect();
            let mut numbers = vec![wide(predicted.mean()), wide(predicted.std())];
            for (_, p) in QUANTILES {
                numbers.push(predicted.quantile(p).map_err(failed)?);
            }
            let n = x.len() / config.dim_x * config.dim_y;
            all.iter_mut().zip(&numbers).for_each(|(all, new)| all.extend_from_slice(&new[..n]));
        }
        Ok(all)
    }
}

impl ScalarUDFImpl for Predict {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Struct(self.fields()))
    }

    fn coerce_types(&self, found: &[DataType]) -> Result<Vec<DataType>> {
        let dim_x = self.model.cmanp.config().dim_x;
        if found.len() != 1 + dim_x {
            let allowed = format!("{}: a posterior, then {dim_x} of x, those of the model", 1 + dim_x);
            return Err(wrong_count(&self.name, &allowed, found.len()));
        }
        check_posterior(&self.model, &self.name, &found[0])?;
        for (i, found) in found.iter().enumerate().skip(1) {
            check_number(&self.name, i + 1, &format!("x{i}"), found)?;
        }
        let numbers = std::iter::repeat_n(DataType::Float64, dim_x);
        Ok(std::iter::once(DataType::BinaryView).chain(numbers).collect())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        guarded(&self.name, || self.predict(&args))
    }
}

/// What is asked of a posterior alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum About {
    /// How many rows were read, and skipped.
    Points,
    /// What of them lies outside of what the network was trained on.
    Outside,
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ask {
    model: Arc<Model>,
    about: About,
    name: String,
    signature: Signature,
}

impl Ask {
    pub fn new(model: &Arc<Model>, about: About) -> Self {
        let name = match about {
            About::Points => "points",
            About::Outside => "outside",
        };
        let signature = Signature::user_defined(Volatility::Immutable);
        Self { model: model.clone(), about, name: model.name(name), signature }
    }

    fn points_fields() -> Fields {
        ["read", "skipped"].into_iter().map(|name| Field::new(name, DataType::UInt64, true)).collect()
    }

    fn points(&self, blobs: &BinaryViewArray) -> Result<ArrayRef> {
        let counts = |bytes: &[u8]| {
            let (posterior, skipped) =
                self.model.of_bytes(bytes).map_err(|error| not_a_posterior(&self.name, error))?;
            Ok((posterior.n_points().iter().sum(), skipped))
        };
        let counts = blobs.iter().map(|bytes| bytes.map(counts).transpose());
        let counts = counts.collect::<Result<Vec<Option<(u64, u64)>>>>()?;
        let nulls: NullBuffer = counts.iter().map(Option::is_some).collect::<Vec<_>>().into();
        let read: UInt64Array = counts.iter().map(|counts| counts.map(|(read, _)| read)).collect();
        let skipped: UInt64Array = counts.iter().map(|counts| counts.map(|(_, skipped)| skipped)).collect();
        let arrays: Vec<ArrayRef> = vec![Arc::new(read), Arc::new(skipped)];
        Ok(Arc::new(StructArray::try_new(Self::points_fields(), arrays, Some(nulls))?))
    }

    /// In words; NULL if nothing does.
    fn outside(&self, blobs: &BinaryViewArray) -> Result<ArrayRef> {
        let outside = |bytes: &[u8]| {
            let posterior = self.model.ready(bytes).map_err(|error| not_a_posterior(&self.name, error))?;
            // Of no points: what is said is of the observations alone.
            let predicted = posterior.predict::<f64>(&[]).map_err(|error| failed(&self.name, error))?;
            let outside = predicted.outside();
            Ok((!outside.departures.is_empty()).then(|| outside.to_string()))
        };
        let outside = blobs.iter().map(|bytes| bytes.map_or(Ok(None), outside));
        Ok(Arc::new(outside.collect::<Result<StringArray>>()?))
    }
}

impl ScalarUDFImpl for Ask {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.about {
            About::Points => DataType::Struct(Self::points_fields()),
            About::Outside => DataType::Utf8,
        })
    }

    fn coerce_types(&self, found: &[DataType]) -> Result<Vec<DataType>> {
        let [posterior] = found else { return Err(wrong_count(&self.name, "1: a posterior", found.len())) };
        check_posterior(&self.model, &self.name, posterior)?;
        Ok(vec![DataType::BinaryView])
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        guarded(&self.name, || {
            let blobs = binary(&self.name, &args.args[0].to_array(args.number_rows)?)?;
            let answers = match self.about {
                About::Points => self.points(blobs.as_binary_view())?,
                About::Outside => self.outside(blobs.as_binary_view())?,
            };
            // Of a literal one answer, not a column.
            Ok(match &args.args[0] {
                ColumnarValue::Scalar(_) if args.number_rows == 1 => {
                    ColumnarValue::Scalar(ScalarValue::try_from_array(&answers, 0)?)
                }
                _ => ColumnarValue::Array(answers),
            })
        })
    }
}
