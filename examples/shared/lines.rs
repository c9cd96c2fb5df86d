//! Lines of comma-separated text, numbered as an editor does, of limited length.
//!
//! A field may stand in quotes, and then hold commas; no field goes beyond its line, so a stray
//! quote spoils no other. A cell that is empty or says NA, N/A, nan, null or none is *missing*;
//! every other one is a number, or it is not, and then the file, the line and the column are said.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read as _},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, ensure};

/// The longest line, in bytes: something that never ends a line must not fill the memory.
const MAX_LINE: usize = 64 << 10;
/// Characters that a message quotes.
const MAX_QUOTED: usize = 40;
/// What says that there is no number, in lower case.
const MISSING: [&str; 6] = ["", "na", "n/a", "nan", "null", "none"];

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

/// What stands in one column of a line.
pub struct Cell(String);

impl Cell {
    /// Its text, without quotes around it.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Its number; `None` where it is missing.
    ///
    /// # Errors
    /// It is no finite number: what it is, to stand behind the name of its column.
    pub fn optional(&self) -> Result<Option<f64>, String> {
        if MISSING.iter().any(|text| self.0.eq_ignore_ascii_case(text)) {
            return Ok(None);
        }
        match self.0.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Some(number)),
            Ok(_) if self.0.contains(|c: char| c.is_ascii_digit()) => {
                Err(format!("is {}, too large for 64 bits", cut(&self.0)))
            }
            Ok(_) => Err(format!("is {}", cut(&self.0))),
            Err(_) => Err(format!("is {:?}, not a number", cut(&self.0))),
        }
    }

    /// Its number.
    ///
    /// # Errors
    /// As for [`Cell::optional`], and where it is missing.
    pub fn number(&self) -> Result<f64, String> {
        self.optional()?.ok_or_else(|| match &self.0[..] {
            "" => "is empty".into(),
            text => format!("is {text}"),
        })
    }
}

/// A file or a stream of lines.
pub struct Lines {
    name: String,
    input: Box<dyn BufRead>,
    line: Vec<u8>,
    number: u64,
    is_finished: bool,
}

impl Lines {
    /// The lines of anything; messages call it so.
    pub fn new(name: &str, input: Box<dyn BufRead>) -> Self {
        Self { name: name.into(), input, line: Vec::new(), number: 0, is_finished: true }
    }

