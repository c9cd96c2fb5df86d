//! A function of WGSL on the CPU, which has no compiler for it: what `naga` reads is walked through.
//!
//! What the library lets through is the body of one function, small, without side effects and with loops
//! that end; of that this knows numbers, vectors, arrays, branches and loops.

use std::sync::Arc;

use naga::{
    BinaryOperator as Op, Block, Expression, Function, Handle, Literal, MathFunction as Math, Module,
    RelationalFunction, ScalarKind, Statement, Type, TypeInner, UnaryOperator,
};
use wgpu_attention::ops::scan_attention::{BiasFn, MASKED};

/// The function of a snippet, over one coordinate of a query and one of a key.
///
/// # Errors
/// What of it this does not know. A text that is no WGSL is left to the library, which says more.
pub fn twin(snippet: &str) -> Result<Arc<BiasFn>, String> {
    let source = format!(
        "const MASKED: f32 = {MASKED:e}; fn params(i: u32) -> f32 {{ return f32(i); }} \
         fn bias(q_coord: array<f32, 1>, k_coord: array<f32, 1>, head: u32) -> f32 {{\n{snippet}\n}}"
    );
    let Ok(module) = naga::front::wgsl::parse_str(&source) else { return Ok(Arc::new(|_, _, _, _| 0.0)) };
    let Some((handle, _)) = module.functions.iter().find(|(_, f)| f.name.as_deref() == Some("bias")) else {
        return Ok(Arc::new(|_, _, _, _| 0.0));
    };
    let body = &module.functions[handle].body;
    if !Walk::new(&module, handle, [0.0; 2], 0, &[]).is_some_and(|mut walk| walk.knows(body)) {
        return Err("the CPU of this page does not know all of this text; choose GPU to compile it".into());
    }
    Ok(Arc::new(move |q, k, head, params| {
        let walk = Walk::new(&module, handle, [q[0], k[0]], head, params);
        match walk.and_then(|mut walk| walk.block(&walk.function.body)) {
            Some(Flow::Return(Value::F(bias))) => bias,
            // A bias of its own making would be a wrong curve that nobody hears of.
            _ => unreachable!("all of the text is known"),
        }
    }))
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    F(f32),
    U(u32),
    I(i32),
    B(bool),
    /// Of a vector or an array.
    Many(Vec<Value>),
    /// A variable, and the way to a part of it.
    At(usize, Vec<usize>),
}

enum Flow {
    On,
    Break,
    Continue,
    Return(Value),
}

struct Walk<'a> {
    module: &'a Module,
    function: &'a Function,
    arguments: [Value; 3],
    params: &'a [f32],
    locals: Vec<Value>,
    /// What was computed, by its place in the function.
    values: Vec<Option<Value>>,
}

fn zero(module: &Module, ty: Handle<Type>) -> Option<Value> {
    let of = |kind| match kind {
        ScalarKind::Float | ScalarKind::AbstractFloat => Value::F(0.0),
        ScalarKind::Uint => Value::U(0),
        ScalarKind::Sint | ScalarKind::AbstractInt => Value::I(0),
        ScalarKind::Bool => Value::B(false),
    };
    match &module.types[ty].inner {
        TypeInner::Scalar(scalar) => Some(of(scalar.kind)),
        TypeInner::Vector { size, scalar } => Some(Value::Many(vec![of(scalar.kind); *size as usize])),
        TypeInner::Array { base, size: naga::ArraySize::Constant(n), .. } => {
            Some(Value::Many(vec![zero(module, *base)?; n.get() as usize]))
        }
        _ => None,
    }
}

