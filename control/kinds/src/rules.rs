//! Rules that several kinds share, with upstream's texts (`apimachinery/pkg/util/validation` and its neighbours).

use crate::{at::At, edit};
use api::{Cause, FieldPath, Object, names};
use serde_json::{Value, json};

/// Whether an object has more faults than any answer names: who walks lists of lists stops then.
pub(crate) fn full(out: &[Cause]) -> bool {
    out.len() >= 1_000
}

/// Protocols of ports, sorted as upstream lists them.
pub(crate) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// Key of a ConfigMap or Secret.
pub(crate) fn config_key(at: At<'_>, key: &str, out: &mut Vec<Cause>) {
    out.extend(names::config_map_key(key).iter().map(|text| Cause::invalid(&at.field(), &json!(key), text)));
}

/// The number of bytes that a base64 text stands for.
pub(crate) fn decoded_len(text: &str) -> usize {
    let digits = text.bytes().filter(|b| !b.is_ascii_whitespace() && *b != b'=').count();
    digits * 3 / 4
}

/// An object that is marked immutable stays so and keeps its data.
pub(crate) fn stays_immutable(object: &Object, old: &Object, data: &[&str], out: &mut Vec<Cause>) {
    const TEXT: &str = "field is immutable when `immutable` is set";
    if !object.bool_at(&["immutable"]) {
        out.push(Cause::forbidden(&FieldPath::new("immutable"), TEXT));
    }
    for field in data {
        if !edit::deep_equal_at(object, old, &[field]) {
            out.push(Cause::forbidden(&FieldPath::new(field), TEXT));
        }
    }
}

/// A DNS label.
pub(crate) fn label_name(at: At<'_>, out: &mut Vec<Cause>) {
    at.invalid_all(names::dns1123_label(at.str()), out);
}

/// A DNS subdomain.
pub(crate) fn subdomain_name(at: At<'_>, out: &mut Vec<Cause>) {
    at.invalid_all(names::dns1123_subdomain(at.str()), out);
}

/// A path below a domain: `example.com/controller`.
pub(crate) fn domain_prefixed_path(at: At<'_>, out: &mut Vec<Cause>) {
    let text = at.str();
    match text.split_once('/') {
        _ if text.is_empty() => out.push(at.required("")),
        Some((host, path)) if !host.is_empty() && !path.is_empty() => {
            let (field, shown) = (at.field(), json!(host));
            out.extend(names::dns1123_subdomain(host).iter().map(|text| Cause::invalid(&field, &shown, text)));
            let legal = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
            if !path.bytes().all(legal) {
                let text = r"Invalid path (regex used for validation is '[A-Za-z0-9/\-._~%!$&'()*+,;=:]+')";
                out.push(Cause::invalid(&field, &json!(path), text));
            }
        }
        _ => out.push(at.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")")),
    }
}

/// Names in URL paths.
pub(crate) fn path_segment(at: At<'_>, out: &mut Vec<Cause>) {
    at.invalid_all(names::path_segment(at.str()), out);
}

/// A name that must be there, and that is part of URL paths.
pub(crate) fn required_segment(at: At<'_>, out: &mut Vec<Cause>) {
    if at.is_empty() {
        out.push(at.required(""));
    } else {
        path_segment(at, out);
    }
}

/// The value of a label.
pub(crate) fn label_value(at: At<'_>, out: &mut Vec<Cause>) {
    at.invalid_all(names::label_value(at.str()), out);
}

/// A qualified name: `prefix/name`.
pub(crate) fn qualified(at: At<'_>, out: &mut Vec<Cause>) {
    at.invalid_all(names::qualified_name(at.str()), out);
}

/// A warning about a name that is no DNS label although it becomes part of Pod names and host names.
pub(crate) fn host_name_warning(object: &Object, what: &str, out: &mut Vec<String>) {
    let problems = names::dns1123_label(object.name());
    if !problems.is_empty() {
        out.push(format!(
            "metadata.name: this is used in {what}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            problems.join(" ")
        ));
    }
}

/// A port number.
pub(crate) fn port_number(at: At<'_>, out: &mut Vec<Cause>) {
    if !(1..=65535).contains(&at.int().unwrap_or(0)) {
        out.push(Cause::invalid(&at.field(), &json!(at.int().unwrap_or(0)), PORT_NUMBER));
    }
}

/// Upstream's message for an invalid port number.
pub(crate) const PORT_NUMBER: &str = "must be between 1 and 65535, inclusive";

/// A port given by number or name.
pub(crate) fn port_number_or_name(at: At<'_>, out: &mut Vec<Cause>) {
    match at.value() {
        Value::String(name) => at.invalid_all(names::port_name(name), out),
        _ => port_number(at, out),
    }
}

/// A number or a percentage, not below zero.
pub(crate) fn number_or_percent(at: At<'_>, out: &mut Vec<Cause>) {
    match at.value() {
        Value::String(text) => {
            let digits = text.strip_suffix('%').unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                out.push(at.invalid("a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"));
            }
        }
        _ => at.not_negative(out),
    }
}

