//! The FlowSchemas and PriorityLevelConfigurations that every cluster has. Follows "Maintenance of the mandatory and suggested configuration
//! objects" of the page on API priority and fairness: what is missing is made; the mandatory ones stay as they are; a suggested one follows
//! this table unless somebody changed it, or annotated it with `apf.kubernetes.io/autoupdate-spec: "false"`; one that bears `true` and is not
//! in this table is removed.

use super::{EXEMPT, GROUP};
use crate::edit;
use api::Object;
use serde_json::{Value, json};
use server::Objects;
use std::{collections::HashSet, sync::LazyLock};

/// The annotation of objects that follow this table.
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// The resources.
pub(crate) const LEVELS: &str = "prioritylevelconfigurations";
pub(crate) const SCHEMAS: &str = "flowschemas";

/// The condition of a FlowSchema whose priority level does not exist.
const DANGLING: &str = "Dangling";

const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
const SCHEDULER: &str = "system:kube-scheduler";

/// An object that every cluster has.
pub(crate) struct Standard {
    /// Its resource.
    pub(crate) resource: &'static str,
    /// Whether nobody may change it.
    pub(crate) mandatory: bool,
    /// The object.
    pub(crate) object: Value,
}

impl Standard {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }
}

/// What is to be written.
#[derive(Debug, PartialEq)]
pub(crate) enum Write {
    /// A new object, by the path of its collection.
    Create(String, Value),
    /// A changed one, by its path.
    Update(String, Value),
    /// One is removed.
    Delete(String),
}

/// What is to be written so that the stored objects are as they should be.
pub(crate) fn plan(objects: &dyn Objects) -> Vec<Write> {
    let collection = |resource: &str| format!("/apis/{GROUP}/v1/{resource}");
    let mut writes = Vec::new();
    for wanted in all() {
        let path = collection(wanted.resource);
        match objects.get(GROUP, wanted.resource, "", wanted.name()) {
            None => writes.push(Write::Create(path, wanted.object.clone())),
            Some(stored) => {
                let new = revised(&stored, wanted);
                writes.extend(new.map(|new| Write::Update(format!("{path}/{}", wanted.name()), new.into_value())));
            }
        }
    }
    for resource in [SCHEMAS, LEVELS] {
        let known = |name: &str| all().iter().any(|one| one.resource == resource && one.name() == name);
        let stored = objects.list(GROUP, resource, "");
        let gone = stored.iter().filter(|object| follows(object) == Some(true) && !known(object.name()));
        writes.extend(gone.map(|object| Write::Delete(format!("{}/{}", collection(resource), object.name()))));
    }
    writes
}

/// What each FlowSchema is to say of its priority level, unless it does: the path of its status, and what is applied there.
pub(crate) fn statuses(objects: &dyn Objects, now: &str) -> Vec<(String, Value)> {
    let levels = objects.list(GROUP, LEVELS, "");
    let levels: HashSet<&str> = levels.iter().map(|level| level.name()).collect();
    let schemas = objects.list(GROUP, SCHEMAS, "");
    let changed = schemas.iter().filter_map(|schema| {
        let level = schema.str_at(&["spec", "priorityLevelConfiguration", "name"]).unwrap_or_default();
        let start = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
        let (status, reason, message) = match levels.contains(level) {
            true => ("False", "Found", format!("{start} and it exists")),
            false => ("True", "NotFound", format!("{start} but there is no such object")),
        };
        let mut conditions = schema.list_at(&["status", "conditions"]).iter();
        let is = conditions.find(|condition| condition["type"] == DANGLING);
        if is.is_some_and(|is| is["status"] == status && is["reason"] == reason && is["message"] == message.as_str()) {
            return None;
        }
        let condition = json!({"type": DANGLING, "status": status, "reason": reason, "message": message, "lastTransitionTime": now});
        let applied = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "FlowSchema", "metadata": {"name": schema.name()},
            "status": {"conditions": [condition]}});
        Some((format!("/apis/{GROUP}/v1/{SCHEMAS}/{}/status", schema.name()), applied))
    });
    changed.collect()
}

