//! What can be seen in the text of a snippet before anything reads it as a program.

use std::ops::Range;

use super::super::custom::{
    MAX_SNIPPET_ARRAY, MAX_SNIPPET_BLOCKS, MAX_SNIPPET_BRACKETS, MAX_SNIPPET_BYTES, MAX_SNIPPET_NESTING,
    MAX_SNIPPET_OPERATORS,
};

/// Words that declare something beside the function, or ask for something of the device.
const FORBIDDEN: [&str; 9] =
    ["alias", "const_assert", "diagnostic", "enable", "fn", "override", "requires", "struct", "while"];

/// Refuses what is too large or too deep to be read, and what leaves the function.
pub(super) fn check(text: &str) -> Result<(), (String, Option<Range<usize>>)> {
    let at = |index: usize, what: String| Err((what, Some(index..index + 1)));
    if text.len() > MAX_SNIPPET_BYTES {
        return Err((format!("a snippet of {} bytes, allowed are {MAX_SNIPPET_BYTES}", text.len()), None));
    }
    // What is a line break to one compiler is a space to another: only the common ones.
    let is_odd = |(index, c): &(usize, char)| match c {
        '\n' | '\t' => false,
        '\r' => !text[*index..].starts_with("\r\n"),
        c => c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'),
    };
    if let Some((index, _)) = text.char_indices().find(is_odd) {
        return at(index, "a control character".into());
    }
    let text = without_comments(text);
    let tokens = tokens(&text);
    // For each open block, the `else if`s of the chain that is being read in it: each is nested in
    // the one before.
    let mut chains = vec![0usize];
    let (mut brackets, mut blocks, mut operators) = (0usize, 0, 0);
    for (i, &(index, token)) in tokens.iter().enumerate() {
        let next = tokens.get(i + 1).map_or("", |(_, next)| *next);
        match token {
            "{" => {
                chains.push(0);
                (blocks, operators) = (blocks + 1, 0);
            }
            "}" if chains.len() == 1 => {
                return at(index, "the snippet ends here, and may not declare anything behind".into());
            }
            "}" => {
                chains.pop();
                match (next, chains.last_mut()) {
                    ("else", _) | (_, None) => {}
                    (_, Some(chain)) => *chain = 0,
                }
                operators = 0;
            }
            "else" if next == "if" => *chains.last_mut().unwrap_or(&mut 0) += 1,
            ";" => operators = 0,
            "@" => return at(index, "a snippet has no attributes".into()),
            "array" if !has_small_length(&tokens[i + 1..]) => {
                return at(index, format!("the length of an array is a literal, at most {}", MAX_SNIPPET_ARRAY / 4));
            }
            word if FORBIDDEN.contains(&word) => return at(index, format!("a snippet may not use `{word}`")),
            word if word.starts_with(is_word) => {}
            _ => {
                operators += 1;
                brackets = match token {
                    "(" | "[" => brackets + 1,
                    ")" | "]" => brackets.saturating_sub(1),
                    _ => brackets,
                };
            }
        }
        if operators > MAX_SNIPPET_OPERATORS {
            return at(index, format!("a statement of more than {MAX_SNIPPET_OPERATORS} operators and brackets"));
        }
        let depth = chains.len() - 1 + chains.iter().sum::<usize>();
        if blocks > MAX_SNIPPET_BLOCKS || depth > MAX_SNIPPET_NESTING {
            let what = format!("more than {MAX_SNIPPET_BLOCKS} blocks, or {MAX_SNIPPET_NESTING} in each other");
            return at(index, what);
        }
        if brackets > MAX_SNIPPET_BRACKETS {
            return at(index, format!("more than {MAX_SNIPPET_BRACKETS} brackets in each other"));
        }
    }
    match chains.len() {
        1 => Ok(()),
        _ => Err(("a block of the snippet is not closed".into(), Some(text.len()..text.len()))),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether a type of array, from behind its name on, has a length that is written out: `naga` may
/// build the array before anyone can refuse it. What is no type, but makes an array of its
/// elements, is as long as the text.
fn has_small_length(tokens: &[(usize, &str)]) -> bool {
    let (mut depth, mut comma) = (0, None);
    for (i, (_, token)) in tokens.iter().enumerate() {
        match *token {
            "<" => depth += 1,
            ">" => depth -= 1,
            "," if depth == 1 => comma = Some(i),
            _ => {}
        }
        if depth == 0 {
            let length = match comma {
                Some(comma) if comma + 2 == i => tokens[comma + 1].1,
                _ => return i == 0,
            };
            return length.trim_end_matches(['u', 'i']).parse::<u32>().is_ok_and(|n| n <= MAX_SNIPPET_ARRAY / 4);
        }
    }
    false
}

/// The text with spaces for comments, everything else where it was.
fn without_comments(text: &str) -> String {
    let (mut kept, mut rest, mut depth) = (String::with_capacity(text.len()), text, 0usize);
    while let Some(c) = rest.chars().next() {
        let pair = rest.get(..2).unwrap_or_default();
        let len = match pair {
            "//" if depth == 0 => rest.find('\n').unwrap_or(rest.len()),
            "/*" => {
                depth += 1;
                2
            }
            "*/" if depth > 0 => {
                depth -= 1;
                kept.push_str("  ");
                rest = &rest[2..];
                continue;
            }
            _ if depth == 0 => {
                kept.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            }
            _ => c.len_utf8(),
        };
        kept.extend(std::iter::repeat_n(' ', len));
        rest = &rest[len..];
    }
    kept
}

/// Words and numbers, and every other character by itself, with their places.
fn tokens(text: &str) -> Vec<(usize, &str)> {
    let (mut all, mut index) = (Vec::new(), 0);
    while let Some(c) = text[index..].chars().next() {
        let rest = &text[index..];
        let number = c.is_ascii_digit();
        let len = match is_word(c) {
            true => rest.find(|c| !(is_word(c) || number && c == '.')).unwrap_or(rest.len()),
            false => c.len_utf8(),
        };
        if !c.is_whitespace() {
            all.push((index, &rest[..len]));
        }
        index += len;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn comments_hide_nothing_and_count_for_nothing() {
        assert_eq!(check("// a struct, an alias }\n/* { /* fn */ } */ return 0.0; // é"), Ok(()));
        assert_eq!(check("return 0.0; /* } */ }").unwrap_err().1, Some(20..21));
        for refused in ["return 0.0; // \r}", "// \u{2028} } fn", "// \u{85} }", "/* /* */ } */ }", "return 0.0; }"] {
            assert!(check(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn arrays_are_small() {
        for text in ["array<f32, 8>", "array<array<f32, 4>, 4u>", "array(1.0, 300.0)", "array<f32, 256>()"] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for text in ["array<f32, 257>", "array<f32, 99999999999>", "array<f32, 8 * 8>", "array<f32, n>", "array<f32>"] {
            assert!(check(text).is_err(), "{text}");
        }
    }
}
