//! What a bias of the user's may be: the body of one function, small enough to compile, that ends.
//!
//! Three walls, since the text becomes a part of the kernel's own: the text, before `naga` sees it
//! (its front end recurses with the depth of what it reads); `naga`, which reads and checks it in
//! a wrapper that declares what a snippet may use and nothing else; and what came out, which may
//! hold no more than that one function and statements known to be harmless.

mod loops;
mod words;

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use naga::{BinaryOperator, Block, Expression, Function, Handle, Module, Statement, TypeInner, valid};

use super::custom::{CustomBias, MAX_SNIPPET_ARRAY, MAX_SNIPPET_ITERATIONS, MAX_SNIPPET_OPERATIONS};
use crate::{
    error::{Error, Result},
    ops::softmax::MASKED,
};

/// What is wrong, and where in the snippet, in bytes.
type Refusal = (String, Option<Range<usize>>);

/// What a call of a snippet takes at the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Turns of its loops.
    pub iterations: usize,
    /// What it computes, see [`operations`].
    pub operations: usize,
}

impl Work {
    fn then(self, next: Self) -> Self {
        Self {
            iterations: self.iterations.saturating_add(next.iterations),
            operations: self.operations.saturating_add(next.operations),
        }
    }

    fn or(self, other: Self) -> Self {
        Self { iterations: self.iterations.max(other.iterations), operations: self.operations.max(other.operations) }
    }

    fn times(self, turns: usize) -> Self {
        Self {
            iterations: turns.saturating_mul(self.iterations.saturating_add(1)),
            operations: turns.saturating_mul(self.operations.saturating_add(1)),
        }
    }
}

/// Snippets that need not be read again.
const REMEMBERED: usize = 64;

/// Refuses a snippet that is not a harmless function over so many columns; returns what a call of it takes at the most.
pub(super) fn check(custom: &CustomBias, width: usize) -> Result<Work> {
    static KNOWN: Mutex<VecDeque<(String, usize, Work)>> = Mutex::new(VecDeque::new());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known().iter().find(|(text, its, _)| *its == width && *text == custom.wgsl).map(|known| known.2);
    if let Some(work) = found {
        return Ok(work);
    }
    let work = read(&custom.wgsl, width).map_err(|(message, at)| Error::BiasShader {
        name: custom.name.clone(),
        message: message + &at.map(|at| place(&custom.wgsl, at)).unwrap_or_default(),
    })?;
    let mut known = known();
    known.truncate(REMEMBERED - 1);
    known.push_front((custom.wgsl.clone(), width, work));
    Ok(work)
}

fn read(snippet: &str, width: usize) -> std::result::Result<Work, Refusal> {
    words::check(snippet)?;
    let before = format!(
        "const MASKED: f32 = {MASKED:e}; fn params(i: u32) -> f32 {{ return f32(i); }} \
         fn bias(q_coord: array<f32, {width}>, k_coord: array<f32, {width}>, head: u32) -> f32 {{\n"
    );
    let source = format!("{before}{snippet}\n}}");
    // Where something is in the snippet; what is behind it is at its end.
    let within = |span: naga::Span| {
        let at = span.to_range()?;
        let shifted = |at: usize| at.saturating_sub(before.len()).min(snippet.len());
        Some(shifted(at.start)..shifted(at.end))
    };
    let module = naga::front::wgsl::parse_str(&source).map_err(|error| {
        let notes = error.labels().map(|(_, note)| note).chain(error.notes()).filter(|note| !note.is_empty());
        let notes: Vec<&str> = notes.collect();
        let message = [error.message(), &notes.join("; ")].join(": ");
        (message.trim_end_matches([':', ' ']).to_owned(), error.labels().next().and_then(|(span, _)| within(span)))
    })?;
    let mut validator = valid::Validator::new(valid::ValidationFlags::all(), valid::Capabilities::empty());
    let info = validator.validate(&module).map_err(|error| {
        let mut message = error.as_inner().to_string();
        let mut cause = std::error::Error::source(error.as_inner());
        while let Some(error) = cause {
            message += &format!(": {error}");
            cause = error.source();
        }
        let at = error.spans().last().and_then(|(span, _)| within(*span));
        (message, at)
    })?;
    check_module(&module)?;
    let Some((at, function)) = module.functions.iter().next_back() else { return Ok(Work::default()) };
    check_memory(&module, function, &info[at])?;
    Checker { module: &module, function, info: &info[at], within: &within }.block(&function.body)
}

