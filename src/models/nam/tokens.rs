//! Rows of a table for tokens.

use crate::{
    checkpoint::Parameters,
    error::{Error, Result, check_argument},
    host::zeros,
};

/// An embedding: a vector for each token, on the host.
#[derive(Clone, Debug)]
pub(super) struct Embedding {
    table: Vec<f32>,
    pub vocab_size: usize,
    pub dim: usize,
}

impl Embedding {
    /// Loads `weight [vocab_size, dim]`.
    pub fn load(parameters: &Parameters<'_>, vocab_size: usize, dim: usize) -> Result<Self> {
        let table = parameters.numbers("weight", &[vocab_size, dim])?.to_vec();
        Ok(Self { table, vocab_size, dim })
    }

    /// The length of each of `batch` sequences.
    pub fn length(&self, batch: usize, tokens: &[usize]) -> Result<usize> {
        let fits = batch > 0 && !tokens.is_empty() && tokens.len().is_multiple_of(batch);
        let found = format_args!("{} for a batch of {batch}", tokens.len());
        let allowed = "one or more for each batch element, as many for each";
        check_argument(fits, "embedding", "tokens", found, allowed)?;
        Ok(tokens.len() / batch)
    }

    /// The vector of a token.
    pub fn row(&self, token: usize) -> Result<&[f32]> {
        match self.table.chunks_exact(self.dim).nth(token) {
            Some(row) => Ok(row),
            None => Err(Error::argument("embedding", "token", token, format!("0 to {}", self.vocab_size - 1))),
        }
    }

    /// The vectors of all tokens, one after the other.
    pub fn rows(&self, tokens: &[usize]) -> Result<Vec<f32>> {
        let mut rows = zeros(&[tokens.len(), self.dim])?;
        for (row, &token) in rows.chunks_exact_mut(self.dim).zip(tokens) {
            row.copy_from_slice(self.row(token)?);
        }
        Ok(rows)
    }
}
