//! The form in which an expression runs: names are places, calls are functions, constants are values.

use crate::{
    ast::{Expr, Fold, Kind, Literal, children, operators},
    budget::Budget,
    checker::{Checked, Reference},
    functions::{Implementation, compile_regexp, implementation},
    metering::Cost,
    types::{Object, Type},
    value::{Key, List, Map, Value, whole},
};
use api::regexp::Regexp;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A node that runs.
pub(crate) enum Node {
    Const(Value<'static>),
    Variable(u16),
    Local(u16),
    Path(Box<Path>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Conditional(Box<[Node; 3]>),
    /// Two values are equal, or are not if the flag says so.
    Equal(Box<[Node; 2]>, bool),
    Call(Box<Call>),
    /// Whether a value is among constants.
    Among(Box<(Node, BTreeSet<Key<'static>>)>),
    List(Box<[(Node, bool)]>),
    Map(Box<[(Node, Node, bool)]>),
    Object(Box<MakeObject>),
    Loop(Box<Loop>),
    /// The place, the value and in what it is used.
    Bind(Box<(u16, Node, Node)>),
    /// The first optional that has a value.
    OptionalOr(Box<[Node; 2]>),
    OptionalOrValue(Box<[Node; 2]>),
}

/// An object that is made: its type, and names, values and whether they are optional.
pub(crate) struct MakeObject {
    pub(crate) of: Object,
    pub(crate) fields: Vec<(Arc<str>, Node, bool)>,
}

/// Fields and indexes of something.
pub(crate) struct Path {
    pub(crate) root: Node,
    pub(crate) steps: Vec<Step>,
    /// Whether it is only asked if the last one is there.
    pub(crate) test: bool,
}

/// A field or an index.
pub(crate) struct Step {
    pub(crate) by: By,
    pub(crate) optional: bool,
}

/// What a step goes by.
pub(crate) enum By {
    Field(Arc<str>),
    Index(Value<'static>),
    Computed(Node),
}

/// A call.
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) run: Implementation,
    pub(crate) args: Vec<Node>,
    pub(crate) cost: Cost,
    /// A pattern that is a constant.
    pub(crate) regexp: Option<Regexp>,
}

/// A comprehension over a list or map.
pub(crate) struct Loop {
    pub(crate) range: Node,
    /// The place of what it walks.
    pub(crate) var: u16,
    /// The place of the second variable.
    pub(crate) var2: Option<u16>,
    pub(crate) filter: Option<Node>,
    pub(crate) step: LoopStep,
}

/// What a comprehension does with each element.
pub(crate) enum LoopStep {
    All(Node),
    Exists(Node),
    ExistsOne(Node),
    Append(Node),
    /// Key and value.
    Insert(Node, Node),
    InsertMap(Node),
}

/// Plans a checked expression.
///
/// # Errors
/// A constant that cannot be converted.
pub(crate) fn plan(expr: &Expr, checked: &Checked) -> Result<Node, String> {
    Planner { checked }.node(expr)
}

struct Planner<'c> {
    checked: &'c Checked,
}

fn constant(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::String(text) => Value::string(text.clone()),
        Literal::Bytes(bytes) => Value::Bytes(bytes.clone()),
    }
}

impl Planner<'_> {
    fn pair(&self, args: &[Expr]) -> Result<Box<[Node; 2]>, String> {
        match args {
            [a, b] => Ok(Box::new([self.node(a)?, self.node(b)?])),
            _ => Err("no such overload".to_owned()),
        }
    }

    fn node(&self, expr: &Expr) -> Result<Node, String> {
        match (self.checked.reference(expr.id), &expr.kind) {
            (Reference::Variable(place), _) => return Ok(Node::Variable(*place)),
            (Reference::Local(place), _) => return Ok(Node::Local(*place)),
            (Reference::Type(name), _) => return Ok(Node::Const(Value::Type(name.clone()))),
            _ => {}
        }
        match &expr.kind {
            Kind::Literal(literal) => Ok(Node::Const(constant(literal))),
            Kind::Ident(name) => Err(format!("undeclared reference to '{name}'")),
            Kind::Select { operand, field, test } => {
                self.step(operand, Step { by: By::Field(field.clone()), optional: false }, *test)
            }
            Kind::Call { target, function, args } => self.call(expr, target.as_deref(), function, args),
            Kind::List(elements) => self.list(elements),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct { fields, .. } => {
                let Reference::Object(Type::Object(object)) = self.checked.reference(expr.id) else {
                    return Err("unknown type".to_owned());
                };
                let mut planned = Vec::with_capacity(fields.len());
                for field in fields {
                    planned.push((field.name.clone(), self.node(&field.value)?, field.optional));
                }
                Ok(Node::Object(Box::new(MakeObject { of: object.clone(), fields: planned })))
            }
            Kind::Fold(fold) => self.fold(expr, fold),
        }
    }

