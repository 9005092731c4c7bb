//! The APIServices of what is served here, which every cluster has: with upstream's priorities. They are written once after the start, as
//! upstream's `onstart` ones: one that somebody changed or removed afterwards stays so until the next start, one without the label for ever.

use super::{GROUP, RESOURCE};
use api::Object;
use serde_json::{Value, json};
use server::Objects;

/// The label of APIServices that nobody has to write by hand.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Its value for these.
const ON_START: &str = "onstart";

/// The collection.
pub(crate) const COLLECTION: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// Group, version, and the priorities of both. Those of metrics are what their usual servers register.
const PRIORITIES: &[(&str, &str, i64, i64)] = &[
    ("", "v1", 18_000, 1),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("autoscaling", "v1", 17_500, 15),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("certificates.k8s.io", "v1beta1", 17_300, 9),
    ("certificates.k8s.io", "v1alpha1", 17_300, 1),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("networking.k8s.io", "v1beta1", 17_200, 9),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("storage.k8s.io", "v1beta1", 16_800, 9),
    ("storage.k8s.io", "v1alpha1", 16_800, 1),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("admissionregistration.k8s.io", "v1beta1", 16_700, 12),
    ("admissionregistration.k8s.io", "v1alpha1", 16_700, 9),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("scheduling.k8s.io", "v1alpha2", 16_600, 2),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("coordination.k8s.io", "v1beta1", 16_500, 13),
    ("coordination.k8s.io", "v1alpha2", 16_500, 12),
    ("node.k8s.io", "v1", 16_300, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("resource.k8s.io", "v1", 16_200, 21),
    ("resource.k8s.io", "v1beta2", 16_200, 15),
    ("resource.k8s.io", "v1beta1", 16_200, 9),
    ("resource.k8s.io", "v1alpha3", 16_200, 1),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
    ("internal.apiserver.k8s.io", "v1alpha1", 16_000, 9),
    ("storagemigration.k8s.io", "v1beta1", 15_800, 9),
    ("metrics.k8s.io", "v1beta1", 100, 100),
    ("custom.metrics.k8s.io", "v1beta1", 100, 100),
    ("custom.metrics.k8s.io", "v1beta2", 100, 200),
    ("external.metrics.k8s.io", "v1beta1", 100, 100),
];

/// What is to be written.
#[derive(Debug, PartialEq)]
pub(crate) enum Write {
    /// A new object.
    Create(Value),
    /// A changed one, by its path.
    Update(String, Value),
    /// One is removed: of a group version that is served no more. Path and uid.
    Delete(String, String),
}

/// What is to be written after a start, with these group versions.
pub(crate) fn plan(objects: &dyn Objects, served: &[(String, String)]) -> Vec<Write> {
    let stored = objects.list(GROUP, RESOURCE, "");
    let on_start = |object: &Object| object.0["metadata"]["labels"][MANAGED] == ON_START;
    let path = |name: &str| format!("{COLLECTION}/{name}");
    let (mut writes, mut names) = (Vec::new(), Vec::new());
    for (group, version, group_priority, version_priority) in PRIORITIES {
        if !served.iter().any(|(g, v)| g == group && v == version) {
            continue;
        }
        let name = format!("{version}.{group}");
        let mut spec =
            json!({"version": version, "groupPriorityMinimum": group_priority, "versionPriority": version_priority});
        if !group.is_empty() {
            spec["group"] = json!(group);
        }
        match stored.iter().find(|object| object.name() == name) {
            None => writes.push(Write::Create(json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                "metadata": {"name": name, "labels": {MANAGED: ON_START}}, "spec": spec}))),
            Some(object) if on_start(object) && object.at(&["spec"]) != Some(&spec) => {
                let mut object = (**object).clone();
                object.set(&["spec"], spec);
                writes.push(Write::Update(path(&name), object.into_value()));
            }
            Some(_) => {}
        }
        names.push(name);
    }
    let gone = stored.iter().filter(|object| on_start(object) && !names.iter().any(|name| name == object.name()));
    let uid = |object: &Object| object.str_at(&["metadata", "uid"]).unwrap_or_default().to_owned();
    writes.extend(gone.map(|object| Write::Delete(path(object.name()), uid(object))));
    writes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Stored;

    fn served() -> Vec<(String, String)> {
        [("", "v1"), ("apps", "v1"), ("unknown", "v1")].map(|(g, v)| (g.to_owned(), v.to_owned())).into()
    }

    fn object(name: &str, label: &str, spec: &str) -> String {
        format!("{{metadata: {{name: {name:?}, uid: u, labels: {{{MANAGED}: {label}}}}}, spec: {spec}}}")
    }

    #[test]
    fn each_group_version_of_the_table_is_registered_once() {
        let writes = plan(&Stored::default(), &served());
        let [Write::Create(core), Write::Create(apps)] = &writes[..] else { panic!("{writes:?}") };
        assert_eq!((&core["metadata"]["name"], &apps["metadata"]["name"]), (&json!("v1."), &json!("v1.apps")));
        assert_eq!(core["metadata"]["labels"], json!({MANAGED: "onstart"}));
        assert_eq!(core["spec"], json!({"version": "v1", "groupPriorityMinimum": 18_000, "versionPriority": 1}));
        assert_eq!(
            apps["spec"],
            json!({"group": "apps", "version": "v1", "groupPriorityMinimum": 17_800, "versionPriority": 15})
        );
    }

    #[test]
    fn what_somebody_else_manages_stays() {
        let right = "{version: v1, groupPriorityMinimum: 18000, versionPriority: 1}";
        for (text, expected) in [
            (object("v1.", "onstart", right), "none"),
            (object("v1.", "onstart", "{version: v1, groupPriorityMinimum: 1, versionPriority: 1}"), "update"),
            (object("v1.", "'true'", "{version: v1}"), "none"),
            (object("v1.", "other", "{version: v1}"), "none"),
            (object("v1.gone", "onstart", "{group: gone, version: v1}"), "delete"),
            (object("v1.gone", "'true'", "{group: gone, version: v1}"), "none"),
        ] {
            let stored = Stored::default().with(GROUP, RESOURCE, &text);
            let writes = plan(&stored, &served());
            let shown: Vec<&str> = writes
                .iter()
                .filter_map(|write| match write {
                    Write::Create(_) => None,
                    Write::Update(path, object) => {
                        assert_eq!(
                            (path.as_str(), &object["spec"]["groupPriorityMinimum"]),
                            (&*format!("{COLLECTION}/v1."), &json!(18_000))
                        );
                        Some("update")
                    }
                    Write::Delete(path, uid) => {
                        assert_eq!((path.as_str(), uid.as_str()), (&*format!("{COLLECTION}/v1.gone"), "u"));
                        Some("delete")
                    }
                })
                .collect();
            assert_eq!(shown.first().copied().unwrap_or("none"), expected, "{text}");
        }
    }

    #[test]
    fn every_built_in_group_version_is_in_the_table() {
        let settings = crate::testing::settings();
        // Nobody registers the registrations.
        let resources = settings.parts().resources;
        for gvr in resources.iter().map(|resource| &resource.names.gvr).filter(|gvr| gvr.group != GROUP) {
            let known = PRIORITIES.iter().any(|(group, version, ..)| *group == gvr.group && *version == gvr.version);
            assert!(known, "{}", gvr.api_version());
        }
        let wrong = PRIORITIES
            .iter()
            .find(|(_, _, group, version)| !(1..=20_000).contains(group) || !(1..=1_000).contains(version));
        assert_eq!(wrong, None);
    }
}
