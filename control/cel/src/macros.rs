//! Macros: calls that become other trees while an expression is parsed.

use crate::{
    ast::{ACCUMULATOR, Expr, Fold, Kind, Literal, operators},
    builder::Builder,
};
use std::sync::Arc;

/// What a macro makes of a call: a tree, a fault at a place, or nothing where the call is no macro and is given back.
pub(crate) enum Expansion {
    Done(Expr),
    Fault(u32, String),
    NotAMacro(Option<Box<Expr>>, Vec<Expr>),
}

/// How deep a target may be that a macro takes twice, counted in doublings: each `optMap` on an `optMap` doubles the tree.
const MAX_NODES: usize = 200_000;

type Fallible<T> = Result<T, (u32, String)>;

/// Expands a call that begins at an offset.
pub(crate) fn expand(
    b: &mut Builder,
    at: u32,
    target: Option<Box<Expr>>,
    name: &str,
    mut args: Vec<Expr>,
) -> Expansion {
    let Some(target) = target else {
        if name == "has" && args.len() == 1 {
            return args.pop().map_or(Expansion::NotAMacro(None, Vec::new()), |arg| has(b, at, arg));
        }
        return Expansion::NotAMacro(None, args);
    };
    let done = match (name, args.len()) {
        ("all" | "exists" | "exists_one" | "existsOne", 2 | 3) => quantifier(b, at, *target, name, args),
        ("map", 2 | 3) => map(b, at, *target, args),
        ("filter", 2) => filter(b, at, *target, args),
        ("transformList" | "transformMap" | "transformMapEntry", 3 | 4) => transform(b, at, *target, name, args),
        ("optMap" | "optFlatMap", 2) => opt_map(b, at, *target, name, args),
        ("sortBy", 2) => sort_by(b, at, *target, args),
        _ => return Expansion::NotAMacro(Some(target), args),
    };
    match done {
        Ok(expr) => Expansion::Done(expr),
        Err((offset, message)) => Expansion::Fault(offset, message),
    }
}

fn has(b: &mut Builder, at: u32, arg: Expr) -> Expansion {
    match arg.kind {
        Kind::Select { operand, field, test: false } => {
            Expansion::Done(b.expr(at, Kind::Select { operand, field, test: true }))
        }
        _ => Expansion::Fault(b.offset(&arg), "invalid argument to has() macro".to_owned()),
    }
}

/// The name that an argument is.
fn variable(b: &Builder, arg: Option<&Expr>, fault: &str) -> Fallible<Arc<str>> {
    let Some(arg) = arg else { return Err((0, fault.to_owned())) };
    let Kind::Ident(name) = &arg.kind else { return Err((b.offset(arg), fault.to_owned())) };
    if matches!(&**name, ACCUMULATOR | "__result__") {
        return Err((b.offset(arg), "iteration variable overwrites accumulator variable".to_owned()));
    }
    Ok(name.clone())
}

/// The names of one or two variables, which the first arguments are.
fn variables(b: &Builder, args: &[Expr], two: bool) -> Fallible<(Arc<str>, Option<Arc<str>>)> {
    let fault = "argument must be a simple name";
    let first = variable(b, args.first(), fault)?;
    if !two {
        return Ok((first, None));
    }
    let second = variable(b, args.get(1), fault)?;
    if first == second {
        let offset = args.get(1).map_or(0, |arg| b.offset(arg));
        return Err((offset, format!("duplicate variable name: {first}")));
    }
    Ok((first, Some(second)))
}

/// The last arguments: a condition, if there is one, and what is made.
fn last(args: &mut Vec<Expr>, filtered: bool) -> Fallible<(Option<Expr>, Expr)> {
    let made = args.pop().ok_or((0, String::new()))?;
    Ok((if filtered { args.pop() } else { None }, made))
}

struct Loop {
    vars: (Arc<str>, Option<Arc<str>>),
    init: Expr,
    condition: Expr,
    step: Expr,
    result: Expr,
}

fn fold(b: &mut Builder, at: u32, range: Expr, it: Loop) -> Expr {
    let Loop { vars: (var, var2), init, condition, step, result } = it;
    b.expr(at, Kind::Fold(Box::new(Fold { range, var, var2, accu: ACCUMULATOR.into(), init, condition, step, result })))
}

fn quantifier(b: &mut Builder, at: u32, target: Expr, name: &str, mut args: Vec<Expr>) -> Fallible<Expr> {
    let vars = variables(b, &args, args.len() == 3)?;
    let (_, predicate) = last(&mut args, false)?;
    let init = match name {
        "all" => Literal::Bool(true),
        "exists" => Literal::Bool(false),
        _ => Literal::Int(0),
    };
    let init = b.literal(at, init);
    let accu = b.accumulator(at);
    let (condition, step, result) = match name {
        "all" => {
            let condition = b.call(at, operators::NOT_STRICTLY_FALSE, vec![accu]);
            let accu = b.accumulator(at);
            (condition, b.call(at, operators::AND, vec![accu, predicate]), b.accumulator(at))
        }
        "exists" => {
            let not = b.call(at, operators::NOT, vec![accu]);
            let condition = b.call(at, operators::NOT_STRICTLY_FALSE, vec![not]);
            let accu = b.accumulator(at);
            (condition, b.call(at, operators::OR, vec![accu, predicate]), b.accumulator(at))
        }
        _ => {
            let one = b.literal(at, Literal::Int(1));
            let more = b.call(at, operators::ADD, vec![accu, one]);
            let same = b.accumulator(at);
            let step = b.call(at, operators::CONDITIONAL, vec![predicate, more, same]);
            let (accu, one) = (b.accumulator(at), b.literal(at, Literal::Int(1)));
            (b.literal(at, Literal::Bool(true)), step, b.call(at, operators::EQUALS, vec![accu, one]))
        }
    };
    Ok(fold(b, at, target, Loop { vars, init, condition, step, result }))
}

