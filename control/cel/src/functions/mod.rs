//! What functions do. They look at the values that they get; the checker has seen to it that one of their overloads fits.

mod addresses;
mod authorization;
mod conversions;
mod formats;
mod formatting;
mod kubernetes;
mod lists;
mod operators;
mod optionals;
mod regexps;
mod strings;
mod times;
mod urls;

pub(crate) use {
    formatting::{clause as format_clause, expectation as format_expectation},
    operators::map_insert,
    regexps::{call as call_regexp, compile as compile_regexp},
};

use crate::{
    budget::{Budget, Error},
    value::Value,
};

/// What a function does with its arguments; the target of a method is the first one.
pub(crate) type Implementation = for<'a> fn(&[Value<'a>], &mut Budget<'_>) -> Result<Value<'a>, Error>;

/// The implementation of a function. The overload tells apart what arguments alone do not.
pub(crate) fn implementation(name: &str, overload: Option<&str>) -> Option<Implementation> {
    operators::implementation(name)
        .or_else(|| conversions::implementation(name))
        .or_else(|| strings::implementation(name))
        .or_else(|| times::implementation(name))
        .or_else(|| optionals::implementation(name))
        .or_else(|| lists::implementation(name, overload))
        .or_else(|| regexps::implementation(name))
        .or_else(|| addresses::implementation(name))
        .or_else(|| urls::implementation(name))
        .or_else(|| formats::implementation(name))
        .or_else(|| kubernetes::implementation(name))
        .or_else(|| authorization::implementation(name))
}