impl<'a> Walk<'a> {
    /// At the beginning of a call; `None` where a variable begins as what this does not know.
    fn new(
        module: &'a Module,
        handle: Handle<Function>,
        coords: [f32; 2],
        head: usize,
        params: &'a [f32],
    ) -> Option<Self> {
        let function = &module.functions[handle];
        let [q, k] = coords.map(|x| Value::Many(vec![Value::F(x)]));
        let locals = function.local_variables.iter().map(|(_, local)| match local.init {
            // Of a constant; what is computed is stored by a statement.
            Some(init) => Self::constant(module, &function.expressions, init),
            None => zero(module, local.ty),
        });
        Some(Self {
            module,
            function,
            arguments: [q, k, Value::U(head as u32)],
            params,
            locals: locals.collect::<Option<_>>()?,
            values: vec![None; function.expressions.len()],
        })
    }

    /// What needs nothing of a call.
    fn constant(module: &Module, all: &naga::Arena<Expression>, handle: Handle<Expression>) -> Option<Value> {
        let part = |handle: &Handle<Expression>| Self::constant(module, all, *handle);
        match &all[handle] {
            Expression::Literal(literal) => Some(match *literal {
                Literal::F32(x) => Value::F(x),
                Literal::U32(x) => Value::U(x),
                Literal::I32(x) => Value::I(x),
                Literal::Bool(x) => Value::B(x),
                Literal::AbstractFloat(x) => Value::F(x as f32),
                Literal::AbstractInt(x) => Value::I(x as i32),
                _ => return None,
            }),
            Expression::Constant(constant) => {
                Self::constant(module, &module.global_expressions, module.constants[*constant].init)
            }
            Expression::ZeroValue(ty) => zero(module, *ty),
            Expression::Compose { ty, components } => compose(module, *ty, components.iter().map(part).collect()),
            Expression::Splat { size, value } => Some(Value::Many(vec![part(value)?; *size as usize])),
            _ => None,
        }
    }

    /// Whether all of it is known: each statement is taken once, also where a call would not come along. What
    /// is known depends on kinds alone, which are those of every call.
    fn knows(&mut self, block: &Block) -> bool {
        block.iter().all(|statement| match statement {
            Statement::Block(block) => self.knows(block),
            Statement::If { condition, accept, reject } => {
                self.is_so(*condition).is_some() && self.knows(accept) && self.knows(reject)
            }
            Statement::Loop { body, continuing, break_if } => {
                self.knows(body) && self.knows(continuing) && break_if.is_none_or(|end| self.is_so(end).is_some())
            }
            other => self.statement(other).is_some(),
        })
    }

    fn block(&mut self, block: &Block) -> Option<Flow> {
        for statement in block {
            let flow = self.statement(statement)?;
            if !matches!(flow, Flow::On) {
                return Some(flow);
            }
        }
        Some(Flow::On)
    }

    fn statement(&mut self, statement: &Statement) -> Option<Flow> {
        Some(match statement {
            Statement::Emit(range) => {
                for handle in range.clone() {
                    let value = self.compute(handle)?;
                    self.values[handle.index()] = Some(value);
                }
                Flow::On
            }
            Statement::Block(block) => self.block(block)?,
            Statement::If { condition, accept, reject } => {
                self.block(if self.is_so(*condition)? { accept } else { reject })?
            }
            Statement::Loop { body, continuing, break_if } => self.turn(body, continuing, *break_if)?,
            Statement::Break => Flow::Break,
            Statement::Continue => Flow::Continue,
            Statement::Return { value } => Flow::Return(self.value((*value)?)?),
            Statement::Store { pointer, value } => {
                let (to, value) = (self.value(*pointer)?, self.value(*value)?);
                *self.place(&to)? = value;
                Flow::On
            }
            // The one function that there is to call: a parameter.
            Statement::Call { arguments, result, .. } => {
                let Value::U(index) = self.value(*arguments.first()?)? else { return None };
                let read = self.params.get(index as usize).copied().unwrap_or(MASKED);
                self.values[(*result)?.index()] = Some(Value::F(read));
                Flow::On
            }
            _ => return None,
        })
    }

