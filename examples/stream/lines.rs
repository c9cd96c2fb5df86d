//! Lines of comma-separated text, numbered as an editor does, of limited length.

use std::io::{BufRead, Read as _};

use anyhow::{Context as _, Result, ensure};

/// The longest line, in bytes: something that never ends a line must not fill the memory.
const MAX_LINE: usize = 64 << 10;
/// Characters that a message quotes.
const MAX_QUOTED: usize = 40;

/// Where [`hash`] starts.
pub const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a of a line and its end, carried on from the lines before.
pub fn hash(before: u64, line: &[u8]) -> u64 {
    line.iter().chain(b"\n").fold(before, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The beginning of a text that may be long.
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

pub struct Lines {
    input: Box<dyn BufRead>,
    line: Vec<u8>,
    number: u64,
    is_finished: bool,
}

impl Lines {
    pub fn new(input: Box<dyn BufRead>) -> Self {
        Self { input, line: Vec::new(), number: 0, is_finished: true }
    }

    /// Goes to the next line that is not blank; false at the end.
    pub fn advance(&mut self) -> Result<bool> {
        loop {
            self.line.clear();
            self.number += 1;
            let number = self.number;
            // One byte more, to see that it is too long.
            let mut input = self.input.by_ref().take(MAX_LINE as u64 + 1);
            input.read_until(b'\n', &mut self.line).with_context(|| format!("line {number} cannot be read"))?;
            let length = self.line.len();
            ensure!(length <= MAX_LINE, "line {number} is too long: {MAX_LINE} bytes are allowed");
            self.is_finished = length == 0 || self.line.ends_with(b"\n");
            self.line.truncate(self.line.trim_ascii_end().len());
            if length == 0 || !self.line.is_empty() {
                return Ok(length > 0);
            }
        }
    }

    /// The number of the line, from 1, blank ones counted.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The line without what ends it.
    pub fn bytes(&self) -> &[u8] {
        &self.line
    }

    /// False for a last line that no newline ends: its writer may not be done with it.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// The fields. There is no quoting: a stray quote would swallow the lines that follow.
    pub fn fields(&self) -> Result<Vec<&str>> {
        let text = std::str::from_utf8(&self.line);
        let text = text.with_context(|| format!("line {} is not text in UTF-8", self.number))?;
        Ok(text.split(',').map(str::trim).collect())
    }

    /// The names of the columns, from the first line.
    pub fn header(&mut self) -> Result<Vec<String>> {
        let is_there = self.advance().context("the header cannot be read")?;
        ensure!(is_there, "the input is empty, a header is needed");
        let fields = self.fields()?;
        let text = cut(&fields.join(","));
        ensure!(
            fields.iter().any(|name| name.parse::<f64>().is_err()),
            "the first line ({text}) holds numbers, a header is needed"
        );
        Ok(fields.iter().map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect())
    }

    /// A number for each of the columns.
    pub fn numbers(&self, names: &[String]) -> Result<Vec<f64>> {
        let (line, fields) = (self.number, self.fields()?);
        ensure!(
            fields.len() == names.len(),
            "line {line} has {} columns, the header has {}",
            fields.len(),
            names.len()
        );
        let number = |(text, name): (&&str, &String)| {
            let number = text.parse::<f64>();
            number.with_context(|| format!("line {line}: column {name:?} is {:?}, not a number", cut(text)))
        };
        fields.iter().zip(names).map(number).collect()
    }
}
