//! Loops that are known to end.

use naga::{BinaryOperator, Block, Expression, Function, Handle, Literal, LocalVariable, Module, Statement};

/// How often a loop turns at the most, where it counts from one literal to another and nothing
/// else changes its counter; what it compares and adds is computed in each turn. `before` are the statements in front of
/// it, the nearest first.
pub(super) fn turns<'a>(
    module: &Module,
    function: &'a Function,
    mut before: impl Iterator<Item = &'a Statement>,
    body: &'a Block,
    continuing: &'a Block,
) -> Option<usize> {
    let expressions = &function.expressions;
    let number = |at: Handle<Expression>| match &expressions[at] {
        Expression::Literal(literal) => whole(literal),
        Expression::Constant(constant) => match &module.global_expressions[module.constants[*constant].init] {
            Expression::Literal(literal) => whole(literal),
            _ => None,
        },
        _ => None,
    };
    // Of a `let` in front of the loop the expression would be the same.
    let loaded = |block, at: Handle<Expression>| match &expressions[at] {
        Expression::Load { pointer } if computes(block, at) => local(function, *pointer),
        _ => None,
    };
    let binary = |block, at: Handle<Expression>| match expressions[at] {
        Expression::Binary { op, left, right } if computes(block, at) => Some((op, left, right)),
        _ => None,
    };

    // `if (i < end) {} else { break; }`
    let Statement::If { condition, accept, reject } = first(body)? else { return None };
    if !accept.is_empty() || !matches!(&reject[..], [Statement::Break]) {
        return None;
    }
    let (compare, left, right) = binary(body, *condition)?;
    let (counter, (end, most)) = (loaded(body, left)?, number(right)?);
    // `i += step`
    let Statement::Store { pointer, value } = first(continuing)? else { return None };
    let (change, left, right) = binary(continuing, *value)?;
    if local(function, *pointer)? != counter || loaded(continuing, left)? != counter {
        return None;
    }
    let (step, _) = number(right)?;
    // `var i = start`
    let (start, _) = match (stores(function, counter, &function.body), before.next()) {
        (1, _) => number(function.local_variables[counter].init?)?,
        (2, Some(Statement::Store { pointer, value })) if local(function, *pointer)? == counter => number(*value)?,
        _ => return None,
    };
    let up = match compare {
        BinaryOperator::Less => end - start,
        BinaryOperator::LessEqual => end - start + 1,
        BinaryOperator::Greater => start - end,
        BinaryOperator::GreaterEqual => start - end + 1,
        _ => return None,
    };
    let counts_up = matches!(compare, BinaryOperator::Less | BinaryOperator::LessEqual);
    let follows = match change {
        BinaryOperator::Add => counts_up,
        BinaryOperator::Subtract => !counts_up,
        _ => false,
    };
    // A counter that wraps around would never get there.
    let last = if counts_up { end + step } else { end - step };
    if !follows || step <= 0 || !most.contains(&last) {
        return None;
    }
    usize::try_from((up.max(0) + step - 1) / step).ok()
}

/// A whole number, and the range of its type.
fn whole(literal: &Literal) -> Option<(i64, std::ops::RangeInclusive<i64>)> {
    match *literal {
        Literal::I32(x) => Some((x.into(), i32::MIN.into()..=i32::MAX.into())),
        Literal::U32(x) => Some((x.into(), 0..=u32::MAX.into())),
        _ => None,
    }
}

fn first(block: &Block) -> Option<&Statement> {
    block.iter().find(|statement| !matches!(statement, Statement::Emit(_)))
}

/// Whether a block computes an expression before it does anything else.
fn computes(block: &Block, expression: Handle<Expression>) -> bool {
    let emitted = block.iter().map_while(|statement| match statement {
        Statement::Emit(range) => Some(range.clone()),
        _ => None,
    });
    emitted.flatten().any(|at| at == expression)
}

fn local(function: &Function, pointer: Handle<Expression>) -> Option<Handle<LocalVariable>> {
    match function.expressions[pointer] {
        Expression::LocalVariable(variable) => Some(variable),
        _ => None,
    }
}

/// How many statements write a variable.
fn stores(function: &Function, variable: Handle<LocalVariable>, block: &Block) -> usize {
    let of = |block: &Block| stores(function, variable, block);
    let of_statement = |statement: &Statement| match statement {
        Statement::Block(block) => of(block),
        Statement::If { accept, reject, .. } => of(accept) + of(reject),
        Statement::Switch { cases, .. } => cases.iter().map(|case| of(&case.body)).sum(),
        Statement::Loop { body, continuing, .. } => of(body) + of(continuing),
        Statement::Store { pointer, .. } => usize::from(local(function, *pointer) == Some(variable)),
        _ => 0,
    };
    block.iter().map(of_statement).sum()
}