    fn turn(&mut self, body: &Block, continuing: &Block, break_if: Option<Handle<Expression>>) -> Option<Flow> {
        loop {
            match self.block(body)? {
                Flow::Break => return Some(Flow::On),
                Flow::Return(value) => return Some(Flow::Return(value)),
                Flow::On | Flow::Continue => {}
            }
            self.block(continuing)?;
            if let Some(handle) = break_if
                && self.is_so(handle)?
            {
                return Some(Flow::On);
            }
        }
    }

    fn value(&self, handle: Handle<Expression>) -> Option<Value> {
        match &self.values[handle.index()] {
            Some(value) => Some(value.clone()),
            None => self.compute(handle),
        }
    }

    fn is_so(&self, condition: Handle<Expression>) -> Option<bool> {
        match self.value(condition)? {
            Value::B(is_so) => Some(is_so),
            _ => None,
        }
    }

    fn place(&mut self, at: &Value) -> Option<&mut Value> {
        let Value::At(local, way) = at else { return None };
        way.iter().try_fold(self.locals.get_mut(*local)?, |value, &i| match value {
            Value::Many(parts) => {
                let i = within(parts, i);
                parts.get_mut(i)
            }
            _ => None,
        })
    }

    fn compute(&self, handle: Handle<Expression>) -> Option<Value> {
        let value = |handle: &Handle<Expression>| self.value(*handle);
        match &self.function.expressions[handle] {
            Expression::FunctionArgument(i) => self.arguments.get(*i as usize).cloned(),
            Expression::LocalVariable(local) => Some(Value::At(local.index(), Vec::new())),
            Expression::Load { pointer } => match value(pointer)? {
                Value::At(local, way) => way.iter().try_fold(self.locals.get(local)?.clone(), part),
                _ => None,
            },
            Expression::AccessIndex { base, index } => part(value(base)?, &(*index as usize)),
            Expression::Access { base, index } => {
                let index = match value(index)? {
                    Value::U(i) => i as usize,
                    Value::I(i) => i as u32 as usize,
                    _ => return None,
                };
                part(value(base)?, &index)
            }
            Expression::Compose { ty, components } => compose(self.module, *ty, components.iter().map(value).collect()),
            Expression::Splat { size, value: one } => Some(Value::Many(vec![value(one)?; *size as usize])),
            Expression::Unary { op, expr } => each(&value(expr)?, &|x| match (op, x) {
                (UnaryOperator::Negate, Value::F(x)) => Some(Value::F(-x)),
                (UnaryOperator::Negate, Value::I(x)) => Some(Value::I(x.wrapping_neg())),
                (UnaryOperator::LogicalNot, Value::B(x)) => Some(Value::B(!x)),
                _ => None,
            }),
            Expression::Binary { op, left, right } => pairs(&value(left)?, &value(right)?, &|a, b| binary(*op, a, b)),
            Expression::Select { condition, accept, reject } => match value(condition)? {
                Value::B(is_so) => value(if is_so { accept } else { reject }),
                Value::Many(conditions) => {
                    let (accept, reject) = (value(accept)?, value(reject)?);
                    let one = |(i, is_so): (usize, &Value)| {
                        part(if *is_so == Value::B(true) { accept.clone() } else { reject.clone() }, &i)
                    };
                    conditions.iter().enumerate().map(one).collect::<Option<Vec<_>>>().map(Value::Many)
                }
                _ => None,
            },
            Expression::Relational { fun, argument } => match (fun, value(argument)?) {
                (RelationalFunction::All, Value::Many(all)) => Some(Value::B(!all.contains(&Value::B(false)))),
                (RelationalFunction::Any, Value::Many(all)) => Some(Value::B(all.contains(&Value::B(true)))),
                (_, value @ Value::B(_)) => Some(value),
                _ => None,
            },
            Expression::Math { fun, arg, arg1, arg2, .. } => {
                let rest = [arg1, arg2].into_iter().flatten();
                let all: Vec<Value> = std::iter::once(arg).chain(rest).map(value).collect::<Option<_>>()?;
                math(*fun, &all)
            }
            Expression::As { expr, kind, convert: Some(_) } => each(&value(expr)?, &|x| convert(*kind, x)),
            _ => Self::constant(self.module, &self.function.expressions, handle),
        }
    }
}

