//! A device of a slice: its attributes, capacities, taints, counters, and the nodes that reach it.

use super::{capacity, lists, names, taints};
use crate::{at::At, podspec, quantities, rules};
use api::Cause;
use serde_json::{Value, json};

/// The most attributes and capacities of a device.
const MAX_ATTRIBUTES: usize = 32;
/// The most values of a device's attributes.
const MAX_VALUES: usize = 48;
/// The longest value of an attribute, in bytes.
const MAX_VALUE: usize = 64;
/// The most sets of counters of which a device consumes.
const MAX_CONSUMED: usize = 2;
/// The most counters of a set.
pub(super) const MAX_COUNTERS: usize = 32;
/// The longest name of a counter that is shown as it is.
pub(super) const MAX_COUNTER_NAME: usize = 63;

/// The values of an attribute, of which it has one, in the order of upstream's type.
const VALUES: [(&str, &str); 4] =
    [("int", "IntValue"), ("bool", "BoolValue"), ("string", "StringValue"), ("version", "VersionValue")];
const LISTS: [(&str, &str); 4] =
    [("ints", "IntValues"), ("bools", "BoolValues"), ("strings", "StringValues"), ("versions", "VersionValues")];

/// Removes what upstream removes while its alpha features are off: values that are lists, and mappings to resources of nodes.
pub(super) fn drop_alpha(device: &mut Value) {
    if let Some(device) = device.as_object_mut() {
        device.remove("nodeAllocatableResourceMappings");
        let attributes = device.get_mut("attributes").and_then(Value::as_object_mut);
        for (_, attribute) in attributes.into_iter().flatten() {
            if let Some(attribute) = attribute.as_object_mut() {
                LISTS.iter().for_each(|(name, _)| drop(attribute.remove(*name)));
            }
        }
    }
}

/// The amounts of a device in canonical form.
pub(super) fn canonicalize(device: &mut Value) {
    let values = |map: Option<&mut Value>| {
        let entries = map.and_then(Value::as_object_mut).into_iter().flatten();
        entries
            .filter_map(|(_, one)| one.as_object_mut())
            .for_each(|one| one.get_mut("value").into_iter().for_each(quantities::canonicalize_one));
    };
    values(device.get_mut("counters"));
    for (_, capacity) in device.get_mut("capacity").and_then(Value::as_object_mut).into_iter().flatten() {
        capacity.get_mut("value").into_iter().for_each(quantities::canonicalize_one);
        let Some(policy) = capacity.get_mut("requestPolicy") else { continue };
        policy.get_mut("default").into_iter().for_each(quantities::canonicalize_one);
        let values = policy.get_mut("validValues").and_then(Value::as_array_mut);
        values.into_iter().flatten().for_each(quantities::canonicalize_one);
        let Some(range) = policy.get_mut("validRange") else { continue };
        for name in ["min", "max", "step"] {
            range.get_mut(name).into_iter().for_each(quantities::canonicalize_one);
        }
    }
    for set in device.get_mut("consumesCounters").and_then(Value::as_array_mut).into_iter().flatten() {
        values(set.get_mut("counters"));
    }
}

/// The faults of a device. `changed_taints`: they are not those that are stored. `per_device`: nodes are told device by device.
pub(super) fn validate(device: At<'_>, changed_taints: bool, per_device: bool, out: &mut Vec<Cause>) {
    rules::label_name(device.get("name"), out);
    let (attributes, capacities) = (device.get("attributes"), device.get("capacity"));
    for (count, most, what) in [
        (attributes.len() + capacities.len(), MAX_ATTRIBUTES, "attributes and capacities"),
        (attributes.len(), MAX_VALUES, "attribute values"),
    ] {
        if count > most {
            let text = format!("the total number of {what} must not exceed {most}");
            out.push(Cause::invalid(&device.field(), &json!(count), &text));
        }
    }
    lists::map(attributes, None, names::MAX_QUALIFIED, names::qualified, attribute, out);
    let amount = if device.get("allowMultipleAllocations").bool() { capacity::shared } else { capacity::single };
    lists::map(capacities, None, names::MAX_QUALIFIED, names::qualified, amount, out);
    if changed_taints {
        taints::taints(device.get("taints"), out);
    }
    lists::set(device.get("consumesCounters"), MAX_CONSUMED, consumption, lists::by("counterSet"), out);
    if per_device {
        nodes(device, out);
    } else if ["nodeName", "nodeSelector", "allNodes"].iter().any(|name| device.get(name).is_set()) {
        let text = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        out.push(Cause::invalid(&device.field(), &Value::Null, text));
    }
    taints::binding(device, out);
}

