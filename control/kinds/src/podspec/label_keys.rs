//! `matchLabelKeys` and `mismatchLabelKeys` of a new Pod become requirements of the selector beside them, with the values of the Pod's own labels
//! (KEP-3243 and KEP-3633): who reads the Pod later needs no other rule.

use crate::edit::{self, Fields};
use api::Object;
use serde_json::{Map, Value, json};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Merges the keys of all terms and constraints. A selector that is absent selects nothing, and stays so.
pub(crate) fn merge(object: &mut Object) {
    let Some(labels) = object.at(&["metadata", "labels"]).and_then(Value::as_object).cloned() else { return };
    let Some(spec) = edit::object_if(&mut object.0, "spec") else { return };
    for constraint in edit::objects(spec, "topologySpreadConstraints") {
        narrow(constraint, "matchLabelKeys", "In", &labels);
    }
    let Some(affinity) = edit::object_if(spec, "affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(terms) = edit::object_if(affinity, kind) else { continue };
        for term in edit::objects(terms, REQUIRED) {
            self::term(term, &labels);
        }
        for preferred in edit::objects(terms, PREFERRED) {
            if let Some(term) = edit::object_if(preferred, "podAffinityTerm") {
                self::term(term, &labels);
            }
        }
    }
}

fn term(term: &mut Fields, labels: &Map<String, Value>) {
    narrow(term, "matchLabelKeys", "In", labels);
    narrow(term, "mismatchLabelKeys", "NotIn", labels);
}

/// Adds a requirement for each key that the Pod has a label of.
fn narrow(fields: &mut Fields, keys: &str, operator: &str, labels: &Map<String, Value>) {
    let keys = fields.get(keys).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let requirement = |key: &Value| {
        let value = labels.get(key.as_str()?)?;
        Some(json!({"key": key, "operator": operator, "values": [value]}))
    };
    let more: Vec<Value> = keys.iter().filter_map(requirement).collect();
    if more.is_empty() {
        return;
    }
    let Some(selector) = edit::object_if(fields, "labelSelector") else { return };
    match selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        Some(expressions) => expressions.extend(more),
        None => drop(selector.insert("matchExpressions".to_owned(), more.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_own_labels_narrow_its_selectors() {
        let term = |keys: &[&str], others: &[&str]| {
            json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "a"}},
                "matchLabelKeys": keys, "mismatchLabelKeys": others})
        };
        let pod = json!({"metadata": {"labels": {"app": "a", "hash": "1", "tenant": "t"}}, "spec": {
            "affinity": {
                "podAffinity": {REQUIRED: [term(&["hash", "none"], &[])]},
                "podAntiAffinity": {PREFERRED: [{"weight": 1, "podAffinityTerm": term(&["hash"], &["tenant"])}]}},
            "topologySpreadConstraints": [
                {"labelSelector": {"matchExpressions": [{"key": "x", "operator": "Exists"}]}, "matchLabelKeys": ["hash"]},
                {"matchLabelKeys": ["hash"]}]}});
        let mut object = Object::from_value(pod).expect("an object");
        merge(&mut object);
        let spec = object.into_value()["spec"].clone();
        let hash = json!({"key": "hash", "operator": "In", "values": ["1"]});
        let near = &spec["affinity"]["podAffinity"][REQUIRED][0];
        assert_eq!(near["labelSelector"], json!({"matchLabels": {"app": "a"}, "matchExpressions": [hash]}));
        assert_eq!(near["matchLabelKeys"], json!(["hash", "none"]), "they stay");
        let apart = &spec["affinity"]["podAntiAffinity"][PREFERRED][0]["podAffinityTerm"]["labelSelector"];
        assert_eq!(apart["matchExpressions"], json!([hash, {"key": "tenant", "operator": "NotIn", "values": ["t"]}]));
        let spread = &spec["topologySpreadConstraints"];
        assert_eq!(spread[0]["labelSelector"]["matchExpressions"], json!([{"key": "x", "operator": "Exists"}, hash]));
        assert_eq!(spread[1].get("labelSelector"), None);
    }
}