/// What the annotation says, as Go reads a bool.
fn follows(object: &Object) -> Option<bool> {
    match object.annotation(AUTO_UPDATE)? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The stored object as it should be, if it is not.
fn revised(stored: &Object, wanted: &Standard) -> Option<Object> {
    let said = follows(stored);
    let auto = wanted.mandatory || said.unwrap_or(stored.generation() == 1);
    let spec = &wanted.object["spec"];
    let is = stored.at(&["spec"]).unwrap_or(&Value::Null);
    let same = match wanted.resource {
        LEVELS => same_level(wanted.name(), is, spec) && (wanted.name() != EXEMPT || is["exempt"].is_object()),
        _ => edit::deep_equal(is, spec),
    };
    if said == Some(auto) && (same || !auto) {
        return None;
    }
    let mut new = stored.clone();
    if auto && !same {
        new.set(&["spec"], spec.clone());
    }
    new.set(&["metadata", "annotations", AUTO_UPDATE], auto.to_string());
    Some(new)
}

/// Whether a level is as it should be. The shares of `exempt` are its owner's.
pub(crate) fn same_level(name: &str, is: &Value, wanted: &Value) -> bool {
    if name != EXEMPT {
        return edit::deep_equal(is, wanted);
    }
    let without = |spec: &Value| {
        let mut spec = spec.clone();
        spec.as_object_mut().into_iter().for_each(|fields| drop(fields.remove("exempt")));
        spec
    };
    edit::deep_equal(&without(is), &without(wanted))
}

/// The spec of an object that must be as it is.
pub(crate) fn mandatory_spec(resource: &str, name: &str) -> Option<&'static Value> {
    let mut mandatory = all().iter().filter(|one| one.mandatory && one.resource == resource);
    mandatory.find(|one| one.name() == name).map(|one| &one.object["spec"])
}

/// All of them: the suggested ones, then the mandatory ones.
pub(crate) fn all() -> &'static [Standard] {
    static ALL: LazyLock<Vec<Standard>> = LazyLock::new(make);
    &ALL
}

fn make() -> Vec<Standard> {
    let mut all = Vec::new();
    for (name, shares, lendable, queues, hand) in [
        ("system", 30, 33, 64, 6),
        ("node-high", 40, 25, 64, 6),
        ("leader-election", 10, 0, 16, 4),
        ("workload-high", 40, 50, 128, 6),
        ("workload-low", 100, 90, 128, 6),
        ("global-default", 20, 50, 128, 6),
    ] {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
        all.push(level(false, name, limited(shares, lendable, json!({"type": "Queue", "queuing": queuing}))));
    }
    all.extend(suggested_schemas());
    let exempt = json!({"nominalConcurrencyShares": 0, "lendablePercent": 0});
    all.push(level(true, "catch-all", limited(5, 0, json!({"type": "Reject"}))));
    all.push(level(true, EXEMPT, json!({"type": "Exempt", "exempt": exempt})));
    all.push(schema(true, EXEMPT, EXEMPT, 1, None, everything(groups(&["system:masters"]))));
    let anybody = groups(&[UNAUTHENTICATED, AUTHENTICATED]);
    all.push(schema(true, "catch-all", "catch-all", 10_000, BY_USER, everything(anybody)));
    all
}

const BY_USER: Option<&str> = Some("ByUser");
const BY_NAMESPACE: Option<&str> = Some("ByNamespace");