fn attribute(attribute: At<'_>, out: &mut Vec<Cause>) {
    const ONE: &str = "exactly one value must be specified";
    let (text, version) = (attribute.get("string"), attribute.get("version"));
    if text.str().len() > MAX_VALUE {
        out.push(Cause::too_long(&text.field(), MAX_VALUE));
    }
    if version.is_set() {
        if !is_version(version.str()) {
            out.push(version.invalid("must be a string compatible with semver.org spec 2.0.0"));
        }
        if version.str().len() > MAX_VALUE {
            out.push(Cause::too_long(&version.field(), MAX_VALUE));
        }
    }
    match VALUES.iter().filter(|(name, _)| attribute.get(name).is_set()).count() {
        0 => out.push(Cause::invalid(&attribute.field(), &json!(""), ONE)),
        1 => {}
        _ => {
            let all = VALUES.iter().chain(&LISTS);
            let shown: Vec<String> =
                all.map(|(name, go)| format!("\"{go}\":{}", attribute.get(name).value())).collect();
            out.push(Cause::invalid_shown(&attribute.field(), &format!("{{{}}}", shown.join(",")), ONE));
        }
    }
}

/// A semantic version: `1.2.3-alpha.1+build`.
fn is_version(text: &str) -> bool {
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, before) = rest.split_once('-').map_or((rest, None), |(core, before)| (core, Some(before)));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let number = |part: &str| digits(part) && (part == "0" || !part.starts_with('0'));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let identifier = |part: &str| word(part) && (!digits(part) || number(part));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && before.is_none_or(|before| before.split('.').all(identifier))
        && build.is_none_or(|build| build.split('.').all(word))
}

fn consumption(consumed: At<'_>, out: &mut Vec<Cause>) {
    counters(consumed, "counterSet", out);
}

/// The counters of a set, or those that a device consumes of one.
pub(super) fn counters(set: At<'_>, name: &'static str, out: &mut Vec<Cause>) {
    let (name, counters) = (set.get(name), set.get("counters"));
    if name.is_empty() {
        out.push(name.required(""));
    } else {
        rules::label_name(name, out);
    }
    if counters.is_empty() {
        out.push(counters.required(""));
    } else {
        lists::map(counters, Some(MAX_COUNTERS), MAX_COUNTER_NAME, names::counter, |_, _| {}, out);
    }
}

fn nodes(device: At<'_>, out: &mut Vec<Cause>) {
    const TEXT: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    let mut set = Vec::new();
    let (name, selector, all) = (device.get("nodeName"), device.get("nodeSelector"), device.get("allNodes"));
    if name.is_set() && name.is_empty() {
        out.push(name.invalid("must not be empty"));
    } else if name.is_set() {
        set.push("`nodeName`");
        names::node(name, out);
    }
    if selector.is_set() {
        set.push("`nodeSelector`");
        podspec::node_selector(selector, out);
    }
    if all.bool() {
        set.push("`allNodes`");
    } else if all.is_set() {
        out.push(all.invalid("must be either unset or set to true"));
    }
    match set.len() {
        0 => out.push(device.required(TEXT)),
        1 => {}
        _ => out.push(Cause::invalid(&device.field(), &json!(format!("{{{}}}", set.join(", "))), TEXT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_semantic() {
        for right in ["0.0.0", "1.20.3", "1.2.3-alpha.1", "1.2.3-0a", "1.2.3-a-b+001.x-y", "1.2.3+b-c"] {
            assert!(is_version(right), "{right}");
        }
        for wrong in
            ["", "1", "1.2", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+", "1.2.3-a..b", "v1.2.3", "1.2.3 "]
        {
            assert!(!is_version(wrong), "{wrong}");
        }
    }
}
