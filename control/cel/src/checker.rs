//! Gives each node a type and resolves names and calls, as cel-go's checker does and with its texts.

use crate::{
    ast::{Ast, Expr, Field, Fold, Id, Kind, Literal, operators, qualified_name},
    declarations::{FUNCTIONS, Function, Overload},
    issues::Issues,
    opaque::TYPES,
    types::Type,
    unify::{Mapping, most_general},
};
use std::{collections::BTreeMap, sync::Arc};

/// After how many issues nothing more is looked at.
const MOST_ISSUES: usize = 1000;

/// How many parts a type may have.
const MOST_PARTS: usize = 1024;

/// Resolves names of object types that expressions make.
pub(crate) type Resolver = dyn Fn(&str) -> Option<Type> + Send + Sync;

/// What an expression may name.
#[derive(Clone, Default)]
pub(crate) struct Scope {
    pub(crate) variables: BTreeMap<Arc<str>, Type>,
    pub(crate) resolver: Option<Arc<Resolver>>,
    /// Whether functions for JSON patches are there.
    pub(crate) with_json_patch: bool,
}

/// What a node refers to.
#[derive(Clone, Debug, Default)]
pub(crate) enum Reference {
    #[default]
    None,
    /// A variable of the caller, by its place in [`Checked::variables`].
    Variable(u16),
    /// A variable of a comprehension.
    Local(u16),
    /// A type by its name.
    Type(Arc<str>),
    /// An object type that is made.
    Object(Type),
    /// A function with the overloads that fit; whether the target belongs to its name.
    Call { function: &'static Function, overloads: Vec<&'static Overload>, namespaced: bool },
    /// A comprehension, by the place of its first variable: what it collects, and one or two that it walks.
    Fold(u16),
}

/// What the checker found.
pub(crate) struct Checked {
    pub(crate) types: Vec<Type>,
    pub(crate) references: Vec<Reference>,
    /// The variables that the expression uses.
    pub(crate) variables: Vec<Arc<str>>,
    /// How many variables of comprehensions are alive at once.
    pub(crate) locals: usize,
}

impl Checked {
    pub(crate) fn type_of(&self, id: Id) -> &Type {
        self.types.get(id as usize).unwrap_or(&Type::Dyn)
    }

    pub(crate) fn reference(&self, id: Id) -> &Reference {
        self.references.get(id as usize).unwrap_or(&Reference::None)
    }
}

struct Checker<'c> {
    ast: &'c Ast,
    scope: &'c Scope,
    issues: Issues,
    mapping: Mapping,
    types: Vec<Type>,
    references: Vec<Reference>,
    variables: Vec<Arc<str>>,
    locals: Vec<(Arc<str>, Type)>,
    most_locals: usize,
}

/// Checks an expression.
///
/// # Errors
/// What is wrong with its types.
pub(crate) fn check(ast: &Ast, source: &str, scope: &Scope) -> Result<Checked, Issues> {
    let count = ast.offsets.len();
    let mut checker = Checker {
        ast,
        scope,
        issues: Issues::new(source),
        mapping: Mapping::default(),
        types: vec![Type::Error; count],
        references: vec![Reference::None; count],
        variables: Vec::new(),
        locals: Vec::new(),
        most_locals: 0,
    };
    checker.check(&ast.root);
    if !checker.issues.is_empty() {
        return Err(checker.issues);
    }
    let types = checker.types.iter().map(|of| checker.mapping.substitute(of, true)).collect();
    if checker.mapping.is_exhausted() {
        checker.issues.add(None, "the types of the expression are too large");
        return Err(checker.issues);
    }
    let Checker { references, variables, most_locals: locals, .. } = checker;
    Ok(Checked { types, references, variables, locals })
}

