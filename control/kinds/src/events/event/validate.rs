//! Validation of Events in their stored form; upstream's errors name the fields of that form for both APIs.

use crate::{at::At, edit};
use api::{Cause, FieldPath, Object, names, schema::Schema};
use serde_json::{Value, json};

/// The rules of both APIs. `controller` is the field name of the reporting controller in the API.
pub(super) fn legacy(object: &Object, controller: &str) -> Vec<Cause> {
    let mut out = Vec::new();
    let namespace = object.namespace();
    let about = At::of(object, "involvedObject").get("namespace");
    let text = |name: &str| object.str_at(&[name]).unwrap_or_default();
    let mismatch = || Cause::invalid(&about.field(), &json!(about.str()), "does not match event.namespace");
    if text("eventTime").is_empty() {
        let fits = if about.str().is_empty() { matches!(namespace, "" | "default") } else { about.str() == namespace };
        if !fits {
            out.push(mismatch());
        }
    } else {
        if about.str().is_empty() && !matches!(namespace, "default" | "kube-system") {
            out.push(mismatch());
        }
        let place = FieldPath::new(controller);
        let reporter = text("reportingComponent");
        if reporter.is_empty() {
            out.push(Cause::required(&place, ""));
        }
        out.extend(names::qualified_name(reporter).iter().map(|p| Cause::invalid(&place, &json!(reporter), p)));
        for (name, limit, required) in
            [("reportingInstance", 128, true), ("action", 128, true), ("reason", 128, true), ("message", 1024, false)]
        {
            let place = FieldPath::new(name);
            if required && text(name).is_empty() {
                out.push(Cause::required(&place, ""));
            }
            if text(name).len() > limit {
                out.push(Cause::invalid(&place, &json!(""), &format!("can have at most {limit} characters")));
            }
        }
    }
    let place = FieldPath::new("namespace");
    out.extend(names::dns1123_subdomain(namespace).iter().map(|p| Cause::invalid(&place, &json!(namespace), p)));
    out
}

/// The rules of `events.k8s.io/v1` for a new event.
pub(super) fn strict(object: &Object, out: &mut Vec<Cause>) {
    series(object, out);
    let unset = |name: &str| Cause::invalid(&FieldPath::new(name), &json!(""), "needs to be unset");
    let text = |name: &str| object.str_at(&[name]).unwrap_or_default();
    if text("eventTime").is_empty() {
        out.push(Cause::required(&FieldPath::new("eventTime"), ""));
    }
    if !matches!(text("type"), "Normal" | "Warning") {
        out.push(Cause::invalid(&FieldPath::new("type"), &json!(""), &format!("has invalid value: {}", text("type"))));
    }
    for name in ["firstTimestamp", "lastTimestamp"] {
        if !text(name).is_empty() {
            out.push(unset(name));
        }
    }
    if object.int_at(&["count"]).unwrap_or(0) != 0 {
        out.push(unset("count"));
    }
    if ["component", "host"].iter().any(|name| object.str_at(&["source", name]).is_some_and(|t| !t.is_empty())) {
        out.push(unset("source"));
    }
}

fn series(object: &Object, out: &mut Vec<Cause>) {
    let series = At::of(object, "series");
    if !series.is_set() {
        return;
    }
    if series.get("count").int().unwrap_or(0) < 2 {
        out.push(Cause::invalid(&series.get("count").field(), &json!(""), "should be at least 2"));
    }
    if series.get("lastObservedTime").is_empty() {
        out.push(series.get("lastObservedTime").required(""));
    }
}

/// The immutable fields of `events.k8s.io/v1`.
pub(super) fn update(object: &Object, old: &Object) -> Vec<Cause> {
    let mut out = Vec::new();
    let schema = Schema::named("io.k8s.api.core.v1.Event");
    if !edit::deep_equal_at(object, old, &["series"]) {
        series(object, &mut out);
    }
    for (stored, named) in [
        ("involvedObject", "involvedObject"),
        ("reason", "reason"),
        ("message", "message"),
        ("source", "source"),
        ("firstTimestamp", "firstTimestamp"),
        ("lastTimestamp", "lastTimestamp"),
        ("count", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        if !same(object.0.get(stored), old.0.get(stored)) {
            let shown = schema.as_ref().map_or_else(String::new, |schema| schema.internal_field(&object.0, stored));
            out.push(Cause::invalid_shown(&FieldPath::new(named), &shown, "field is immutable"));
        }
    }
    out
}

/// Equality in which an empty string and zero equal an absent value, because they are plain values in Go.
fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    let plain = |v: Option<&Value>| match v {
        None => Value::Null,
        Some(Value::String(s)) if s.is_empty() => Value::Null,
        Some(Value::Number(n)) if n.as_i64() == Some(0) => Value::Null,
        Some(other) => other.clone(),
    };
    edit::deep_equal(&plain(a), &plain(b))
}