    /// A step behind an operand, which may be a path already.
    fn step(&self, operand: &Expr, step: Step, test: bool) -> Result<Node, String> {
        let mut path = match self.node(operand)? {
            Node::Path(path) if !path.test => path,
            root => Box::new(Path { root, steps: Vec::new(), test: false }),
        };
        path.steps.push(step);
        path.test = test;
        Ok(Node::Path(path))
    }

    fn list(&self, elements: &[(Expr, bool)]) -> Result<Node, String> {
        let mut planned = Vec::with_capacity(elements.len());
        for (element, optional) in elements {
            planned.push((self.node(element)?, *optional));
        }
        let constants: Option<Vec<Value<'static>>> =
            planned.iter().map(|(node, optional)| const_of(node).filter(|_| !optional).cloned()).collect();
        Ok(match constants {
            Some(constants) => Node::Const(Value::list(constants)),
            None => Node::List(planned.into()),
        })
    }

    fn map(&self, entries: &[crate::ast::Entry]) -> Result<Node, String> {
        let mut planned = Vec::with_capacity(entries.len());
        for entry in entries {
            planned.push((self.node(&entry.key)?, self.node(&entry.value)?, entry.optional));
        }
        let constants: Option<BTreeMap<Key<'static>, Value<'static>>> = planned
            .iter()
            .map(|(key, value, optional)| {
                let (key, value) = (const_of(key)?.key()?, const_of(value)?.clone());
                (!optional).then_some((key, value))
            })
            .collect();
        Ok(match constants {
            Some(constants) => Node::Const(Value::Map(Map::Owned(Arc::new(constants)))),
            None => Node::Map(planned.into()),
        })
    }

    fn call(&self, expr: &Expr, target: Option<&Expr>, name: &str, args: &[Expr]) -> Result<Node, String> {
        match name {
            operators::AND => return Ok(Node::And(self.pair(args)?)),
            operators::OR => return Ok(Node::Or(self.pair(args)?)),
            operators::EQUALS => return Ok(Node::Equal(self.pair(args)?, false)),
            operators::NOT_EQUALS => return Ok(Node::Equal(self.pair(args)?, true)),
            operators::CONDITIONAL => {
                let [condition, yes, no] = args else { return Err("no such overload".to_owned()) };
                let nodes = [self.node(condition)?, self.node(yes)?, self.node(no)?];
                return Ok(Node::Conditional(Box::new(nodes)));
            }
            operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT => {
                let [operand, index] = args else { return Err("no such overload".to_owned()) };
                let by = match self.node(index)? {
                    Node::Const(Value::String(name)) => By::Field((*name).into()),
                    Node::Const(value) => By::Index(value),
                    node => By::Computed(node),
                };
                return self.step(operand, Step { by, optional: name != operators::INDEX }, false);
            }
            _ => {}
        }
        let Reference::Call { function, overloads, namespaced } = self.checked.reference(expr.id) else {
            return Err(format!("no such overload: {name}"));
        };
        let mut nodes = Vec::with_capacity(args.len() + 1);
        for arg in target.filter(|_| !namespaced).into_iter().chain(args) {
            nodes.push(self.node(arg)?);
        }
        let overload = if let [one] = overloads.as_slice() { Some(one.id.as_str()) } else { None };
        plan_call(function.name, overload, nodes)
    }