impl Checker<'_> {
    fn fault(&mut self, id: Id, message: String) {
        self.issues.add(self.ast.offset(id), message);
    }

    fn set(&mut self, id: Id, of: Type) {
        let mut most = MOST_PARTS;
        let of = if of.is_at_most(&mut most) {
            of
        } else {
            self.fault(id, "the type is too large".to_owned());
            Type::Error
        };
        if let Some(slot) = self.types.get_mut(id as usize) {
            *slot = of;
        }
    }

    fn refer(&mut self, id: Id, to: Reference) {
        if let Some(slot) = self.references.get_mut(id as usize) {
            *slot = to;
        }
    }

    fn type_of(&self, expr: &Expr) -> Type {
        self.types.get(expr.id as usize).cloned().unwrap_or(Type::Error)
    }

    fn assignable(&mut self, from: &Type, to: &Type) -> bool {
        self.mapping.assignable(&[from], std::slice::from_ref(to))
    }

    fn check(&mut self, expr: &Expr) {
        if self.mapping.is_exhausted() || self.issues.count() > MOST_ISSUES {
            return;
        }
        match &expr.kind {
            Kind::Literal(literal) => {
                let of = match literal {
                    Literal::Null => Type::Null,
                    Literal::Bool(_) => Type::Bool,
                    Literal::Int(_) => Type::Int,
                    Literal::Uint(_) => Type::Uint,
                    Literal::Double(_) => Type::Double,
                    Literal::String(_) => Type::String,
                    Literal::Bytes(_) => Type::Bytes,
                };
                self.set(expr.id, of);
            }
            Kind::Ident(name) => {
                if !self.identifier(expr.id, name) {
                    self.set(expr.id, Type::Error);
                    self.undeclared(expr.id, name);
                }
            }
            Kind::Select { operand, field, test } => self.select(expr, operand, field, *test),
            Kind::Call { target, function, args } => self.call(expr.id, target.as_deref(), function, args),
            Kind::List(elements) => self.list(expr.id, elements),
            Kind::Map(entries) => self.map(expr.id, entries),
            Kind::Struct { name, fields } => self.object(expr.id, name, fields),
            Kind::Fold(fold) => self.fold(expr.id, fold),
        }
    }

    fn undeclared(&mut self, id: Id, name: &str) {
        self.fault(id, format!("undeclared reference to '{name}' (in container '')"));
    }

    /// Resolves a name, which may have dots; whether there is such a one.
    fn identifier(&mut self, id: Id, name: &str) -> bool {
        let place = self.locals.iter().rposition(|(local, _)| **local == *name);
        if let Some(place) = place.filter(|_| !name.starts_with('.')) {
            let of = self.locals.get(place).map_or(Type::Error, |(_, of)| of.clone());
            self.set(id, of);
            self.refer(id, Reference::Local(u16::try_from(place).unwrap_or(u16::MAX)));
            return true;
        }
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some((name, of)) = self.scope.variables.get_key_value(name) {
            let place = self.variables.iter().position(|known| known == name).unwrap_or_else(|| {
                self.variables.push(name.clone());
                self.variables.len() - 1
            });
            self.set(id, of.clone());
            self.refer(id, Reference::Variable(u16::try_from(place).unwrap_or(u16::MAX)));
            return true;
        }
        let Some(of) = self.type_named(name) else { return false };
        self.refer(id, Reference::Type(of.runtime_name().into()));
        self.set(id, Type::Type(Some(Arc::new(of))));
        true
    }

    fn type_named(&self, name: &str) -> Option<Type> {
        Some(match name {
            "bool" => Type::Bool,
            "bytes" => Type::Bytes,
            "double" => Type::Double,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "string" => Type::String,
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "null_type" => Type::Null,
            "type" => Type::Type(None),
            "optional_type" => Type::optional(Type::Dyn),
            "google.protobuf.Timestamp" => Type::Timestamp,
            "google.protobuf.Duration" => Type::Duration,
            name => {
                let opaque = TYPES.iter().find(|of| of.runtime_name() == name).cloned();
                opaque.or_else(|| self.scope.resolver.as_ref()?(name))?
            }
        })
    }

    fn function(&self, name: &str) -> Option<&'static Function> {
        let name = name.strip_prefix('.').unwrap_or(name);
        FUNCTIONS.get(name).filter(|_| self.scope.with_json_patch || name != "jsonpatch.escapeKey")
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, test: bool) {
        if let Some(name) = qualified_name(expr)
            && self.identifier_if_not_shadowed(expr.id, &name)
        {
            return;
        }
        let of = self.field(expr.id, operand, field, false);
        let of = if test { Type::Bool } else { self.mapping.substitute(&of, false) };
        self.set(expr.id, of);
    }

    /// A name with dots. One whose first part is a variable of a comprehension is none.
    fn identifier_if_not_shadowed(&mut self, id: Id, name: &str) -> bool {
        let first = name.split('.').next().unwrap_or_default();
        !self.locals.iter().any(|(local, _)| **local == *first) && self.identifier(id, name)
    }

    fn field(&mut self, id: Id, operand: &Expr, field: &str, optional: bool) -> Type {
        self.check(operand);
        let target = self.mapping.substitute(&self.type_of(operand), false);
        let (target, is_optional) = match &target {
            Type::Optional(of) => ((**of).clone(), true),
            _ => (target, false),
        };
        let found = match &target {
            Type::Map(of) => of.1.clone(),
            Type::Object(object) => object.object.field(&object.name, field).unwrap_or_else(|| {
                self.fault(id, format!("undefined field '{field}'"));
                Type::Error
            }),
            Type::Opaque(name) if name.starts_with("kubernetes.") => {
                self.fault(id, format!("unexpected failed resolution of '{name}'"));
                Type::Error
            }
            Type::Param(_) => {
                self.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.fault(id, format!("type '{other}' does not support field selection"));
                Type::Dyn
            }
        };
        if is_optional || optional { Type::optional(found) } else { found }
    }

    fn call(&mut self, id: Id, target: Option<&Expr>, name: &str, args: &[Expr]) {
        if name == operators::OPT_SELECT {
            let [operand, Expr { kind: Kind::Literal(Literal::String(field)), .. }] = args else { return };
            let of = self.field(id, operand, field, true);
            self.set(id, self.mapping.substitute(&of, false));
            return;
        }
        for arg in args {
            self.check(arg);
        }
        let qualified = target.and_then(qualified_name).map(|prefix| format!("{prefix}.{name}"));
        let namespaced = qualified.and_then(|name| self.function(&name));
        let (target, function, is_namespaced) = match (target, namespaced) {
            (Some(_), Some(function)) => (None, Some(function), true),
            (target, _) => {
                if let Some(target) = target {
                    self.check(target);
                }
                (target, self.function(name), false)
            }
        };
        let Some(function) = function else {
            self.set(id, Type::Error);
            self.undeclared(id, name);
            return;
        };
        self.overload(id, function, target, args, is_namespaced);
    }

    fn overload(
        &mut self,
        id: Id,
        function: &'static Function,
        target: Option<&Expr>,
        args: &[Expr],
        namespaced: bool,
    ) {
        if matches!(function.name, operators::AND | operators::OR) && !self.are_bools(args) {
            self.set(id, Type::Error);
            return;
        }
        let given: Vec<Type> = target.into_iter().chain(args).map(|arg| self.type_of(arg)).collect();
        let given: Vec<&Type> = given.iter().collect();
        let (mut result, mut overloads): (Option<Type>, Vec<&'static Overload>) = (None, Vec::new());
        for overload in function.overloads.iter().filter(|overload| overload.is_member == target.is_some()) {
            if overload.args.len() != given.len() {
                continue;
            }
            let mut known = Vec::new();
            let wanted: Vec<Type> = overload.args.iter().map(|arg| self.mapping.instantiate(arg, &mut known)).collect();
            let made = self.mapping.instantiate(&overload.result, &mut known);
            if !self.mapping.assignable(&given, &wanted) {
                continue;
            }
            overloads.push(overload);
            let made = self.mapping.substitute(&made, false);
            result = Some(match result {
                None => made,
                Some(before) if before == Type::Dyn || before == made => before,
                Some(_) => Type::Dyn,
            });
        }
        if let Some(result) = result {
            self.set(id, result);
            self.refer(id, Reference::Call { function, overloads, namespaced });
            return;
        }
        let shown: Vec<String> = given.iter().map(|of| self.mapping.substitute(of, true).to_string()).collect();
        let signature = match (target, shown.split_first()) {
            (Some(_), Some((target, args))) => format!("{target}.({})", args.join(", ")),
            _ => format!("({})", shown.join(", ")),
        };
        self.set(id, Type::Error);
        self.fault(id, format!("found no matching overload for '{}' applied to '{signature}'", function.name));
    }

    /// Whether each is a bool; the others are noted.
    fn are_bools(&mut self, args: &[Expr]) -> bool {
        let mut all = true;
        for arg in args {
            let of = self.type_of(arg);
            if !self.assignable(&of, &Type::Bool) {
                self.fault(arg.id, format!("expected type 'bool' but found '{of}'"));
                all = false;
            }
        }
        all
    }

    /// The type of a part that is marked as optional.
    fn unwrapped(&mut self, expr: &Expr, optional: bool) -> Type {
        let of = self.type_of(expr);
        if !optional {
            return of;
        }
        match of {
            Type::Optional(of) => (*of).clone(),
            Type::Dyn => Type::Dyn,
            other => {
                self.fault(expr.id, format!("expected type 'optional_type({other})' but found '{other}'"));
                other
            }
        }
    }

    /// The type of both; what is not of one type is found out when all types are known.
    fn join(&mut self, before: Option<Type>, of: Type) -> Type {
        let Some(before) = before else { return of };
        if self.assignable(&before, &of) { most_general(&before, &of) } else { Type::Dyn }
    }

    fn list(&mut self, id: Id, elements: &[(Expr, bool)]) {
        let mut of = None;
        for (element, optional) in elements {
            self.check(element);
            let found = self.unwrapped(element, *optional);
            of = Some(self.join(of, found));
        }
        let of = of.unwrap_or_else(|| self.mapping.variable());
        self.set(id, Type::list(of));
    }

    fn map(&mut self, id: Id, entries: &[crate::ast::Entry]) {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            self.check(&entry.key);
            let of = self.type_of(&entry.key);
            keys = Some(self.join(keys, of));
            self.check(&entry.value);
            let of = self.unwrapped(&entry.value, entry.optional);
            values = Some(self.join(values, of));
        }
        let keys = keys.unwrap_or_else(|| self.mapping.variable());
        let values = values.unwrap_or_else(|| self.mapping.variable());
        self.set(id, Type::map(keys, values));
    }

    fn object(&mut self, id: Id, name: &str, fields: &[Field]) {
        let plain = name.strip_prefix('.').unwrap_or(name);
        let found = self.type_named(plain);
        let object = match found {
            Some(Type::Object(object)) if object.object.is_constructible() => Some(object),
            Some(other) => {
                self.fault(id, format!("'{}' is not a message type", other.runtime_name()));
                None
            }
            None if self.scope.variables.contains_key(plain) => {
                self.fault(id, format!("'{plain}' is not a type"));
                None
            }
            None => {
                self.undeclared(id, name);
                self.set(id, Type::Error);
                return;
            }
        };
        let of = object.clone().map_or(Type::Error, Type::Object);
        self.refer(id, Reference::Object(of.clone()));
        self.set(id, of);
        for field in fields {
            self.check(&field.value);
            let wanted = match &object {
                Some(object) => object.object.field(&object.name, &field.name).unwrap_or_else(|| {
                    self.fault(field.id, format!("undefined field '{}'", field.name));
                    Type::Error
                }),
                None => Type::Error,
            };
            let of = self.unwrapped(&field.value, field.optional);
            if !self.assignable(&wanted, &of) {
                let message =
                    format!("expected type of field '{}' is '{wanted}' but provided type is '{of}'", field.name);
                self.fault(field.id, message);
            }
        }
    }

    fn fold(&mut self, id: Id, fold: &Fold) {
        self.check(&fold.range);
        self.check(&fold.init);
        let range = self.mapping.substitute(&self.type_of(&fold.range), false);
        let accu = self.type_of(&fold.init);
        let two = fold.var2.is_some();
        let (first, second) = match &range {
            Type::List(of) if two => (Type::Int, (**of).clone()),
            Type::List(of) => ((**of).clone(), Type::Error),
            Type::Map(of) => (of.0.clone(), of.1.clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.fault(fold.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        let base = self.locals.len();
        self.refer(id, Reference::Fold(u16::try_from(base).unwrap_or(u16::MAX)));
        self.locals.push((fold.accu.clone(), accu.clone()));
        self.locals.push((fold.var.clone(), first));
        if let Some(var2) = &fold.var2 {
            self.locals.push((var2.clone(), second));
        }
        self.most_locals = self.most_locals.max(self.locals.len());
        self.check(&fold.condition);
        self.assert(&fold.condition, &Type::Bool);
        self.check(&fold.step);
        self.assert(&fold.step, &accu);
        self.locals.truncate(base + 1);
        self.check(&fold.result);
        self.locals.truncate(base);
        let of = self.mapping.substitute(&self.type_of(&fold.result), false);
        self.set(id, of);
    }

    fn assert(&mut self, expr: &Expr, wanted: &Type) {
        let of = self.type_of(expr);
        if !self.assignable(wanted, &of) {
            self.fault(expr.id, format!("expected type '{wanted}' but found '{of}'"));
        }
    }
}
