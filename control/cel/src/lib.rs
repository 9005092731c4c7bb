//! Kubernetes' CEL: the expressions of validation rules, of admission policies and of match conditions. Pure: no clock, no async.
//!
//! ```
//! use cel::{Activation, Budget, Env, Schema, Value};
//! use serde_json::json;
//!
//! let schema = Schema::new(&json!({"type": "object", "properties": {
//!     "replicas": {"type": "integer"}, "names": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 9}}}}));
//! let env = Env::kubernetes().with_variable("self", schema.to_type("self").unwrap());
//!
//! let program = env.compile("self.replicas > 1 && self.names.all(name, name.startsWith('web'))").unwrap();
//! let object = json!({"replicas": 3, "names": ["web-0", "web-1"]});
//! let activation = Activation::new().with("self", Value::typed(&object, &schema).unwrap());
//! let mut budget = Budget::new(1_000_000);
//! assert_eq!(program.eval(&activation, &mut budget).unwrap().as_bool(), Some(true));
//! assert_eq!(budget.used(), 16);
//!
//! let issues = env.compile("self.replica > 1").err().unwrap();
//! assert_eq!(issues.to_string(), "ERROR: <input>:1:5: undefined field 'replica'\n | self.replica > 1\n | ....^");
//! ```
//!
//! # The way of an expression
//! [`Env::compile`] parses, expands macros, checks types and plans: names become places, calls become functions, constant lists and
//! patterns are made once. [`Program::eval`] runs the plan within a [`Budget`]: each step costs what upstream's costs, and the
//! evaluation ends in mid-expression when the budget is used up or the caller says so. What has no cost upstream and could still take
//! memory or time (joining lists again and again, comparing what is within them) is counted apart.
//!
//! # Rules of custom resources
//! [`Rules`] compiles the rules of one part of a schema; [`Cardinality`] follows the schema down to it.
//!
//! ```
//! use cel::{Activation, Budget, Cardinality, PER_CALL_LIMIT, RULE_LIMIT, Rules, Schema, Value};
//! use serde_json::json;
//!
//! let list = json!({"type": "array", "maxItems": 100, "items": {"type": "object", "properties": {"n": {"type": "integer"}}}});
//! let schema = Schema::new(&list["items"]); // Schema::root for a whole resource
//! let rules = Rules::new(&schema).expect("expressions see it");
//! let rule = rules.rule("self.n >= oldSelf.n", false).expect("a rule");
//! assert!(rule.uses("oldSelf"));
//! assert!(Cardinality::ROOT.below(&list).cost(rule.cost(&*schema).1, &schema) <= RULE_LIMIT);
//!
//! let (new, old) = (json!({"n": 1}), json!({"n": 2}));
//! let typed = |value| Value::typed(value, &schema).expect("of the schema");
//! let activation = Activation::new().with("self", typed(&new)).with("oldSelf", typed(&old));
//! let mut budget = Budget::new(PER_CALL_LIMIT);
//! assert_eq!(rule.eval(&activation, &mut budget).map(|value| value.as_bool()), Ok(Some(false)));
//! ```
//!
//! # Policies and match conditions
//! [`admission::env`] is [`Env::kubernetes`] with variables: `object` and `oldObject` are [`Type::Dyn`] and [`Value::json`] where no schema is known, `request` and
//! `namespaceObject` have [`Type::fields`], `authorizer` is [`AUTHORIZER`] and [`Value::authorizer`], `variables` is a [`Map::Host`], which computes
//! a field when it is asked for. Mutating policies add [`Env::with_mutation`]; [`Value::to_json`] and [`Value::misnamed_types`] take what
//! they give.
//!
//! # What was decided, and why
//! - **Our own parser, checker and evaluation.** The crate `cel` (0.15, with its parser) has no type checker, no estimate of costs, no
//!   metering, cannot stop in mid-expression and gives errors of its own; its parser is generated for a runtime that builds trees of
//!   reference-counted nodes and keeps no bounds. What is left to use would be the grammar, which is 500 lines here.
//! - **Values borrow.** A value is JSON with its schema until an operator makes another one of it.
//! - **Messages are cel-go's**, since users see them. Syntax errors are those of its parser for the usual faults; only the first is
//!   given.
#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

pub mod admission;
mod ast;
mod budget;
#[cfg(test)]
mod budget_tests;
mod builder;
mod checker;
mod declarations;
mod env;
mod equality;
mod escape;
mod estimate;
mod estimate_calls;
#[cfg(test)]
mod estimate_tests;
mod eval;
mod functions;
mod issues;
mod json;
mod lexer;
#[cfg(test)]
mod library_tests;
mod macros;
mod metering;
mod mutation;
mod opaque;
mod parser;
mod plan;
#[cfg(test)]
mod properties_tests;
mod ranges;
mod rules;
mod schema;
#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;
mod time;
mod types;
mod unescape;
mod unify;
mod validators;
mod value;

pub use budget::{Budget, Error};
pub use env::{Activation, Env, Program};
pub use escape::{escape, is_identifier, unescape};
pub use estimate::Sizes;
pub use issues::Issues;
pub use mutation::{json_patch, object};
pub use opaque::{
    AUTHORIZER, Attributes, Authorizer, CIDR, Check, Cidr, DECISION, Decision, FORMAT, Format, GROUP_CHECK, IP, Opaque,
    PATH_CHECK, QUANTITY, RESOURCE_CHECK, SEMVER, URL, Url,
};
pub use rules::{
    Cardinality, DEFINITION_LIMIT, MATCH_CONDITIONS_BUDGET, MAX_MESSAGE, PER_CALL_LIMIT, RULE_LIMIT, RUNTIME_BUDGET,
    Rules, cost_message,
};
pub use schema::{MAX_REQUEST_SIZE, Schema};
pub use time::{Stamp, parse_duration, parse_timestamp};
pub use types::{Object, ObjectType, Param, Type};
pub use value::{Host, Key, List, Map, Text, Value};