/// An index, or as a GPU has it for one beyond the end, the last.
fn within(parts: &[Value], index: usize) -> usize {
    index.min(parts.len().saturating_sub(1))
}

/// A vector is composed of numbers and of vectors, an array of its elements. Matrices are not known.
fn compose(module: &Module, ty: Handle<Type>, parts: Option<Vec<Value>>) -> Option<Value> {
    let numbers = |part| match part {
        Value::Many(numbers) => numbers,
        number => vec![number],
    };
    match module.types[ty].inner {
        TypeInner::Vector { .. } => Some(Value::Many(parts?.into_iter().flat_map(numbers).collect())),
        TypeInner::Array { .. } => parts.map(Value::Many),
        _ => None,
    }
}

fn part(value: Value, index: &usize) -> Option<Value> {
    match value {
        Value::Many(mut parts) => {
            let index = within(&parts, *index);
            (index < parts.len()).then(|| parts.swap_remove(index))
        }
        Value::At(local, mut way) => {
            way.push(*index);
            Some(Value::At(local, way))
        }
        _ => None,
    }
}

fn each(value: &Value, one: &dyn Fn(&Value) -> Option<Value>) -> Option<Value> {
    match value {
        Value::Many(parts) => parts.iter().map(|part| each(part, one)).collect::<Option<Vec<_>>>().map(Value::Many),
        single => one(single),
    }
}

/// Of two vectors, or a vector and a number.
fn pairs(a: &Value, b: &Value, one: &dyn Fn(&Value, &Value) -> Option<Value>) -> Option<Value> {
    let many = |all: Option<Vec<Value>>| all.map(Value::Many);
    match (a, b) {
        (Value::Many(a), Value::Many(b)) => many(a.iter().zip(b).map(|(a, b)| pairs(a, b, one)).collect()),
        (Value::Many(a), b) => many(a.iter().map(|a| pairs(a, b, one)).collect()),
        (a, Value::Many(b)) => many(b.iter().map(|b| pairs(a, b, one)).collect()),
        (a, b) => one(a, b),
    }
}

fn binary(op: Op, a: &Value, b: &Value) -> Option<Value> {
    use Value::{B, F, I, U};
    let compared = match (a, b) {
        (F(a), F(b)) => a.partial_cmp(b),
        (U(a), U(b)) => a.partial_cmp(b),
        (I(a), I(b)) => a.partial_cmp(b),
        (B(a), B(b)) => a.partial_cmp(b),
        _ => None,
    };
    match op {
        Op::Equal => return Some(B(compared.is_some_and(|order| order.is_eq()))),
        Op::NotEqual => return Some(B(!compared.is_some_and(|order| order.is_eq()))),
        Op::Less => return Some(B(compared.is_some_and(|order| order.is_lt()))),
        Op::LessEqual => return Some(B(compared.is_some_and(|order| order.is_le()))),
        Op::Greater => return Some(B(compared.is_some_and(|order| order.is_gt()))),
        Op::GreaterEqual => return Some(B(compared.is_some_and(|order| order.is_ge()))),
        _ => {}
    }
    Some(match (op, a, b) {
        (Op::Add, F(a), F(b)) => F(a + b),
        (Op::Subtract, F(a), F(b)) => F(a - b),
        (Op::Multiply, F(a), F(b)) => F(a * b),
        (Op::Divide, F(a), F(b)) => F(a / b),
        (Op::Modulo, F(a), F(b)) => F(a % b),
        (Op::Add, U(a), U(b)) => U(a.wrapping_add(*b)),
        (Op::Subtract, U(a), U(b)) => U(a.wrapping_sub(*b)),
        (Op::Multiply, U(a), U(b)) => U(a.wrapping_mul(*b)),
        // As WGSL has it for a divisor of zero.
        (Op::Divide, U(a), U(b)) => U(a.checked_div(*b).unwrap_or(*a)),
        (Op::Modulo, U(a), U(b)) => U(a.checked_rem(*b).unwrap_or(0)),
        (Op::Add, I(a), I(b)) => I(a.wrapping_add(*b)),
        (Op::Subtract, I(a), I(b)) => I(a.wrapping_sub(*b)),
        (Op::Multiply, I(a), I(b)) => I(a.wrapping_mul(*b)),
        (Op::Divide, I(a), I(b)) => I(a.checked_div(*b).unwrap_or(*a)),
        (Op::Modulo, I(a), I(b)) => I(a.checked_rem(*b).unwrap_or(0)),
        (Op::And, U(a), U(b)) => U(a & b),
        (Op::InclusiveOr, U(a), U(b)) => U(a | b),
        (Op::ExclusiveOr, U(a), U(b)) => U(a ^ b),
        (Op::ShiftLeft, U(a), U(b)) => U(a.wrapping_shl(*b)),
        (Op::ShiftRight, U(a), U(b)) => U(a.wrapping_shr(*b)),
        (Op::LogicalAnd | Op::And, B(a), B(b)) => B(*a && *b),
        (Op::LogicalOr | Op::InclusiveOr, B(a), B(b)) => B(*a || *b),
        _ => return None,
    })
}