fn suggested_schemas() -> Vec<Standard> {
    let nodes = || groups(&["system:nodes"]);
    let anybody = || groups(&[UNAUTHENTICATED, AUTHENTICATED]);
    let system_accounts =
        json!([{"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "kube-system"}}]);
    let mut electors = users(&[CONTROLLER_MANAGER, SCHEDULER]);
    if let (Value::Array(all), Value::Array(more)) = (&mut electors, &system_accounts) {
        all.extend(more.iter().cloned());
    }
    let leases = |verbs: &[&str]| resources(verbs, "coordination.k8s.io", &["leases"], false);
    let health = json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]);
    let node_rules = json!([resources(&["*"], "", &["nodes", "nodes/status"], true), leases(&["*"])]);
    let election = json!([leases(&["get", "create", "update"])]);
    let of = |subjects: Value, rules: Value| json!({"subjects": subjects, "resourceRules": rules});
    vec![
        schema(false, "system-nodes", "system", 500, BY_USER, everything(nodes())),
        schema(false, "system-node-high", "node-high", 400, BY_USER, of(nodes(), node_rules)),
        schema(false, "probes", EXEMPT, 2, None, json!({"subjects": anybody(), "nonResourceRules": health})),
        schema(false, "system-leader-election", "leader-election", 100, BY_USER, of(electors, election)),
        schema(
            false,
            "kube-controller-manager",
            "workload-high",
            800,
            BY_NAMESPACE,
            everything(users(&[CONTROLLER_MANAGER])),
        ),
        schema(false, "kube-scheduler", "workload-high", 800, BY_NAMESPACE, everything(users(&[SCHEDULER]))),
        schema(false, "kube-system-service-accounts", "workload-high", 900, BY_NAMESPACE, everything(system_accounts)),
        schema(
            false,
            "service-accounts",
            "workload-low",
            9000,
            BY_USER,
            everything(groups(&["system:serviceaccounts"])),
        ),
        schema(false, "global-default", "global-default", 9900, BY_USER, everything(anybody())),
    ]
}

fn object(resource: &'static str, mandatory: bool, kind: &str, name: &str, spec: &Value) -> Standard {
    let metadata = json!({"name": name, "annotations": {AUTO_UPDATE: "true"}});
    let object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata, "spec": spec});
    Standard { resource, mandatory, object }
}

fn level(mandatory: bool, name: &str, spec: Value) -> Standard {
    object(LEVELS, mandatory, "PriorityLevelConfiguration", name, &spec)
}

fn limited(shares: i32, lendable: i32, response: Value) -> Value {
    let limits = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
    json!({"type": "Limited", "limited": limits})
}

fn schema(mandatory: bool, name: &str, level: &str, precedence: i32, by: Option<&str>, rule: Value) -> Standard {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule],
    });
    if let Some(by) = by {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    object(SCHEMAS, mandatory, "FlowSchema", name, &spec)
}