/// Labels: qualified keys and label values.
pub(crate) fn labels(at: At<'_>, out: &mut Vec<Cause>) {
    for (key, entry) in at.entries() {
        if full(out) {
            return;
        }
        let problems = names::qualified_name(key);
        out.extend(problems.iter().map(|text| Cause::invalid(&at.field(), &json!(key), text)));
        out.extend(names::label_value(entry.str()).iter().map(|text| Cause::invalid(&at.field(), entry.value(), text)));
    }
}

/// Whether the values of a requirement fit its operator on sets.
pub(crate) fn set_values(operator: &str, values: At<'_>, out: &mut Vec<Cause>) {
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            out.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            out.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
        }
        _ => {}
    }
}

/// A `metav1.LabelSelector`.
pub(crate) fn label_selector(at: At<'_>, out: &mut Vec<Cause>) {
    label_selector_of(at, true, out);
}

/// A `metav1.LabelSelector`, the values of whose requirements upstream does not check where wrong ones are stored (`right_values` is false).
pub(crate) fn label_selector_of(at: At<'_>, right_values: bool, out: &mut Vec<Cause>) {
    labels(at.get("matchLabels"), out);
    for requirement in at.get("matchExpressions").items() {
        if full(out) {
            return;
        }
        let (operator, values) = (requirement.get("operator"), requirement.get("values"));
        set_values(operator.str(), values, out);
        match operator.str() {
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => out.push(operator.or_empty().invalid("not a valid selector operator")),
        }
        qualified(requirement.get("key"), out);
        for value in values.items().take_while(|_| right_values) {
            value.invalid_all(names::label_value(value.str()), out);
        }
    }
}

/// `Invalid value: …: field is immutable` when a `metav1.LabelSelector` differs from the old one. Its labels are shown first, as Go does.
pub(crate) fn selector_stays(at: At<'_>, old: At<'_>, out: &mut Vec<Cause>) {
    if edit::deep_equal(at.value(), old.value()) {
        return;
    }
    let parts = ["matchLabels", "matchExpressions"].into_iter().filter(|part| !at.get(part).is_empty());
    let parts: Vec<String> = parts.map(|part| format!("{part:?}:{}", at.get(part).value())).collect();
    let shown = if at.is_set() { format!("{{{}}}", parts.join(",")) } else { "null".to_owned() };
    out.push(Cause::invalid_shown(&at.field(), &shown, "field is immutable"));
}

/// A list of `metav1.Condition`: each type once, and whole.
pub(crate) fn conditions(at: At<'_>, out: &mut Vec<Cause>) {
    let mut seen = std::collections::BTreeSet::new();
    for condition in at.items() {
        if full(out) {
            return;
        }
        let kind = condition.get("type");
        if !seen.insert(kind.str()) {
            out.push(kind.or_empty().duplicate());
        }
        qualified(kind, out);
        let status = condition.get("status");
        if !matches!(status.str(), "True" | "False" | "Unknown") {
            out.push(status.or_empty().not_supported(&["False", "True", "Unknown"]));
        }
        let generation = condition.get("observedGeneration");
        if generation.int().is_some_and(|number| number < 0) {
            out.push(generation.invalid("must be greater than or equal to zero"));
        }
        if condition.get("lastTransitionTime").is_empty() {
            out.push(condition.get("lastTransitionTime").required(""));
        }
        condition_reason(condition.get("reason"), out);
        if condition.get("message").str().len() > 32 * 1024 {
            out.push(Cause::too_long(&condition.get("message").field(), 32 * 1024));
        }
    }
}

/// The reason of a `metav1.Condition`.
fn condition_reason(reason: At<'_>, out: &mut Vec<Cause>) {
    let text = reason.str();
    if text.is_empty() {
        out.push(reason.required(""));
        return;
    }
    let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b',' | b':');
    let ends = text.bytes().last().is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_');
    if !text.as_bytes()[0].is_ascii_alphabetic() || !ends || !text.bytes().all(inner) {
        out.push(reason.invalid("a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')"));
    }
    if text.len() > 1024 {
        out.push(Cause::too_long(&reason.field(), 1024));
    }
}

/// A path inside a volume: relative and without `..`.
pub(crate) fn local_descending_path(at: At<'_>, out: &mut Vec<Cause>) {
    if at.str().starts_with('/') {
        out.push(at.invalid("must be a relative path"));
    }
    no_backsteps(at, out);
}

/// No `..` element.
pub(crate) fn no_backsteps(at: At<'_>, out: &mut Vec<Cause>) {
    if at.str().replace('\\', "/").split('/').any(|part| part == "..") {
        out.push(at.invalid("must not contain '..'"));
    }
}

/// A quantity that may not be negative.
pub(crate) fn quantity_not_negative(at: At<'_>, out: &mut Vec<Cause>) {
    if super::quantities::parse(at.value()).is_some_and(|q| q.value() < 0) {
        out.push(at.invalid(super::at::NOT_NEGATIVE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_lengths_are_those_of_the_bytes() {
        for (text, len) in [("", 0), ("YQ==", 1), ("YWI=", 2), ("YWJj", 3)] {
            assert_eq!(decoded_len(text), len);
        }
    }
}
