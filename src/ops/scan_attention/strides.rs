//! Where the numbers of a bias are that is the same along some dimensions.

/// How far apart the numbers of a bias are; 0 where they are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BiasStrides {
    /// From one batch element to the next, in points.
    pub q_coords: usize,
    pub k_coords: usize,
    /// Of (batch, head, query), in numbers.
    pub matrix: [usize; 3],
}

impl BiasStrides {
    /// The strides of (batch, head, query) of a matrix that stands for one of this shape.
    pub fn of_matrix(found: &[usize], shape: [usize; 4]) -> Option<[usize; 3]> {
        let found = match *found {
            [n_queries, n_keys] => [1, 1, n_queries, n_keys],
            _ => found.try_into().ok()?,
        };
        let fits = found[3] == shape[3] && (0..3).all(|i| found[i] == shape[i] || found[i] == 1);
        let stride = |i: usize| if found[i] == 1 { 0 } else { found[i + 1..].iter().product() };
        fits.then(|| [0, 1, 2].map(stride))
    }
}
