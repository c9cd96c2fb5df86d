//! Where and what: arrays of points, with a batch or without.

use pyo3::{prelude::*, types::PyDict};

use crate::{
    arrays::{Coordinates, booleans, coordinates, narrow, numbers},
    errors::refused,
};

/// The shape of some points, as the arrays say it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Points {
    /// None for one data set, whose arrays have no dimension for it.
    pub batch: Option<usize>,
    pub n: usize,
}

/// Coordinates of one group, `[batch, n, dim]`.
pub struct Group {
    pub name: String,
    pub dim: usize,
    pub numbers: Coordinates,
}

/// Where points are.
pub struct Places {
    pub points: Points,
    pub groups: Vec<Group>,
}

impl Points {
    pub fn batch(self) -> usize {
        self.batch.unwrap_or(1)
    }

    /// `[n, ..]` or `[batch, n, ..]`.
    pub fn shape(self, rest: &[usize]) -> Vec<usize> {
        self.batch.into_iter().chain([self.n]).chain(rest.iter().copied()).collect()
    }

    /// Refuses another batch than the context's.
    pub fn check_batch(self, name: &str, batch: Option<usize>) -> PyResult<()> {
        if self.batch == batch {
            return Ok(());
        }
        let of = |batch: Option<usize>| batch.map_or("without a batch".to_owned(), |n| format!("of a batch of {n}"));
        Err(refused(name, of(self.batch), of(batch) + ", as the context"))
    }

    /// Of `[n]`, `[n, dim]` or `[batch, n, dim]`; also returns `dim`.
    fn of(name: &str, shape: &[usize]) -> PyResult<(Self, usize)> {
        match *shape {
            [n] => Ok((Self { batch: None, n }, 1)),
            // Of points without numbers there are any number.
            [n, dim] if dim > 0 => Ok((Self { batch: None, n }, dim)),
            [batch, n, dim] if dim > 0 => Ok((Self { batch: Some(batch), n }, dim)),
            _ => {
                let allowed = "[n], [n, dim] or [batch, n, dim], of a dim of 1 or more";
                Err(refused(name, format_args!("an array of shape {shape:?}"), allowed))
            }
        }
    }
}

impl Places {
    /// Of one array, or of one for each group by its name.
    pub fn read(name: &str, given: &Bound<'_, PyAny>, known: &[&str]) -> PyResult<Self> {
        let mut arrays = Vec::new();
        match given.cast::<PyDict>() {
            Ok(groups) => {
                for (group, array) in groups {
                    let group: String = group.extract()?;
                    let (shape, numbers) = coordinates(&format!("{name}[{group:?}]"), &array)?;
                    arrays.push((group, shape, numbers));
                }
            }
            Err(_) => {
                let [group] = known else {
                    let allowed = format!("a dict with an array for each of the groups {known:?}");
                    return Err(refused(name, "one array", allowed));
                };
                let (shape, numbers) = coordinates(name, given)?;
                arrays.push(((*group).to_owned(), shape, numbers));
            }
        }
        let mut all: Option<Self> = None;
        for (group, shape, numbers) in arrays {
            let (points, dim) = Points::of(name, &shape)?;
            let all = all.get_or_insert(Self { points, groups: Vec::new() });
            if points != all.points {
                let first = format!("{:?}, as those of {:?}", all.points.shape(&[]), all.groups[0].name);
                return Err(refused(
                    &format!("the points of {group:?}"),
                    format_args!("{:?}", points.shape(&[])),
                    first,
                ));
            }
            all.groups.push(Group { name: group, dim, numbers });
        }
        all.ok_or_else(|| refused(name, "an empty dict", format_args!("an array for each of the groups {known:?}")))
    }
}

/// Values `[n]`, `[n, n_values]` or `[batch, n, n_values]` of some points.
pub fn values(name: &str, given: &Bound<'_, PyAny>, points: Points, n_values: usize) -> PyResult<Vec<f64>> {
    let (found, numbers) = numbers(name, given)?;
    let allowed = points.shape(&[n_values]);
    if found == allowed || n_values == 1 && found == allowed[..allowed.len() - 1] {
        return Ok(numbers);
    }
    Err(refused(name, format_args!("an array of shape {found:?}"), format_args!("{allowed:?}")))
}

/// [`values`] that a network reads.
pub fn observed(name: &str, given: &Bound<'_, PyAny>, points: Points, n_values: usize) -> PyResult<Vec<f32>> {
    values(name, given, points, n_values).map(|numbers| narrow(&numbers))
}

/// Which points exist, `[n]` or `[batch, n]`.
pub fn mask(given: Option<&Bound<'_, PyAny>>, points: Points) -> PyResult<Option<Vec<bool>>> {
    let Some(given) = given else { return Ok(None) };
    let (found, keep) = booleans("mask", given)?;
    let allowed = points.shape(&[]);
    if found != allowed {
        return Err(refused("mask", format_args!("an array of shape {found:?}"), format_args!("{allowed:?}")));
    }
    Ok(Some(keep))
}