    fn fold(&self, expr: &Expr, fold: &Fold) -> Result<Node, String> {
        let Reference::Fold(base) = *self.checked.reference(expr.id) else {
            return Err("no comprehension".to_owned());
        };
        if fold.is_bind() {
            let nodes = (base, self.node(&fold.init)?, self.node(&fold.result)?);
            return Ok(Node::Bind(Box::new(nodes)));
        }
        let Kind::Call { function, args, .. } = &fold.step.kind else { return Err("no comprehension".to_owned()) };
        let (filter, step) = match (&**function, args.as_slice()) {
            (operators::CONDITIONAL, [filter, step, _]) => (Some(filter), step),
            _ => (None, &fold.step),
        };
        let Kind::Call { function, args, .. } = &step.kind else { return Err("no comprehension".to_owned()) };
        let counts = matches!(fold.init.kind, Kind::Literal(Literal::Int(0)));
        let (filter, step) = match (&**function, args.as_slice(), filter) {
            (operators::AND, [_, body], None) => (None, LoopStep::All(self.node(body)?)),
            (operators::OR, [_, body], None) => (None, LoopStep::Exists(self.node(body)?)),
            (operators::ADD, _, Some(body)) if counts => (None, LoopStep::ExistsOne(self.node(body)?)),
            (operators::ADD, [_, list], filter) => {
                let element = children(list).into_iter().next().ok_or("no comprehension")?;
                (filter, LoopStep::Append(self.node(element)?))
            }
            (operators::MAP_INSERT, [_, map], filter) => (filter, LoopStep::InsertMap(self.node(map)?)),
            (operators::MAP_INSERT, [_, key, value], filter) => {
                (filter, LoopStep::Insert(self.node(key)?, self.node(value)?))
            }
            _ => return Err("no comprehension".to_owned()),
        };
        let filter = filter.map(|filter| self.node(filter)).transpose()?;
        let var2 = fold.var2.is_some().then_some(base + 2);
        Ok(Node::Loop(Box::new(Loop { range: self.node(&fold.range)?, var: base + 1, var2, filter, step })))
    }
}

fn const_of(node: &Node) -> Option<&Value<'static>> {
    if let Node::Const(value) = node { Some(value) } else { None }
}

/// Conversions that are done once if their argument is a constant.
const CONVERSIONS: [&str; 10] =
    ["bool", "bytes", "double", "dyn", "duration", "int", "string", "timestamp", "type", "uint"];

fn plan_call(name: &'static str, overload: Option<&str>, mut args: Vec<Node>) -> Result<Node, String> {
    if let ("or" | "orValue", true) = (name, args.len() == 2) {
        let mut args = args.into_iter();
        let (Some(a), Some(b)) = (args.next(), args.next()) else { return Err("no such overload".to_owned()) };
        let pair = Box::new([a, b]);
        return Ok(if name == "or" { Node::OptionalOr(pair) } else { Node::OptionalOrValue(pair) });
    }
    let run = implementation(name, overload).ok_or_else(|| format!("no such overload: {name}"))?;
    if let [Node::Const(value)] = args.as_slice()
        && CONVERSIONS.contains(&name)
    {
        let converted = run(std::slice::from_ref(value), &mut Budget::new(u64::MAX));
        return converted.map(Node::Const).map_err(|error| error.to_string());
    }
    if overload == Some("in_list")
        && let [_, Node::Const(Value::List(list))] = args.as_slice()
    {
        if list.is_empty() {
            return Ok(Node::Const(Value::Bool(false)));
        }
        if let Some(set) = constant_set(list) {
            args.truncate(1);
            let needle = args.pop().ok_or("no such overload")?;
            return Ok(Node::Among(Box::new((needle, set))));
        }
    }
    let pattern = match (name, args.get(1)) {
        ("matches" | "find" | "findAll", Some(Node::Const(Value::String(pattern)))) => Some(pattern),
        _ => None,
    };
    let regexp = pattern.map(|pattern| compile_regexp(pattern)).transpose()?;
    Ok(Node::Call(Box::new(Call { name, run, args, cost: Cost::of(name, overload), regexp })))
}

/// The keys of a list of primitive constants, with those of other types of numbers that are equal to them.
fn constant_set(list: &List<'static>) -> Option<BTreeSet<Key<'static>>> {
    let List::Owned(elements, _) = list else { return None };
    let mut set = BTreeSet::new();
    for element in &**elements {
        let int = match element {
            Value::Int(value) => Some(*value),
            Value::Uint(value) => i64::try_from(*value).ok(),
            // A double that is no whole number could only be found as itself.
            Value::Double(value) => Some(whole(*value)?),
            Value::Bool(_) | Value::String(_) => None,
            _ => return None,
        };
        set.extend(element.key());
        set.extend(int.map(Key::Int));
        set.extend(int.and_then(|int| u64::try_from(int).ok()).map(Key::Uint));
    }
    Some(set)
}
