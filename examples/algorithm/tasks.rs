//! The algorithms: questions, and their answers by ordinary code. The same draws as the training
//! script's, from other seeds.

use anyhow::{Result, bail};
use rand::{RngExt, rngs::StdRng};

/// One question and what should stand in the place of each `_`.
pub struct Problem {
    pub tokens: Vec<usize>,
    pub answer: Vec<usize>,
}

/// What a network was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// `a0 b0 a1 b1 .. = _ _ ..`: digits from the lowest, in pairs.
    Addition,
    /// Key strokes, of which `#` deletes the letter before it; what is left, then dots.
    Reduce,
    /// `k0 v0 .. = q q ..`: pairs of a letter and a digit, then letters; the digit that came last with each.
    Recall,
}

impl Task {
    pub const ALL: [Self; 3] = [Self::Addition, Self::Reduce, Self::Recall];

    pub fn named(name: &str) -> Result<Self> {
        match name {
            "addition" => Ok(Self::Addition),
            "reduce" => Ok(Self::Reduce),
            "recall" => Ok(Self::Recall),
            other => bail!("the checkpoint was trained on {other:?}, this example knows addition, reduce and recall"),
        }
    }

    /// The name of the picture.
    pub fn picture(self) -> String {
        format!("algorithm_{self:?}.svg").to_lowercase()
    }

    /// A question as one writes it.
    pub fn question(self, show: &dyn Fn(&[usize]) -> String, problem: &Problem) -> String {
        let n_answers = problem.answer.len();
        let (given, asked) = problem.tokens.split_at(problem.tokens.len() - n_answers);
        let given = &given[..given.len() - 1]; // without the `=`
        match self {
            // The highest digit first.
            Self::Addition => {
                let number =
                    |first: usize| show(&given.iter().copied().skip(first).step_by(2).rev().collect::<Vec<_>>());
                format!("{} + {} = ", number(0), number(1))
            }
            Self::Reduce => format!("{} = ", show(given)),
            Self::Recall => {
                let pairs: Vec<String> = given.chunks(2).map(show).collect();
                format!("{}, {} = ", pairs.join(" "), show(asked))
            }
        }
    }

    /// An answer as one writes it.
    pub fn answer(self, text: &str) -> String {
        match self {
            Self::Addition => text.chars().rev().collect(),
            Self::Reduce | Self::Recall => text.to_owned(),
        }
    }

    /// A random problem of a length.
    pub fn draw(self, random: &mut StdRng, vocabulary: &[String], length: usize) -> Result<Problem> {
        let token = |text: &str| match vocabulary.iter().position(|word| word == text) {
            Some(token) => Ok(token),
            None => bail!("the vocabulary of the checkpoint lacks {text:?}"),
        };
        let (mut tokens, answer) = match self {
            Self::Addition => addition(random, length),
            Self::Reduce => reduce(random, length, token("#")?, token(".")?),
            Self::Recall => {
                let (mut tokens, asked, answer) = recall(random, length);
                tokens.push(token("=")?);
                tokens.extend(asked);
                return Ok(Problem { tokens, answer });
            }
        };
        tokens.push(token("=")?);
        tokens.extend(std::iter::repeat_n(token("_")?, answer.len()));
        Ok(Problem { tokens, answer })
    }
}

/// Tokens 0 to 9 are digits.
fn addition(random: &mut StdRng, length: usize) -> (Vec<usize>, Vec<usize>) {
    // Long carries are rare in random numbers: in half of the problems half of the pairs only
    // hand on the carry.
    let handing = if random.random_range(0..2) == 0 { 0.0 } else { 0.5 };
    let (mut tokens, mut answer, mut carry) = (Vec::new(), Vec::new(), 0);
    for _ in 0..length {
        let a = random.random_range(0..10);
        let b = if random.random::<f64>() < handing { 9 - a } else { random.random_range(0..10) };
        tokens.extend([a, b]);
        answer.push((a + b + carry) % 10);
        carry = (a + b + carry) / 10;
    }
    answer.push(carry);
    (tokens, answer)
}

/// Tokens 0 to 7 are letters.
fn reduce(random: &mut StdRng, length: usize, delete: usize, dot: usize) -> (Vec<usize>, Vec<usize>) {
    let (mut tokens, mut answer) = (Vec::new(), Vec::new());
    for _ in 0..length {
        if !answer.is_empty() && random.random::<f64>() < 0.4 {
            tokens.push(delete);
            answer.pop();
        } else {
            let letter = random.random_range(0..8);
            tokens.push(letter);
            answer.push(letter);
        }
    }
    answer.resize(length, dot);
    (tokens, answer)
}

/// Letters that stand with digits: tokens 0 to 15; tokens 16 to 25 are the digits.
const LETTERS: usize = 16;

/// Pairs, letters that are asked for, and the digit that came last with each.
fn recall(random: &mut StdRng, length: usize) -> (Vec<usize>, Vec<usize>, Vec<usize>) {
    let mut last = [0; LETTERS];
    let mut tokens = Vec::new();
    for _ in 0..length {
        let (letter, digit) = (random.random_range(0..LETTERS), LETTERS + random.random_range(0..10));
        tokens.extend([letter, digit]);
        last[letter] = digit;
    }
    let asked: Vec<usize> = (0..length).map(|_| tokens[2 * random.random_range(0..length)]).collect();
    let answer = asked.iter().map(|&letter| last[letter]).collect();
    (tokens, asked, answer)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// The old code printed the digits as the network reads them, without a sign between.
    #[test]
    fn a_sum_is_printed_as_one_writes_it() {
        let show = |tokens: &[usize]| tokens.iter().map(usize::to_string).collect::<String>();
        // 27 + 95 = 122; 10 is the `=`, 11 the `_`.
        let problem = Problem { tokens: vec![7, 5, 2, 9, 10, 11, 11, 11], answer: vec![2, 2, 1] };
        assert_eq!(Task::Addition.question(&show, &problem), "27 + 95 = ");
        assert_eq!(Task::Addition.answer(&show(&[2, 2, 1])), "122");
    }
    #[test]
    fn what_came_last_with_a_letter_is_recalled() {
        let mut random = StdRng::seed_from_u64(3);
        for length in [1, 5, 40] {
            let (tokens, asked, answer) = recall(&mut random, length);
            assert_eq!((tokens.len(), asked.len(), answer.len()), (2 * length, length, length));
            for (letter, digit) in asked.iter().zip(answer) {
                let last = tokens.chunks(2).rfind(|pair| pair[0] == *letter).unwrap();
                assert_eq!(last[1], digit);
            }
        }
    }
}
