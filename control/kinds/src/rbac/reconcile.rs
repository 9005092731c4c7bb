//! What is missing in a stored role or binding that every cluster has. Follows "Auto-reconciliation" of the page on RBAC: what somebody added
//! stays, what somebody took away comes back, and an object with `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.

use super::{
    escalation,
    index::{is_own, rules},
    rule::Rule,
};
use api::Object;
use serde_json::Value;

/// What is to be done with a stored object.
#[derive(Debug, PartialEq)]
pub(crate) enum Change {
    /// It has everything.
    Nothing,
    /// It is written.
    Update(Object),
    /// It names another role, which no update can change: it is deleted and created.
    Recreate,
}

/// What is to be done so that a stored role has what `wanted` has.
pub(crate) fn role(stored: &Object, wanted: &Value) -> Change {
    if is_own(stored) {
        return Change::Nothing;
    }
    let mut new = stored.clone();
    annotate(&mut new, wanted);
    let Some(wanted) = Object::from_value(wanted.clone()) else { return Change::Nothing };
    let own = rules(stored);
    let missing = escalation::missing(&own.iter().collect::<Vec<_>>(), &rules(&wanted));
    append(&mut new, &["rules"], missing.iter().map(Rule::to_value));
    let path = ["aggregationRule", "clusterRoleSelectors"];
    let selectors = wanted.list_at(&path).iter().filter(|selector| !stored.list_at(&path).contains(selector));
    append(&mut new, &path, selectors.cloned());
    changed(stored, new)
}

/// What is to be done so that a stored binding has what `wanted` has.
pub(crate) fn binding(stored: &Object, wanted: &Value) -> Change {
    if is_own(stored) {
        return Change::Nothing;
    }
    let role = |field: &str| stored.str_at(&["roleRef", field]) == wanted["roleRef"][field].as_str();
    if !["apiGroup", "kind", "name"].into_iter().all(role) {
        return Change::Recreate;
    }
    let mut new = stored.clone();
    annotate(&mut new, wanted);
    let known = |subject: &Value| {
        let same = |one: &Value, field: &str| {
            one[field].as_str().unwrap_or_default() == subject[field].as_str().unwrap_or_default()
        };
        let fields = ["kind", "apiGroup", "namespace", "name"];
        stored.list_at(&["subjects"]).iter().any(|one| fields.iter().all(|field| same(one, field)))
    };
    let subjects = wanted["subjects"].as_array().into_iter().flatten().filter(|subject| !known(subject));
    append(&mut new, &["subjects"], subjects.cloned());
    changed(stored, new)
}

/// Adds labels and annotations that are not there; those that are keep their values.
fn annotate(new: &mut Object, wanted: &Value) {
    for map in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][map].as_object().into_iter().flatten() {
            let path = ["metadata", map, key.as_str()];
            if new.at(&path).is_none() {
                new.set(&path, value.clone());
            }
        }
    }
}

fn append(new: &mut Object, path: &[&str], values: impl Iterator<Item = Value>) {
    let values: Vec<Value> = values.collect();
    if values.is_empty() {
        return;
    }
    match new.entry(path) {
        Value::Array(list) => list.extend(values),
        other => *other = Value::Array(values),
    }
}

fn changed(stored: &Object, new: Object) -> Change {
    if new == *stored { Change::Nothing } else { Change::Update(new) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{rbac::policy, testing::parse};
    use serde_json::json;

    #[test]
    fn what_every_cluster_has_needs_no_change() {
        for (wanted, judge) in policy::roles()
            .iter()
            .map(|entry| (entry.object(), role as fn(&Object, &Value) -> Change))
            .chain(policy::bindings().iter().map(|entry| (entry.object(), binding as fn(&Object, &Value) -> Change)))
        {
            let stored = Object::from_value(wanted.clone()).expect("an object");
            assert_eq!(judge(&stored, &wanted), Change::Nothing, "{}", stored.name());
        }
    }

    #[test]
    fn missing_rules_and_labels_come_back_and_added_ones_stay() {
        let wanted = json!({"metadata": {"name": "r", "labels": {"a": "1"}, "annotations": {"auto": "true"}},
            "rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]});
        let stored = parse(
            "{metadata: {name: r, labels: {a: '2'}}, rules: [{verbs: [get, watch], apiGroups: [''], resources: [pods]}]}",
        );
        let Change::Update(new) = role(&stored, &wanted) else { panic!("not updated") };
        assert_eq!((new.label("a"), new.annotation("auto")), (Some("2"), Some("true")));
        let added = json!({"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]});
        assert_eq!(new.list_at(&["rules"]), [stored.list_at(&["rules"])[0].clone(), added]);
        assert_eq!(role(&new, &wanted), Change::Nothing);
        let mut own = stored;
        own.set(&["metadata", "annotations", "rbac.authorization.kubernetes.io/autoupdate"], "false");
        assert_eq!(role(&own, &wanted), Change::Nothing, "its owner keeps it");
    }

    #[test]
    fn a_collecting_role_gets_its_selectors() {
        let wanted = json!({"metadata": {"name": "r"},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "true"}}]}});
        let stored =
            parse("{metadata: {name: r}, aggregationRule: {clusterRoleSelectors: [{matchLabels: {b: 'true'}}]}}");
        let Change::Update(new) = role(&stored, &wanted) else { panic!("not updated") };
        assert_eq!(new.list_at(&["aggregationRule", "clusterRoleSelectors"]).len(), 2);
        let Change::Update(new) = role(&parse("{metadata: {name: r}}"), &wanted) else { panic!("not updated") };
        assert_eq!(new.list_at(&["aggregationRule", "clusterRoleSelectors"]).len(), 1);
    }

    #[test]
    fn missing_subjects_come_back_and_another_role_is_replaced() {
        let wanted = json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": "g", "kind": "ClusterRole", "name": "r"},
            "subjects": [{"kind": "User", "apiGroup": "g", "name": "u"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]});
        let stored = |role: &str, rest: &str| {
            let text =
                format!("{{metadata: {{name: b}}, roleRef: {{apiGroup: g, kind: ClusterRole, name: {role}}}{rest}}}");
            binding(&parse(&text), &wanted)
        };
        let Change::Update(new) = stored("r", ", subjects: [{kind: User, apiGroup: g, name: u}]") else {
            panic!("not updated")
        };
        assert_eq!(new.list_at(&["subjects"]), wanted["subjects"].as_array().expect("a list").as_slice());
        assert!(matches!(stored("r", ""), Change::Update(_)));
        assert_eq!(stored("q", ""), Change::Recreate);
    }
}
