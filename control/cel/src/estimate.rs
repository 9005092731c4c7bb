//! What an expression costs at least and at most, before it runs: upstream's estimate, by which Kubernetes refuses rules.

use crate::{
    ast::{ACCUMULATOR, Ast, Expr, Fold, Id, Kind, Literal, operators, qualified_name},
    checker::{Checked, Reference},
    estimate_calls::{Estimate, Node, library, standard},
    metering::{LIST, MAP, OBJECT},
    ranges::Range,
    schema::Schema,
    types::Type,
};
use std::{collections::HashMap, rc::Rc, sync::Arc};

/// How many elements or letters there can be at a path of an expression.
pub trait Sizes {
    /// The most elements or letters, if that is known. The path begins with a variable; the rest are names of fields as expressions write
    /// them, `@items`, `@keys` and `@values`.
    fn most(&self, path: &[Arc<str>]) -> Option<u64>;
}

/// The sizes of a schema, for each variable that is of this schema.
impl Sizes for Schema {
    fn most(&self, path: &[Arc<str>]) -> Option<u64> {
        self.size_at(path.iter().skip(1).map(|part| &**part))
    }
}

/// Nothing is known of sizes.
impl Sizes for () {
    fn most(&self, _: &[Arc<str>]) -> Option<u64> {
        None
    }
}

type Path = Rc<Vec<Arc<str>>>;

/// The sizes of keys and values of a container that an expression makes.
#[derive(Clone, Copy)]
struct Entries {
    is_list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn union(a: Option<Entries>, b: Option<Entries>) -> Option<Entries> {
        let (a, b) = (a?, b?);
        Some(Entries { is_list: a.is_list, key: a.key.union(b.key), value: a.value.union(b.value) })
    }
}

/// A variable of a comprehension.
#[derive(Clone)]
struct Local {
    path: Path,
    size: Option<Range>,
    entries: Option<Entries>,
}

/// Estimates the cost of an expression.
pub(crate) fn estimate(ast: &Ast, checked: &Checked, sizes: &dyn Sizes) -> (u64, u64) {
    let mut coster = Coster {
        checked,
        sizes,
        paths: HashMap::new(),
        computed: HashMap::new(),
        entries: HashMap::new(),
        locals: HashMap::new(),
        no_path: Rc::new(Vec::new()),
    };
    let cost = coster.cost(&ast.root);
    (cost.min, cost.max)
}

struct Coster<'c> {
    checked: &'c Checked,
    sizes: &'c dyn Sizes,
    paths: HashMap<Id, Path>,
    computed: HashMap<Id, Range>,
    entries: HashMap<Id, Entries>,
    locals: HashMap<Arc<str>, Vec<Local>>,
    no_path: Path,
}

fn is_scalar(of: &Type) -> bool {
    match of {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(of) => is_scalar(of),
        _ => false,
    }
}