/// The line and the column of what was refused, and the line itself.
fn place(text: &str, at: Range<usize>) -> String {
    let before = &text[..text.floor_char_boundary(at.start)];
    let first = before.rfind('\n').map_or(0, |end| end + 1);
    let (line, column) = (1 + before.matches('\n').count(), 1 + before[first..].chars().count());
    let shown: String = text[first..].lines().next().unwrap_or_default().chars().take(200).collect();
    format!("\nat line {line}, column {column} of the snippet:\n{shown}\n{}^", " ".repeat((column - 1).min(200)))
}

/// Refuses all but the wrapper's own declarations.
fn check_module(module: &Module) -> std::result::Result<(), Refusal> {
    let alone = module.functions.len() == 2
        && module.entry_points.is_empty()
        && module.global_variables.is_empty()
        && module.overrides.is_empty()
        && module.constants.len() == 1
        && module.types.iter().all(|(_, ty)| ty.name.is_none());
    if !alone {
        return Err(("the snippet is the body of one function and may not declare anything beside it".into(), None));
    }
    Ok(())
}

/// Refuses more memory than a thread should have of its own: variables, and arrays that are computed, which compilers
/// keep beside them.
fn check_memory(module: &Module, function: &Function, info: &valid::FunctionInfo) -> std::result::Result<(), Refusal> {
    let size = |of: &TypeInner| u64::from(of.size(module.to_ctx()));
    let variables = function.local_variables.iter().map(|(_, variable)| size(&module.types[variable.ty].inner));
    // What a variable begins with lies in it.
    let begins = |at| function.local_variables.iter().any(|(_, variable)| variable.init == Some(at));
    let is_there = |at, of: &Expression| matches!(of, Expression::FunctionArgument(_)) || begins(at);
    let computed = function.expressions.iter().filter(|(at, expression)| !is_there(*at, expression));
    let computed = computed.map(|(at, _)| info[at].ty.inner_with(&module.types));
    let arrays = computed.filter(|of| matches!(of, TypeInner::Array { .. })).map(size);
    match variables.chain(arrays).fold(0, u64::saturating_add) {
        bytes if bytes > MAX_SNIPPET_ARRAY.into() => {
            Err((format!("{bytes} bytes of variables and arrays, allowed are {MAX_SNIPPET_ARRAY}"), None))
        }
        _ => Ok(()),
    }
}

struct Checker<'a> {
    module: &'a Module,
    function: &'a Function,
    info: &'a valid::FunctionInfo,
    within: &'a dyn Fn(naga::Span) -> Option<Range<usize>>,
}

