//! Which parts of a device's capacity may be requested: a list of amounts, or a range with steps.

use super::lists;
use crate::{at::At, quantities};
use api::{Cause, quantity::Quantity};
use serde_json::json;

/// The most amounts of a list.
const MAX_VALUES: usize = 10;

/// An amount; one that is none counts as zero, as the schema check has refused it before.
fn amount(at: At<'_>) -> Quantity {
    quantities::parse(at.value()).unwrap_or_default()
}

fn invalid(at: At<'_>, shown: Quantity, text: &str) -> Cause {
    Cause::invalid(&at.field(), &json!(shown.to_string()), text)
}

/// The faults of a capacity of a device that may be allocated more than once.
pub(super) fn shared(capacity: At<'_>, out: &mut Vec<Cause>) {
    let policy = capacity.get("requestPolicy");
    let (values, range, default) = (policy.get("validValues"), policy.get("validRange"), policy.get("default"));
    let whole = amount(capacity.get("value"));
    let (listed, ranged) = (!values.is_empty(), range.is_set());
    if listed && ranged {
        out.push(policy.forbidden(
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time",
        ));
    } else if (listed || ranged) && !default.is_set() {
        let name = if listed { "validValues" } else { "validRange" };
        out.push(default.required(&format!("required when {name} is defined")));
    } else if listed {
        of_list(amount(default), whole, values, out);
    } else if ranged {
        of_range(amount(default), whole, range, out);
    }
}

/// The faults of a capacity of any other device.
pub(super) fn single(capacity: At<'_>, out: &mut Vec<Cause>) {
    let policy = capacity.get("requestPolicy");
    if policy.is_set() {
        out.push(policy.forbidden("allowMultipleAllocations must be true"));
    }
}

fn of_list(default: Quantity, whole: Quantity, values: At<'_>, out: &mut Vec<Cause>) {
    let pairs = values.items().zip(values.items().skip(1));
    for (_, next) in pairs.filter(|(one, next)| amount(*one) > amount(*next)).take(MAX_VALUES) {
        out.push(invalid(next, amount(next), "values must be sorted in ascending order"));
    }
    let option = |option: At<'_>, out: &mut Vec<Cause>| {
        if amount(option) > whole {
            out.push(invalid(option, amount(option), &format!("option is larger than capacity value: {whole}")));
        }
    };
    lists::set(values, MAX_VALUES, option, |one| format!("{:?}", amount(one).value().to_string()), out);
    // Of a list that is too long nothing is looked at.
    if values.len() > MAX_VALUES || !values.items().any(|option| amount(option) == default) {
        out.push(invalid(values, default, "default value is not valid according to the requestPolicy"));
    }
}

fn of_range(default: Quantity, whole: Quantity, range: At<'_>, out: &mut Vec<Cause>) {
    let (least, most, step) = (range.get("min"), range.get("max"), range.get("step"));
    if !least.is_set() {
        out.push(least.required("required when validRange is defined"));
        return;
    }
    let (min, max) = (amount(least), amount(most));
    if min > whole {
        out.push(invalid(least, min, &format!("min is larger than capacity value: {whole}")));
    }
    if default < min {
        out.push(invalid(least, default, &format!("default is less than min: {min}")));
    }
    if most.is_set() {
        if min > max {
            out.push(invalid(most, min, &format!("min is larger than max: {max}")));
        }
        if max > whole {
            out.push(invalid(most, max, &format!("max is larger than capacity value: {whole}")));
        }
        if default > max {
            out.push(invalid(most, default, &format!("default is more than max: {max}")));
        }
    }
    if step.is_set() {
        let added = min + amount(step);
        if added > whole {
            let text = format!("one step {added} is larger than capacity value: {whole}");
            out.push(invalid(step, amount(step), &text));
        }
        on_step(default, min, step, out);
        if most.is_set() {
            on_step(max, min, step, out);
        }
    }
}

/// Whether an amount is some steps above the least one. No amount is, where a step is nothing.
fn on_step(value: Quantity, min: Quantity, step: At<'_>, out: &mut Vec<Cause>) {
    let size = amount(step);
    if value.value().wrapping_sub(min.value()).checked_rem(size.value()) != Some(0) {
        out.push(invalid(step, value, &format!("value is not a multiple of a given step ({size}) from ({min})")));
    }
}