fn convert(kind: ScalarKind, x: &Value) -> Option<Value> {
    use Value::{B, F, I, U};
    Some(match (kind, x) {
        (ScalarKind::Float, F(x)) => F(*x),
        (ScalarKind::Float, U(x)) => F(*x as f32),
        (ScalarKind::Float, I(x)) => F(*x as f32),
        (ScalarKind::Float, B(x)) => F(f32::from(*x)),
        (ScalarKind::Uint, F(x)) => U(*x as u32),
        (ScalarKind::Uint, U(x)) => U(*x),
        (ScalarKind::Uint, I(x)) => U(*x as u32),
        (ScalarKind::Uint, B(x)) => U(u32::from(*x)),
        (ScalarKind::Sint, F(x)) => I(*x as i32),
        (ScalarKind::Sint, U(x)) => I(*x as i32),
        (ScalarKind::Sint, I(x)) => I(*x),
        (ScalarKind::Sint, B(x)) => I(i32::from(*x)),
        (ScalarKind::Bool, F(x)) => B(*x != 0.0),
        (ScalarKind::Bool, U(x)) => B(*x != 0),
        (ScalarKind::Bool, I(x)) => B(*x != 0),
        (ScalarKind::Bool, B(x)) => B(*x),
        _ => return None,
    })
}

fn math(fun: Math, all: &[Value]) -> Option<Value> {
    match (fun, all) {
        (Math::Dot, [a, b]) => dot(a, b),
        (Math::Length, [a]) => length(a),
        (Math::Distance, [a, b]) => length(&pairs(a, b, &|a, b| binary(Op::Subtract, a, b))?),
        (_, [a]) => each(a, &|x| single(fun, x)),
        (_, [a, b]) => pairs(a, b, &|a, b| double(fun, a, b)),
        (_, [a, b, c]) => triple(fun, a, b, c),
        _ => None,
    }
}

fn dot(a: &Value, b: &Value) -> Option<Value> {
    let Value::Many(products) = pairs(a, b, &|a, b| binary(Op::Multiply, a, b))? else { return None };
    let (first, others) = products.split_first()?;
    others.iter().try_fold(first.clone(), |sum, product| binary(Op::Add, &sum, product))
}

/// Of a vector or a number.
fn length(x: &Value) -> Option<Value> {
    match x {
        Value::Many(_) => single(Math::Sqrt, &dot(x, x)?),
        number => single(Math::Abs, number),
    }
}