impl Checker<'_> {
    /// Checks statements; returns what they take at the most.
    fn block(&self, block: &Block) -> std::result::Result<Work, Refusal> {
        let mut work = Work::default();
        let statements: Vec<_> = block.span_iter().collect();
        for (i, &(statement, span)) in statements.iter().enumerate() {
            let refused = |what: &str| Err((what.to_owned(), (self.within)(*span)));
            let within = match statement {
                Statement::Emit(range) => {
                    let mut operations = 0;
                    for at in range.clone() {
                        operations += self.operations(at);
                        if !is_harmless(&self.function.expressions[at]) {
                            let span = self.function.expressions.get_span(at);
                            let what = "a snippet computes with numbers, vectors and arrays alone";
                            return Err((what.into(), (self.within)(span)));
                        }
                    }
                    Work { operations, ..Work::default() }
                }
                Statement::Block(block) => self.block(block)?,
                Statement::If { accept, reject, .. } => self.block(accept)?.or(self.block(reject)?),
                Statement::Switch { cases, .. } => {
                    cases.iter().try_fold(Work::default(), |sum, case| Ok(sum.then(self.block(&case.body)?)))?
                }
                Statement::Loop { body, continuing, break_if } => {
                    let before = statements[..i].iter().rev().map(|(statement, _)| *statement);
                    let before = before.filter(|statement| !matches!(statement, Statement::Emit(_)));
                    let turns = match break_if {
                        None => loops::turns(self.module, self.function, before, body, continuing),
                        Some(_) => None,
                    };
                    let Some(turns) = turns else {
                        return refused(
                            "a loop without a constant bound; allowed are loops like `for (var i = 0u; i < 8u; i++)`, \
                             with literals, whose counter nothing else changes",
                        );
                    };
                    self.block(body)?.then(self.block(continuing)?).times(turns)
                }
                Statement::Call { .. } => Work { operations: 1, ..Work::default() },
                Statement::Break | Statement::Continue | Statement::Return { .. } | Statement::Store { .. } => {
                    Work::default()
                }
                Statement::ControlBarrier(_) | Statement::MemoryBarrier(_) | Statement::WorkGroupUniformLoad { .. } => {
                    return refused("the snippet may not wait at barriers");
                }
                _ => return refused("a snippet computes one number and does nothing else"),
            };
            work = work.then(within);
            for (requested, allowed, what) in [
                (work.iterations, MAX_SNIPPET_ITERATIONS, "loop iterations"),
                (work.operations, MAX_SNIPPET_OPERATIONS, "operations"),
            ] {
                if requested > allowed {
                    return refused(&format!("{requested} {what} for one pair, allowed are {allowed}"));
                }
            }
        }
        Ok(work)
    }

    /// Floating-point operations of an expression, roughly; a function counts as ten, for each number.
    fn operations(&self, at: Handle<Expression>) -> usize {
        let of = |at: Handle<Expression>| self.info[at].ty.inner_with(&self.module.types);
        let is_matrix = |at| matches!(of(at), TypeInner::Matrix { .. });
        let of_number = match self.function.expressions[at] {
            Expression::Math { .. } => 10,
            // Each number of a product is a sum of up to four.
            Expression::Binary { op: BinaryOperator::Multiply, left, right } if is_matrix(left) || is_matrix(right) => {
                8
            }
            _ => 1,
        };
        of_number * (of(at).size(self.module.to_ctx()) as usize).div_ceil(4).max(1)
    }
}

fn is_harmless(expression: &Expression) -> bool {
    use Expression as E;
    matches!(
        expression,
        E::Literal(_)
            | E::Constant(_)
            | E::ZeroValue(_)
            | E::Compose { .. }
            | E::Access { .. }
            | E::AccessIndex { .. }
            | E::Splat { .. }
            | E::Swizzle { .. }
            | E::FunctionArgument(_)
            | E::LocalVariable(_)
            | E::Load { .. }
            | E::Unary { .. }
            | E::Binary { .. }
            | E::Select { .. }
            | E::Relational { .. }
            | E::Math { .. }
            | E::As { .. }
            | E::CallResult(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted() {
        let of = |text: &str| read(text, 1).unwrap().operations;
        assert_eq!(of("return 0.0;"), 0);
        // An access and a function; what a loop counts and compares comes with each turn.
        let (once, more) =
            ("return sin(q_coord[0]);", "var s = 0.0; for (var i = 0; i < 50; i++) { s = sin(s); } return s;");
        assert_eq!(of(once), 11);
        // An access, a vector, and functions of four numbers.
        assert_eq!(of("return sin(vec4(q_coord[0])).x;"), 1 + 4 + 40 + 1);
        assert!((50 * 11..50 * 20).contains(&of(more)), "{}", of(more));
    }

    #[test]
    fn iterations_are_counted() {
        for (text, wanted) in [
            ("return 0.0;", 0),
            ("var s = 0.0; for (var i = 0u; i < 8u; i++) { s += params(i); } return s;", 8),
            ("var s = 0.0; for (var i = 10; i >= 0; i -= 2) { s += 1.0; } return s;", 6),
            (
                "var s = 0.0; for (var i = 0u; i < 8u; i += 3u) { for (var j = 1; j <= 4; j++) { s += 1.0; } } return s;",
                15,
            ),
            (
                "var s = 0.0; if (head > 0u) { for (var i = 0; i < 5; i++) { if (s > 2.0) { continue; } s += 1.0; } } return s;",
                5,
            ),
            ("const n = 7u; var s = 0.0; for (var i = 0u; i < n; i++) { s += 1.0; } return s;", 7),
        ] {
            assert_eq!(read(text, 1).map(|work| work.iterations), Ok(wanted), "{text}");
        }
    }
}
