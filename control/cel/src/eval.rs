//! Runs a plan.

use crate::{
    budget::{Budget, Error},
    equality::equal,
    functions::{call_regexp, map_insert},
    metering::{Cost, LIST, MAP, OBJECT},
    plan::{By, Call, Loop, LoopStep, MakeObject, Node, Path, Step},
    value::{List, Map, Value, whole},
};
use std::{collections::BTreeMap, sync::Arc};

type Outcome<'a> = Result<Value<'a>, Error>;

/// An evaluation.
pub(crate) struct Run<'r, 'a, 's> {
    pub(crate) variables: &'r [Option<&'r Value<'a>>],
    pub(crate) names: &'r [Arc<str>],
    pub(crate) locals: Vec<Value<'a>>,
    pub(crate) budget: &'r mut Budget<'s>,
}

fn truth(value: &Value<'_>) -> Result<bool, Error> {
    value.as_bool().ok_or(Error::NO_SUCH_OVERLOAD)
}

impl<'a> Run<'_, 'a, '_> {
    /// The value of a node.
    pub(crate) fn eval(&mut self, node: &Node) -> Outcome<'a> {
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Variable(_) | Node::Local(_) | Node::Path(_) | Node::Conditional(_) => self.attribute(node, true),
            Node::And(pair) => self.junction(pair, false),
            Node::Or(pair) => self.junction(pair, true),
            Node::Equal(pair, negated) => self.equality(pair, *negated),
            Node::Call(call) => self.call(call),
            Node::Among(among) => {
                let value = self.eval(&among.0)?;
                // A double is looked up as the int that it is.
                let key = match &value {
                    Value::Double(value) => whole(*value).and_then(|int| Value::Int(int).key()),
                    value => value.key(),
                };
                Ok(Value::Bool(key.is_some_and(|key| among.1.contains(&key))))
            }
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Object(object) => self.object(object),
            Node::Loop(it) => self.fold(it),
            Node::Bind(bind) => {
                let value = self.eval(&bind.1)?;
                self.set(bind.0, value);
                self.eval(&bind.2)
            }
            Node::OptionalOr(pair) => match self.eval(&pair[0])? {
                Value::Optional(None) => self.eval(&pair[1]),
                other => Ok(other),
            },
            Node::OptionalOrValue(pair) => match self.eval(&pair[0])? {
                Value::Optional(Some(value)) => Ok((*value).clone()),
                Value::Optional(None) => self.eval(&pair[1]),
                other => Ok(other),
            },
        }
    }

    fn set(&mut self, place: u16, value: Value<'a>) {
        if let Some(slot) = self.locals.get_mut(usize::from(place)) {
            *slot = value;
        }
    }

    /// What names and paths stand for. Their root costs nothing where upstream only resolves them: as a branch and as an index.
    fn attribute(&mut self, node: &Node, counted: bool) -> Outcome<'a> {
        match node {
            Node::Variable(place) => {
                self.budget.charge(u64::from(counted))?;
                let place = usize::from(*place);
                let value = self.variables.get(place).copied().flatten();
                value.cloned().ok_or_else(|| {
                    let name = self.names.get(place).map_or("", |name| name);
                    Error::new(format!("no such attribute(s): {name}"))
                })
            }
            Node::Local(place) => {
                self.budget.charge(u64::from(counted))?;
                self.locals.get(usize::from(*place)).cloned().ok_or(Error::NO_SUCH_OVERLOAD)
            }
            Node::Path(path) => self.path(path, counted),
            Node::Conditional(nodes) => {
                let [condition, yes, no] = &**nodes;
                let condition = self.eval(condition)?;
                let branch = if truth(&condition)? { yes } else { no };
                self.attribute(branch, false)
            }
            other => self.eval(other),
        }
    }

    fn path(&mut self, path: &Path, counted: bool) -> Outcome<'a> {
        let mut at = self.attribute(&path.root, false)?;
        let is_conditional = matches!(path.root, Node::Conditional(_));
        self.budget.charge(u64::from(counted && !path.test && !is_conditional))?;
        let mut is_optional = false;
        if let Value::Optional(value) = at {
            let Some(value) = value else {
                return Ok(if path.test { Value::Bool(false) } else { Value::Optional(None) });
            };
            at = (*value).clone();
            is_optional = true;
        }
        let last = path.steps.len().saturating_sub(1);
        for (number, step) in path.steps.iter().enumerate() {
            let tests = path.test && number == last;
            is_optional |= step.optional;
            let found = self.step(&at, step, tests || is_optional)?;
            if found.is_some() || tests || !is_optional {
                self.budget.charge(1)?;
            }
            if tests {
                return Ok(Value::Bool(found.is_some()));
            }
            match found {
                Some(found) => at = found,
                None if path.test => return Ok(Value::Bool(false)),
                None => return Ok(Value::Optional(None)),
            }
        }
        Ok(if is_optional { Value::optional(Some(at)) } else { at })
    }

    /// What is behind a step. What is missing is an error unless it may be.
    fn step(&mut self, at: &Value<'a>, step: &Step, may_miss: bool) -> Result<Option<Value<'a>>, Error> {
        let missing = |name: &str| if may_miss { Ok(None) } else { Err(Error::new(format!("no such key: {name}"))) };
        match (&step.by, at) {
            (By::Field(name), Value::Map(map)) => {
                let found = map.field(name, self.budget)?;
                if found.is_none() { missing(name) } else { Ok(found) }
            }
            (By::Field(_), Value::List(_)) => Err(Error::new("unsupported index type 'string' in list")),
            (By::Field(name), _) => missing(name),
            (By::Index(value), at) => self.index(at, value, may_miss),
            (By::Computed(node), at) => {
                let value = self.attribute(node, false)?;
                self.index(at, &value, may_miss)
            }
        }
    }

    fn index(&mut self, at: &Value<'a>, by: &Value<'_>, may_miss: bool) -> Result<Option<Value<'a>>, Error> {
        let shown = || match by {
            Value::String(text) => text.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Uint(value) => value.to_string(),
            Value::Double(value) => value.to_string(),
            other => other.type_name().to_owned(),
        };
        let (found, word) = match at {
            Value::Map(map) => (map.get(by, self.budget)?, "no such key"),
            Value::List(list) => {
                let index = match by {
                    Value::Int(index) => Some(*index),
                    Value::Uint(index) => i64::try_from(*index).ok(),
                    Value::Double(index) => whole(*index),
                    other => {
                        let name = other.type_name();
                        return Err(Error::new(format!("unsupported index type '{name}' in list")));
                    }
                };
                let Some(index) = index else {
                    return Err(Error::new(format!("unsupported index value {} in list", shown())));
                };
                let found = usize::try_from(index).ok().map(|index| list.get(index, self.budget)).transpose()?;
                (found.flatten(), "index out of bounds")
            }
            _ => (None, "no such key"),
        };
        if found.is_none() && !may_miss {
            return Err(Error::new(format!("{word}: {}", shown())));
        }
        Ok(found)
    }

    /// `&&` and `||`: one value decides whatever the other is, even if it went wrong.
    fn junction(&mut self, pair: &[Node; 2], deciding: bool) -> Outcome<'a> {
        let mut fault = None;
        for node in pair {
            match self.eval(node) {
                Ok(Value::Bool(value)) if value == deciding => return Ok(Value::Bool(deciding)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => {
                    fault.get_or_insert(Error::NO_SUCH_OVERLOAD);
                }
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) => {
                    fault.get_or_insert(error);
                }
            }
        }
        fault.map_or(Ok(Value::Bool(!deciding)), Err)
    }

    fn equality(&mut self, pair: &[Node; 2], negated: bool) -> Outcome<'a> {
        let values = [self.eval(&pair[0])?, self.eval(&pair[1])?];
        let cost = if negated { Cost::Smaller } else { Cost::Equal };
        let sum = cost.sum(&values, None, self.budget)?;
        self.budget.charge(sum)?;
        let [a, b] = &values;
        Ok(Value::Bool(equal(a, b, self.budget)? != negated))
    }

    fn call(&mut self, call: &Call) -> Outcome<'a> {
        match call.args.as_slice() {
            [] => self.apply(call, &[]),
            [a] => {
                let args = [self.eval(a)?];
                self.apply(call, &args)
            }
            [a, b] => {
                let args = [self.eval(a)?, self.eval(b)?];
                self.apply(call, &args)
            }
            all => {
                let args = all.iter().map(|arg| self.eval(arg)).collect::<Result<Vec<_>, _>>()?;
                self.apply(call, &args)
            }
        }
    }

    fn apply(&mut self, call: &Call, args: &[Value<'a>]) -> Outcome<'a> {
        if !call.cost.needs_result() {
            let sum = call.cost.sum(args, None, self.budget)?;
            self.budget.charge(sum)?;
        }
        let result = match &call.regexp {
            Some(regexp) => call_regexp(call.name, regexp, args, self.budget)?,
            None => (call.run)(args, self.budget)?,
        };
        if call.cost.needs_result() {
            let sum = call.cost.sum(args, Some(&result), self.budget)?;
            self.budget.charge(sum)?;
        }
        Ok(result)
    }

    fn list(&mut self, nodes: &[(Node, bool)]) -> Outcome<'a> {
        self.budget.allocate(nodes.len().saturating_mul(size_of::<Value<'_>>()))?;
        let mut elements = Vec::with_capacity(nodes.len());
        for (node, optional) in nodes {
            match (self.eval(node)?, optional) {
                (value, false) => elements.push(value),
                (Value::Optional(value), true) => elements.extend(value.map(|value| (*value).clone())),
                (other, true) => {
                    let name = other.type_name();
                    let text = format!("cannot initialize optional list element from non-optional value {name}");
                    return Err(Error::new(text));
                }
            }
        }
        self.budget.charge(LIST)?;
        Ok(Value::list(elements))
    }

    fn map(&mut self, nodes: &[(Node, Node, bool)]) -> Outcome<'a> {
        self.budget.allocate(nodes.len().saturating_mul(3 * size_of::<Value<'_>>()))?;
        let mut entries = BTreeMap::new();
        for (key, node, optional) in nodes {
            let key = self.eval(key)?;
            let key = key.key().ok_or_else(|| Error::new(format!("unsupported key type: {}", key.type_name())))?;
            match (self.eval(node)?, optional) {
                (value, false) => {
                    entries.insert(key, value);
                }
                (Value::Optional(value), true) => {
                    if let Some(value) = value {
                        entries.insert(key, (*value).clone());
                    }
                }
                (other, true) => {
                    let name = other.type_name();
                    return Err(Error::new(format!("cannot initialize optional entry from non-optional value {name}")));
                }
            }
        }
        self.budget.charge(MAP)?;
        Ok(Value::Map(Map::Owned(Arc::new(entries))))
    }

    fn object(&mut self, object: &MakeObject) -> Outcome<'a> {
        let MakeObject { of, fields: nodes } = object;
        self.budget.allocate(nodes.len().saturating_mul(3 * size_of::<Value<'_>>()))?;
        let mut fields = BTreeMap::new();
        for (name, node, optional) in nodes {
            match (self.eval(node)?, optional) {
                (value, false) => {
                    fields.insert(name.clone(), value);
                }
                (Value::Optional(value), true) => {
                    if let Some(value) = value {
                        fields.insert(name.clone(), (*value).clone());
                    }
                }
                (other, true) => {
                    let value = other.type_name();
                    let text = format!("cannot initialize optional entry '{name}' from non-optional value {value}");
                    return Err(Error::new(text));
                }
            }
        }
        self.budget.charge(OBJECT)?;
        Ok(Value::Map(Map::Object(of.clone(), Arc::new(fields))))
    }

    fn fold(&mut self, it: &Loop) -> Outcome<'a> {
        let mut state = match &it.step {
            LoopStep::All(_) => State::Truth(Ok(true)),
            LoopStep::Exists(_) => State::Truth(Ok(false)),
            LoopStep::ExistsOne(_) => State::Count(0),
            LoopStep::Append(_) => State::List(Vec::new()),
            LoopStep::Insert(..) | LoopStep::InsertMap(_) => {
                State::Map(Value::Map(Map::Owned(Arc::new(BTreeMap::new()))))
            }
        };
        match self.eval(&it.range)? {
            Value::List(list) => {
                for index in 0..list.len() {
                    let Some(element) = list.get(index, self.budget)? else { break };
                    let index = Value::Int(i64::try_from(index).unwrap_or(i64::MAX));
                    let goes_on = match it.var2 {
                        Some(var2) => {
                            self.set(var2, element);
                            self.round(it, index, &mut state)?
                        }
                        None => self.round(it, element, &mut state)?,
                    };
                    if !goes_on {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                self.budget.work(map.len().unwrap_or(0) / 4)?;
                for key in map.keys()? {
                    let key = Value::from(key);
                    if let Some(var2) = it.var2 {
                        let value = map.get(&key, self.budget)?.unwrap_or(Value::Null);
                        self.set(var2, value);
                    }
                    if !self.round(it, key, &mut state)? {
                        break;
                    }
                }
            }
            other => {
                let name = other.type_name();
                return Err(Error::new(format!("unsupported comprehension range type: {name}")));
            }
        }
        self.budget.charge(1)?;
        match state {
            State::Truth(truth) => truth.map(Value::Bool),
            State::Count(count) => {
                self.budget.charge(1)?;
                Ok(Value::Bool(count == 1))
            }
            State::List(list) => Ok(Value::List(List::Owned(Arc::new(list), None))),
            State::Map(map) => Ok(map),
        }
    }

    /// One element; whether another one is wanted.
    fn round(&mut self, it: &Loop, element: Value<'a>, state: &mut State<'a>) -> Result<bool, Error> {
        self.budget.round()?;
        self.set(it.var, element);
        match (&it.step, state) {
            (LoopStep::All(body), State::Truth(truth)) => return self.quantify(body, truth, false),
            (LoopStep::Exists(body), State::Truth(truth)) => return self.quantify(body, truth, true),
            (LoopStep::ExistsOne(body), State::Count(count)) => {
                let value = self.eval(body)?;
                if truth(&value)? {
                    self.budget.charge(2)?;
                    *count += 1;
                }
                return Ok(true);
            }
            (step, state) => {
                if let Some(filter) = &it.filter {
                    let value = self.eval(filter)?;
                    if !truth(&value)? {
                        return Ok(true);
                    }
                }
                self.collect(step, state)?;
            }
        }
        Ok(true)
    }

    fn collect(&mut self, step: &LoopStep, state: &mut State<'a>) -> Result<(), Error> {
        match (step, state) {
            (LoopStep::Append(element), State::List(list)) => {
                // The accumulator, the list of one and the sum of both.
                let making = if matches!(element, Node::Const(_)) { 0 } else { LIST };
                self.budget.charge(2 + making)?;
                let value = self.eval(element)?;
                self.budget.allocate(size_of::<Value<'_>>())?;
                list.push(value);
            }
            (LoopStep::Insert(key, value), State::Map(map)) => {
                self.budget.charge(2)?;
                let inserted = [self.eval(key)?, self.eval(value)?];
                *map = map_insert(std::mem::replace(map, Value::Null), &inserted, self.budget)?;
            }
            (LoopStep::InsertMap(entries), State::Map(map)) => {
                self.budget.charge(2)?;
                let inserted = [self.eval(entries)?];
                *map = map_insert(std::mem::replace(map, Value::Null), &inserted, self.budget)?;
            }
            _ => return Err(Error::NO_SUCH_OVERLOAD),
        }
        Ok(())
    }

    /// An element of `all` (decided by `false`) or `exists` (decided by `true`).
    fn quantify(&mut self, body: &Node, so_far: &mut Result<bool, Error>, deciding: bool) -> Result<bool, Error> {
        // Looking at the accumulator before each element.
        self.budget.charge(if deciding { 3 } else { 2 })?;
        if *so_far == Ok(deciding) {
            return Ok(false);
        }
        self.budget.charge(1)?;
        match self.eval(body) {
            Ok(Value::Bool(value)) if value == deciding => *so_far = Ok(deciding),
            Ok(Value::Bool(_)) => {}
            Ok(_) if so_far.is_ok() => *so_far = Err(Error::NO_SUCH_OVERLOAD),
            Err(error) if error.is_fatal() => return Err(error),
            Err(error) if so_far.is_ok() => *so_far = Err(error),
            _ => {}
        }
        Ok(true)
    }
}

/// What a comprehension has so far.
enum State<'a> {
    Truth(Result<bool, Error>),
    Count(u64),
    List(Vec<Value<'a>>),
    Map(Value<'a>),
}
