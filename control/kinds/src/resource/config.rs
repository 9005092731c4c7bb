//! Configuration of drivers and selectors of devices, which classes and claims have.

use super::{lists, names};
use crate::at::At;
use api::Cause;
use serde_json::{Value, json};

/// The most selectors of a class or request.
const MAX_SELECTORS: usize = 32;
/// The longest expression of a selector, in bytes.
const MAX_EXPRESSION: usize = 10 * 1024;
/// The longest parameters of a driver, in bytes.
const MAX_PARAMETERS: usize = 10 * 1024;

/// The selectors of devices.
pub(super) fn selectors(list: At<'_>, out: &mut Vec<Cause>) {
    lists::each(list, MAX_SELECTORS, selector, out);
}

fn selector(selector: At<'_>, out: &mut Vec<Cause>) {
    let cel = selector.get("cel");
    if cel.is_set() {
        expressions(cel.get("expression"), out);
    } else {
        out.push(cel.required(""));
    }
}

/// The faults of an expression that selects devices. Every such expression comes here; whether one compiles, and what it costs, is to be asked
/// here too.
fn expressions(at: At<'_>, out: &mut Vec<Cause>) {
    if at.str().len() > MAX_EXPRESSION {
        out.push(Cause::too_long(&at.field(), MAX_EXPRESSION));
    }
}

/// The configuration of a driver.
pub(super) fn configuration(config: At<'_>, out: &mut Vec<Cause>) {
    let opaque = config.get("opaque");
    if opaque.is_set() {
        names::driver(opaque.get("driver"), out);
        parameters(opaque.get("parameters"), MAX_PARAMETERS, out);
    } else {
        out.push(opaque.required(""));
    }
}

/// An object whose fields only a driver knows.
pub(super) fn parameters(at: At<'_>, most: usize, out: &mut Vec<Cause>) {
    let field = at.field();
    match at.value() {
        Value::Null => out.push(Cause::required(&field, "")),
        value if value.to_string().len() > most => out.push(Cause::too_long(&field, most)),
        Value::Object(_) => {}
        _ => out.push(Cause::invalid(&field, &json!("<value omitted>"), "must be a valid JSON object")),
    }
}