/// A loop that adds to its accumulator what `step` makes of it, where the condition holds.
fn collect(
    b: &mut Builder,
    at: u32,
    range: Expr,
    vars: (Arc<str>, Option<Arc<str>>),
    init: Kind,
    (filter, step): (Option<Expr>, Expr),
) -> Expr {
    let init = b.expr(at, init);
    let condition = b.literal(at, Literal::Bool(true));
    let step = match filter {
        Some(filter) => {
            let same = b.accumulator(at);
            b.call(at, operators::CONDITIONAL, vec![filter, step, same])
        }
        None => step,
    };
    let result = b.accumulator(at);
    fold(b, at, range, Loop { vars, init, condition, step, result })
}

/// `accumulator + [element]`
fn append(b: &mut Builder, at: u32, element: Expr) -> Expr {
    let accu = b.accumulator(at);
    let list = b.expr(at, Kind::List(vec![(element, false)]));
    b.call(at, operators::ADD, vec![accu, list])
}

fn map(b: &mut Builder, at: u32, target: Expr, mut args: Vec<Expr>) -> Fallible<Expr> {
    let var = variable(b, args.first(), "argument is not an identifier")?;
    let filtered = args.len() == 3;
    let (filter, made) = last(&mut args, filtered)?;
    let step = append(b, at, made);
    Ok(collect(b, at, target, (var, None), Kind::List(Vec::new()), (filter, step)))
}

fn filter(b: &mut Builder, at: u32, target: Expr, mut args: Vec<Expr>) -> Fallible<Expr> {
    let var = variable(b, args.first(), "argument is not an identifier")?;
    let (element, predicate) = last(&mut args, true)?;
    let element = element.ok_or((at, String::new()))?;
    let step = append(b, at, element);
    Ok(collect(b, at, target, (var, None), Kind::List(Vec::new()), (Some(predicate), step)))
}

fn transform(b: &mut Builder, at: u32, target: Expr, name: &str, mut args: Vec<Expr>) -> Fallible<Expr> {
    let vars = variables(b, &args, true)?;
    let filtered = args.len() == 4;
    let (filter, made) = last(&mut args, filtered)?;
    if name == "transformList" {
        let step = append(b, at, made);
        return Ok(collect(b, at, target, vars, Kind::List(Vec::new()), (filter, step)));
    }
    let mut inserted = vec![b.accumulator(at)];
    if name == "transformMap" {
        inserted.push(b.ident(at, &vars.0));
    }
    inserted.push(made);
    let step = b.call(at, operators::MAP_INSERT, inserted);
    Ok(collect(b, at, target, vars, Kind::Map(Vec::new()), (filter, step)))
}

fn opt_map(b: &mut Builder, at: u32, target: Expr, name: &str, mut args: Vec<Expr>) -> Fallible<Expr> {
    let fault = format!("{name}() variable name must be a simple identifier");
    let Some(Expr { kind: Kind::Ident(var), .. }) = args.first() else {
        return Err((args.first().map_or(at, |arg| b.offset(arg)), fault));
    };
    let var = var.clone();
    let (_, made) = last(&mut args, false)?;
    let copy = b.copy(&target);
    if b.offsets.len() > MAX_NODES {
        return Err((at, format!("{name}() makes the expression too large")));
    }
    let has_value = b.method(at, "hasValue", target, Vec::new());
    let value = b.method(at, "value", copy, Vec::new());
    let mut bound = b.bind(at, &var, value, made);
    if name == "optMap" {
        bound = b.call(at, "optional.of", vec![bound]);
    }
    let none = b.call(at, "optional.none", Vec::new());
    Ok(b.call(at, operators::CONDITIONAL, vec![has_value, bound, none]))
}

fn sort_by(b: &mut Builder, at: u32, target: Expr, args: Vec<Expr>) -> Fallible<Expr> {
    if !matches!(target.kind, Kind::List(_) | Kind::Select { .. } | Kind::Ident(_) | Kind::Fold(_) | Kind::Call { .. })
    {
        let fault = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
        return Err((b.offset(&target), fault.to_owned()));
    }
    let name: Arc<str> = "@__sortBy_input__".into();
    let input = b.ident(at, &name);
    let keys = map(b, at, input, args)?;
    let input = b.ident(at, &name);
    let sorted = b.method(at, operators::SORT_BY_KEYS, input, vec![keys]);
    Ok(b.bind(at, &name, target, sorted))
}