fn groups(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn users(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

/// All requests of the subjects.
fn everything(subjects: Value) -> Value {
    json!({
        "subjects": subjects,
        "resourceRules": [resources(&["*"], "*", &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stored, parse};

    fn stored() -> Stored {
        all().iter().fold(Stored::default(), |stored, one| stored.with(GROUP, one.resource, &one.object.to_string()))
    }

    /// As stored, with another object in the place of the one of its name.
    fn plan_with(resource: &str, object: Object) -> Vec<Write> {
        let mut stored = stored();
        stored.0.retain(|(_, r, o)| r != resource || o.name() != object.name());
        stored.0.push((GROUP.to_owned(), resource.to_owned(), object.into()));
        plan(&stored)
    }

    fn object(resource: &str, name: &str) -> Object {
        let one = all().iter().find(|one| one.resource == resource && one.name() == name).expect("there");
        Object::from_value(one.object.clone()).expect("an object")
    }

    #[test]
    fn what_is_missing_is_made_and_then_nothing() {
        let names = |resource: &str| {
            let mut names: Vec<_> = all().iter().filter(|one| one.resource == resource).map(Standard::name).collect();
            names.sort_unstable();
            names.join(" ")
        };
        assert_eq!(
            names(LEVELS),
            "catch-all exempt global-default leader-election node-high system workload-high workload-low"
        );
        assert_eq!(
            names(SCHEMAS),
            "catch-all exempt global-default kube-controller-manager kube-scheduler kube-system-service-accounts probes \
             service-accounts system-leader-election system-node-high system-nodes"
        );
        let writes = plan(&Stored::default());
        assert_eq!(writes.len(), all().len());
        assert!(writes.iter().all(|write| matches!(write, Write::Create(..))));
        assert_eq!(plan(&stored()), []);
    }

    #[test]
    fn a_suggested_one_follows_until_somebody_changes_it() {
        let mut changed = object(LEVELS, "system");
        changed.set(&["spec", "limited", "lendablePercent"], 1);
        let [Write::Update(path, new)] = &plan_with(LEVELS, changed.clone())[..] else { panic!("not one update") };
        assert_eq!(path, "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/system");
        assert_eq!(new["spec"]["limited"]["lendablePercent"], 33);
        changed.set(&["metadata", "annotations", AUTO_UPDATE], "false");
        assert_eq!(plan_with(LEVELS, changed.clone()), []);
        // Nobody said: the generation tells whether somebody changed it.
        changed.remove(&["metadata", "annotations"]);
        for (generation, lendable, said) in [(1, 33, "true"), (2, 1, "false")] {
            changed.set(&["metadata", "generation"], generation);
            let [Write::Update(_, new)] = &plan_with(LEVELS, changed.clone())[..] else { panic!("not one update") };
            assert_eq!(new["spec"]["limited"]["lendablePercent"], lendable);
            assert_eq!(new["metadata"]["annotations"][AUTO_UPDATE], said);
        }
    }

    #[test]
    fn a_mandatory_one_follows_whatever_it_says() {
        let mut changed = object(SCHEMAS, "catch-all");
        changed.set(&["spec", "matchingPrecedence"], 9);
        changed.set(&["metadata", "annotations", AUTO_UPDATE], "false");
        let [Write::Update(_, new)] = &plan_with(SCHEMAS, changed)[..] else { panic!("not one update") };
        assert_eq!(
            (&new["spec"]["matchingPrecedence"], &new["metadata"]["annotations"][AUTO_UPDATE]),
            (&json!(10_000), &json!("true"))
        );
        let mut exempt = object(LEVELS, EXEMPT);
        exempt.set(&["spec", "exempt", "lendablePercent"], 50);
        assert_eq!(plan_with(LEVELS, exempt), [], "its shares are its owner's");
    }

    #[test]
    fn a_schema_says_whether_its_level_exists() {
        assert_eq!(statuses(&stored(), "t").len(), 11);
        let schema = |level: &str, status: &str| {
            let text = format!(
                "{{metadata: {{name: s}}, spec: {{priorityLevelConfiguration: {{name: {level}}}}}, status: {status}}}"
            );
            let level = object(LEVELS, "system").into_value().to_string();
            statuses(&Stored::default().with(GROUP, SCHEMAS, &text).with(GROUP, LEVELS, &level), "t")
        };
        let [(path, applied)] = &schema("system", "{}")[..] else { panic!("not one") };
        assert_eq!(path, "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/s/status");
        let found = &applied["status"];
        let message = "This FlowSchema references the PriorityLevelConfiguration object named \"system\" and it exists";
        let condition = json!({"type": "Dangling", "status": "False", "reason": "Found", "message": message, "lastTransitionTime": "t"});
        assert_eq!(found, &json!({"conditions": [condition]}));
        assert_eq!(schema("system", &found.to_string()), []);
        let [(_, applied)] = &schema("other", &found.to_string())[..] else { panic!("not one") };
        let message = "This FlowSchema references the PriorityLevelConfiguration object named \"other\" but there is no such object";
        let condition = &applied["status"]["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["reason"], &condition["message"]),
            (&json!("True"), &json!("NotFound"), &json!(message))
        );
    }

    #[test]
    fn one_that_follows_and_is_not_known_goes() {
        for (said, count) in [("'true'", 1), ("'false'", 0), ("often", 0)] {
            let old = parse(&format!("{{metadata: {{name: old, annotations: {{{AUTO_UPDATE}: {said}}}}}}}"));
            assert_eq!(plan_with(SCHEMAS, old).len(), count, "{said}");
        }
        assert_eq!(plan_with(SCHEMAS, parse("{metadata: {name: own}}")), []);
    }
}