fn single(fun: Math, x: &Value) -> Option<Value> {
    match (fun, x) {
        (Math::Abs, Value::I(x)) => return Some(Value::I(x.wrapping_abs())),
        (Math::Abs, x @ Value::U(_)) => return Some(x.clone()),
        (Math::Sign, Value::I(x)) => return Some(Value::I(x.signum())),
        _ => {}
    }
    let Value::F(x) = *x else { return None };
    Some(Value::F(match fun {
        Math::Abs => x.abs(),
        Math::Saturate => x.clamp(0.0, 1.0),
        Math::Cos => x.cos(),
        Math::Cosh => x.cosh(),
        Math::Sin => x.sin(),
        Math::Sinh => x.sinh(),
        Math::Tan => x.tan(),
        Math::Tanh => x.tanh(),
        Math::Acos => x.acos(),
        Math::Asin => x.asin(),
        Math::Atan => x.atan(),
        Math::Asinh => x.asinh(),
        Math::Acosh => x.acosh(),
        Math::Atanh => x.atanh(),
        Math::Radians => x.to_radians(),
        Math::Degrees => x.to_degrees(),
        Math::Ceil => x.ceil(),
        Math::Floor => x.floor(),
        Math::Round => x.round_ties_even(),
        Math::Fract => x - x.floor(),
        Math::Trunc => x.trunc(),
        Math::Exp => x.exp(),
        Math::Exp2 => x.exp2(),
        Math::Log => x.ln(),
        Math::Log2 => x.log2(),
        Math::Sign if x == 0.0 => 0.0,
        Math::Sign => x.signum(),
        Math::Sqrt => x.sqrt(),
        Math::InverseSqrt => x.sqrt().recip(),
        _ => return None,
    }))
}

fn double(fun: Math, a: &Value, b: &Value) -> Option<Value> {
    use Value::{F, I, U};
    Some(match (fun, a, b) {
        (Math::Min, F(a), F(b)) => F(a.min(*b)),
        (Math::Min, U(a), U(b)) => U(*a.min(b)),
        (Math::Min, I(a), I(b)) => I(*a.min(b)),
        (Math::Max, F(a), F(b)) => F(a.max(*b)),
        (Math::Max, U(a), U(b)) => U(*a.max(b)),
        (Math::Max, I(a), I(b)) => I(*a.max(b)),
        (Math::Pow, F(a), F(b)) => F(a.powf(*b)),
        (Math::Atan2, F(a), F(b)) => F(a.atan2(*b)),
        (Math::Step, F(edge), F(x)) => F(f32::from(x >= edge)),
        _ => return None,
    })
}

fn triple(fun: Math, a: &Value, b: &Value, c: &Value) -> Option<Value> {
    match fun {
        Math::Clamp => pairs(&pairs(a, b, &|a, b| double(Math::Max, a, b))?, c, &|a, b| double(Math::Min, a, b)),
        Math::Fma => {
            let product = pairs(a, b, &|a, b| binary(Op::Multiply, a, b))?;
            pairs(&product, c, &|a, b| binary(Op::Add, a, b))
        }
        Math::Mix => {
            let away = pairs(b, a, &|b, a| binary(Op::Subtract, b, a))?;
            let step = pairs(&away, c, &|a, b| binary(Op::Multiply, a, b))?;
            pairs(a, &step, &|a, b| binary(Op::Add, a, b))
        }
        Math::SmoothStep => {
            let over = |a: &Value, b: &Value| pairs(a, b, &|a, b| binary(Op::Subtract, a, b));
            let turn = pairs(&over(c, a)?, &over(b, a)?, &|a, b| binary(Op::Divide, a, b))?;
            each(&turn, &|x| match x {
                Value::F(x) => {
                    let x = x.clamp(0.0, 1.0);
                    Some(Value::F(x * x * (3.0 - 2.0 * x)))
                }
                _ => None,
            })
        }
        _ => None,
    }
}