impl Coster<'_> {
    /// The name that a node is, where the checker found that its parts are one.
    fn name(&self, expr: &Expr) -> Option<Arc<str>> {
        match (&expr.kind, self.checked.reference(expr.id)) {
            (Kind::Ident(name), _) => Some(name.clone()),
            (Kind::Select { .. }, Reference::Variable(_) | Reference::Type(_)) => qualified_name(expr).map(Arc::from),
            _ => None,
        }
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.get(name)?.last()
    }

    fn path(&self, expr: &Expr) -> Path {
        let local = self.name(expr).and_then(|name| self.local(&name).map(|local| local.path.clone()));
        local.or_else(|| self.paths.get(&expr.id).cloned()).unwrap_or_else(|| self.no_path.clone())
    }

    fn longer(&self, path: &Path, part: &str) -> Path {
        let mut longer = Vec::clone(path);
        longer.push(part.into());
        Rc::new(longer)
    }

    fn size(&mut self, expr: &Expr) -> Option<Range> {
        if let Some(size) = self.computed.get(&expr.id) {
            return Some(*size);
        }
        let written = match &expr.kind {
            Kind::Literal(Literal::String(text)) => Some(text.chars().count()),
            Kind::Literal(Literal::Bytes(bytes)) => Some(bytes.len()),
            Kind::Literal(_) => Some(1),
            Kind::List(elements) => Some(elements.len()),
            Kind::Map(entries) => Some(entries.len()),
            _ => None,
        };
        if let Some(written) = written {
            return Some(Range::fixed(written as u64));
        }
        if let Some(size) = self.size_at(&self.path(expr)) {
            self.computed.insert(expr.id, size);
            return Some(size);
        }
        if is_scalar(self.checked.type_of(expr.id)) {
            return Some(Range::ONE);
        }
        self.name(expr).and_then(|name| self.local(&name)?.size)
    }

    fn size_at(&self, path: &Path) -> Option<Range> {
        if path.is_empty() {
            return None;
        }
        self.sizes.most(path).map(|max| Range { min: 0, max })
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> Range {
        self.size(expr).unwrap_or(Range::UNKNOWN)
    }

    fn set_size(&mut self, id: Id, size: Option<Range>) {
        if let Some(size) = size {
            self.computed.insert(id, size);
        }
    }

    fn entries(&self, expr: &Expr) -> Option<Entries> {
        let known = self.entries.get(&expr.id).copied();
        known.or_else(|| self.name(expr).and_then(|name| self.local(&name)?.entries))
    }

    fn set_entries(&mut self, id: Id, entries: Option<Entries>) {
        if let Some(entries) = entries {
            self.entries.insert(id, entries);
        }
    }

    fn cost(&mut self, expr: &Expr) -> Range {
        if let Some(name) = self.name(expr) {
            let path = self.local(&name).map(|local| local.path.clone());
            self.paths.insert(expr.id, path.unwrap_or_else(|| Rc::new(vec![name])));
            return Range::ONE;
        }
        match &expr.kind {
            Kind::Literal(_) | Kind::Ident(_) => Range::ZERO,
            Kind::Select { operand, test: true, .. } => self.cost(operand),
            Kind::Select { operand, field, test: false } => {
                let cost = self.cost(operand);
                let path = self.longer(&self.path(operand), field);
                self.paths.insert(expr.id, path);
                match self.checked.type_of(operand.id) {
                    Type::Map(_) | Type::Object(_) | Type::Param(_) => cost.plus(Range::ONE),
                    _ => cost,
                }
            }
            Kind::Call { target, function, args } => self.call(expr, target.as_deref(), function, args),
            Kind::List(elements) => {
                let mut size = Range { min: if elements.is_empty() { 0 } else { u64::MAX }, max: 0 };
                let mut cost = Range::fixed(LIST);
                for (element, _) in elements {
                    cost = cost.plus(self.cost(element));
                    size = size.union(self.size_or_unknown(element));
                }
                self.set_entries(expr.id, Some(Entries { is_list: true, key: Range::ONE, value: size }));
                cost
            }
            Kind::Map(entries) => {
                let none = Range { min: if entries.is_empty() { 0 } else { u64::MAX }, max: 0 };
                let (mut cost, mut key, mut value) = (Range::fixed(MAP), none, none);
                for entry in entries {
                    cost = cost.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    key = key.union(self.size_or_unknown(&entry.key));
                    value = value.union(self.size_or_unknown(&entry.value));
                }
                self.set_entries(expr.id, Some(Entries { is_list: false, key, value }));
                cost
            }
            Kind::Struct { fields, .. } => {
                fields.iter().fold(Range::fixed(OBJECT), |cost, field| cost.plus(self.cost(&field.value)))
            }
            Kind::Fold(fold) if fold.is_bind() => self.bind(expr.id, fold),
            Kind::Fold(fold) => self.fold(expr.id, fold),
        }
    }

    fn call(&mut self, expr: &Expr, target: Option<&Expr>, function: &str, args: &[Expr]) -> Range {
        if function == "dyn"
            && let [arg] = args
        {
            let cost = self.cost(arg).plus(Range::ONE);
            let (size, entries) = (self.size(arg), self.entries(arg));
            self.set_size(expr.id, size);
            self.set_entries(expr.id, entries);
            return cost;
        }
        let costs: Vec<Range> = args.iter().map(|arg| self.cost(arg)).collect();
        let (function, overloads, target): (&str, Vec<&str>, _) = match self.checked.reference(expr.id) {
            Reference::Call { function, overloads, namespaced } => {
                let overloads = overloads.iter().map(|overload| overload.id.as_str()).collect();
                (function.name, overloads, target.filter(|_| !namespaced))
            }
            _ if function == operators::OPT_SELECT => (function, vec!["select_optional_field"], None),
            _ => return Range::ZERO,
        };
        let sum = target.map_or(Range::ZERO, |target| self.cost(target));
        let (mut cost, mut size) = (Range::NONE, None);
        for overload in overloads {
            let found = self.overload(expr.id, function, overload, (target, args), &costs);
            cost = cost.union(found.cost);
            size = match (size, found.size) {
                (Some(a), Some(b)) => Some(Range::union(a, b)),
                (a, b) => a.or(b),
            };
            let part = match overload {
                "index_list" => Some("@items"),
                "index_map" => Some("@values"),
                _ => None,
            };
            if let Some((part, of)) = part.zip(args.first()) {
                size = self.entries(of).map(|entries| entries.value);
                let path = self.longer(&self.path(of), part);
                self.paths.insert(expr.id, path);
            }
            if size.is_none() {
                size = self.size(expr);
            }
        }
        self.set_size(expr.id, size);
        sum.plus(cost)
    }

    fn node<'n>(&'n mut self, expr: &'n Expr) -> Node<'n> {
        let size = self.size(expr);
        let path = self.path(expr);
        let is_accumulator = path.first().is_some_and(|first| **first == *ACCUMULATOR);
        let element_size =
            if path.is_empty() || is_accumulator { None } else { self.size_at(&self.longer(&path, "@items")) };
        Node { expr, of: self.checked.type_of(expr.id), size, element_size }
    }

    /// One overload of a call, with its arguments.
    fn overload(
        &mut self,
        id: Id,
        function: &str,
        overload: &str,
        (target, args): (Option<&Expr>, &[Expr]),
        costs: &[Range],
    ) -> Estimate {
        let all = costs.iter().fold(Range::ZERO, |sum, cost| sum.plus(*cost));
        let sizes: Vec<_> = target.into_iter().chain(args).map(|arg| self.summary(arg)).collect();
        let mut nodes: Vec<Node<'_>> = sizes
            .into_iter()
            .map(|(expr, size, element_size)| Node { expr, of: self.checked.type_of(expr.id), size, element_size })
            .collect();
        let target = if target.is_some() { Some(nodes.remove(0)) } else { None };
        if let Some(found) = library(function, overload, target.as_ref(), &nodes) {
            return Estimate { cost: found.cost.plus(all), ..found };
        }
        match (overload, costs, args) {
            // The second term is not always looked at.
            ("logical_or" | "logical_and", [left, right], _) => {
                Estimate { cost: Range { min: left.min, max: left.plus(*right).max }, size: None }
            }
            ("conditional", [condition, yes, no], [_, a, b]) => {
                let size = self.size_or_unknown(a).union(self.size_or_unknown(b));
                self.set_entries(id, Entries::union(self.entries(a), self.entries(b)));
                Estimate { cost: condition.plus(yes.union(*no)), size: Some(size) }
            }
            _ => {
                if let ("add_string" | "add_bytes" | "add_list", [a, b]) = (overload, args) {
                    self.set_entries(id, Entries::union(self.entries(a), self.entries(b)));
                }
                let found = standard(overload, target.as_ref(), &nodes);
                Estimate { cost: found.cost.plus(all), ..found }
            }
        }
    }

    /// What is known of an argument.
    fn summary<'e>(&mut self, expr: &'e Expr) -> (&'e Expr, Option<Range>, Option<Range>) {
        let Node { size, element_size, .. } = self.node(expr);
        (expr, size, element_size)
    }

    fn push(&mut self, name: &Arc<str>, local: Local) {
        self.locals.entry(name.clone()).or_default().push(local);
    }

    fn pop(&mut self, name: &str) {
        if let Some(locals) = self.locals.get_mut(name) {
            locals.pop();
        }
    }

    fn push_bound(&mut self, name: &Arc<str>, value: &Expr) {
        let local = Local { path: self.path(value), size: self.size(value), entries: self.entries(value) };
        self.push(name, local);
    }

    /// A variable that walks the keys or indexes of a range, or its elements or values.
    fn push_walked(&mut self, name: &Arc<str>, range: &Expr, keys: bool) {
        let entries = self.entries(range);
        let is_list = match entries {
            Some(entries) => entries.is_list,
            None => matches!(self.checked.type_of(range.id), Type::List(_)),
        };
        let part = match (keys, is_list) {
            (true, true) => "@indices",
            (true, false) => "@keys",
            (false, true) => "@items",
            (false, false) => "@values",
        };
        let size = entries.map(|entries| if keys { entries.key } else { entries.value });
        let path = self.longer(&self.path(range), part);
        self.push(name, Local { path, size, entries: None });
    }

    fn fold(&mut self, id: Id, fold: &Fold) -> Range {
        let mut cost = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.push_bound(&fold.accu, &fold.init);
        match &fold.var2 {
            Some(var2) => {
                self.push_walked(&fold.var, &fold.range, true);
                self.push_walked(var2, &fold.range, false);
            }
            None => {
                let known = self.entries(&fold.range).map(|entries| entries.is_list);
                let is_list = known.unwrap_or_else(|| matches!(self.checked.type_of(fold.range.id), Type::List(_)));
                self.push_walked(&fold.var, &fold.range, !is_list);
            }
        }
        let each = self.cost(&fold.condition).plus(self.cost(&fold.step));
        self.pop(&fold.var);
        if let Some(var2) = &fold.var2 {
            self.pop(var2);
        }
        cost = cost.plus(self.cost(&fold.result));
        self.pop(&fold.accu);
        let count = self.size_or_unknown(&fold.range);
        cost = cost.plus(count.times(each));
        match &fold.init.kind {
            Kind::Literal(_) => {
                let size = self.size(&fold.init);
                self.set_size(id, size);
            }
            Kind::List(_) | Kind::Map(_) => {
                self.set_size(id, Some(count));
                let entries = self.entries(&fold.step);
                self.set_entries(id, entries);
            }
            _ => {}
        }
        cost
    }

    fn bind(&mut self, id: Id, fold: &Fold) -> Range {
        let cost = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.push_bound(&fold.accu, &fold.init);
        let cost = cost.plus(self.cost(&fold.result));
        self.pop(&fold.accu);
        let (size, entries) = (self.size(&fold.result), self.entries(&fold.result));
        self.set_size(id, size);
        self.set_entries(id, entries);
        cost
    }
}