    /// The lines of a file.
    ///
    /// # Errors
    /// It cannot be opened, or is a folder.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        let is_folder = file.metadata().is_ok_and(|metadata| metadata.is_dir());
        ensure!(!is_folder, "{name} is a folder, a file is needed");
        Ok(Self::new(&name, Box::new(BufReader::new(file))))
    }

    /// Goes to the next line that is not blank; false at the end.
    ///
    /// # Errors
    /// The line cannot be read or is too long.
    pub fn advance(&mut self) -> Result<bool> {
        loop {
            self.line.clear();
            self.number += 1;
            // One byte more, to see that it is too long.
            let mut input = self.input.by_ref().take(MAX_LINE as u64 + 1);
            let read = input.read_until(b'\n', &mut self.line);
            read.with_context(|| format!("{} cannot be read", self.place()))?;
            let length = self.line.len();
            ensure!(length <= MAX_LINE, "{} is too long: {MAX_LINE} bytes are allowed", self.place());
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

    /// The file and the line.
    pub fn place(&self) -> String {
        format!("{}: line {}", self.name, self.number)
    }

    /// The line without what ends it.
    pub fn bytes(&self) -> &[u8] {
        &self.line
    }

    /// False for a last line that no newline ends: its writer may not be done with it.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// The cells, however many there are. What is not UTF-8 is no number either.
    fn fields(&self) -> Vec<Cell> {
        let text = String::from_utf8_lossy(&self.line);
        let mut rest = text.trim_start_matches('\u{feff}');
        let mut cells = Vec::new();
        loop {
            let (cell, after) = first_field(rest);
            cells.push(Cell(cell));
            match after {
                Some(after) => rest = after,
                None => return cells,
            }
        }
    }

    /// The names of the columns, from the first line.
    ///
    /// # Errors
    /// There is none, or it is no header.
    pub fn header(&mut self) -> Result<Vec<String>> {
        let is_there = self.advance().context("the header cannot be read")?;
        ensure!(is_there, "{} is empty, a header is needed", self.name);
        let place = self.place();
        if let Some(what) = not_text(&self.line) {
            return Err(anyhow!("{place} is {what}"));
        }
        let names: Vec<String> = self.fields().into_iter().map(|cell| cell.0).collect();
        let text = cut(&names.join(","));
        ensure!(
            names.iter().any(|name| name.parse::<f64>().is_err()),
            "{place}: the first line ({text}) holds numbers, a header is needed"
        );
        let separator = [(';', "semicolons"), ('\t', "tabs")].into_iter().find(|(other, _)| names[0].contains(*other));
        if let (1, Some((_, other))) = (names.len(), separator) {
            return Err(anyhow!("{place}: the first line ({text}) holds {other}, columns are separated by commas"));
        }
        Ok(names)
    }

    /// As many cells as there are columns.
    ///
    /// # Errors
    /// There are more or fewer.
    pub fn cells(&self, n_columns: usize) -> Result<Vec<Cell>> {
        let cells = self.fields();
        ensure!(cells.len() == n_columns, "{} has {} columns, the header has {n_columns}", self.place(), cells.len());
        Ok(cells)
    }

    /// A number for each of the columns.
    ///
    /// # Errors
    /// A column is missing or is no finite number.
    pub fn numbers(&self, names: &[String]) -> Result<Vec<f64>> {
        let number = |(cell, name): (&Cell, &String)| {
            cell.number().map_err(|why| anyhow!("{}: column {name:?} {why}", self.place()))
        };
        self.cells(names.len())?.iter().zip(names).map(number).collect()
    }
}

/// What a file that begins so is instead of text in UTF-8.
fn not_text(line: &[u8]) -> Option<&'static str> {
    match line {
        [0x1f, 0x8b, ..] => Some("compressed by gzip, not text: unpack the file"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("text in UTF-16: save the file as UTF-8"),
        _ if line.contains(&0) || std::str::from_utf8(line).is_err() => Some("not text in UTF-8"),
        _ => None,
    }
}

/// The first field of a line, and what comes after its comma, if there is one.
fn first_field(line: &str) -> (String, Option<&str>) {
    if let Some((text, after)) = quoted(line.trim_start()) {
        return (text, after);
    }
    match line.split_once(',') {
        Some((text, after)) => (text.trim().to_owned(), Some(after)),
        None => (line.trim().to_owned(), None),
    }
}

/// The same for a field that quotes stand around; a doubled one within stands for one.
fn quoted(line: &str) -> Option<(String, Option<&str>)> {
    let mut text = String::new();
    let mut rest = line.strip_prefix('"')?;
    loop {
        let (before, after) = rest.split_once('"')?;
        text += before;
        match after.strip_prefix('"') {
            Some(after) => {
                text.push('"');
                rest = after;
            }
            None => {
                let after = after.trim_start();
                let next = after.strip_prefix(',');
                return (next.is_some() || after.is_empty()).then(|| (text.trim().to_owned(), next));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &'static [u8]) -> Lines {
        Lines::new("test", Box::new(text))
    }

    #[test]
    fn f6_quoted_numbers_are_read_and_a_stray_quote_spoils_its_own_cell_only() {
        let fields = |text: &'static str| -> Vec<String> {
            let mut lines = lines(text.as_bytes());
            lines.advance().unwrap();
            lines.fields().into_iter().map(|cell| cell.0).collect()
        };
        assert_eq!(fields("\"1961\", \"2.5\"\r\n"), ["1961", "2.5"]);
        assert_eq!(fields("\"a,b\",\"say \"\"no\"\"\",c"), ["a,b", "say \"no\"", "c"]);
        assert_eq!(fields("0,\"1"), ["0", "\"1"]);
        assert_eq!(fields("\"0\"1,2"), ["\"0\"1", "2"]);
        assert_eq!(fields("1,,"), ["1", "", ""]);
        assert_eq!(fields("\u{feff}x,y"), ["x", "y"]);
    }

    #[test]
    fn f6_a_missing_cell_is_told_from_one_that_is_no_number() {
        for text in ["", "NA", "n/a", "NaN", "null", "None"] {
            assert_eq!(Cell(text.into()).optional(), Ok(None), "{text}");
        }
        assert_eq!(Cell("-1.5e3".into()).optional(), Ok(Some(-1500.0)));
        for text in ["inf", "1e400", "four", "1;2", "\"1"] {
            assert!(Cell(text.into()).optional().is_err(), "{text}");
        }
    }

    #[test]
    fn a_header_that_is_none_is_refused() {
        for (text, word) in [
            (&b""[..], "empty"),
            (b"1,2\n", "holds numbers"),
            (b"x;y\n", "semicolons"),
            (b"x\ty\n", "tabs"),
            (b"\xff\xfex\0,\0y\0\n", "UTF-16"),
            (b"\xfe\xff\0x\0,\0y\0\n", "UTF-16"),
            (b"\x1f\x8b\x08\0\0\n", "unpack"),
            (b"x,\xe9\n", "UTF-8"),
        ] {
            let message = format!("{:#}", lines(text).header().unwrap_err());
            assert!(message.contains(word), "{message}");
        }
        assert_eq!(lines(b"\xef\xbb\xbf\"x\",y\r\n").header().unwrap(), ["x", "y"]);
    }
}
