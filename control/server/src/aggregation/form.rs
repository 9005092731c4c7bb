//! Discovery documents of other servers, read strictly: what they say becomes a part of this server's own document. Pure.

use super::registration::Registration;
use api::GroupVersionKind;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;

/// `apidiscovery.k8s.io` APIGroupDiscoveryList.
#[derive(Deserialize)]
struct GroupList {
    #[serde(default, deserialize_with = "or_default")]
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    metadata: Named,
    #[serde(default, deserialize_with = "or_default")]
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default, deserialize_with = "or_default")]
    resources: Vec<Listed>,
}

/// A resource of a version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listed {
    resource: String,
    #[serde(default, deserialize_with = "or_default")]
    response_kind: GroupVersionKind,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    singular_resource: String,
    #[serde(default, deserialize_with = "or_default")]
    verbs: Vec<String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    short_names: Vec<String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    categories: Vec<String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    subresources: Vec<Subresource>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subresource {
    subresource: String,
    #[serde(default, deserialize_with = "or_default")]
    response_kind: GroupVersionKind,
    #[serde(default, deserialize_with = "or_default")]
    verbs: Vec<String>,
}

/// `v1` APIResourceList.
#[derive(Deserialize)]
struct ResourceList {
    #[serde(default, deserialize_with = "or_default")]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    name: String,
    #[serde(default)]
    singular_name: String,
    #[serde(default)]
    namespaced: bool,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    group: String,
    #[serde(default)]
    version: String,
    #[serde(default, deserialize_with = "or_default")]
    verbs: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    short_names: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    categories: Vec<String>,
}

/// Null is the zero value, as in Go.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// The resources of each group version of an aggregated document.
pub(crate) fn aggregated(body: &[u8]) -> serde_json::Result<HashMap<(String, String), Vec<Listed>>> {
    let list: GroupList = serde_json::from_slice(body)?;
    let mut found = HashMap::new();
    for group in list.items {
        for version in group.versions {
            found.insert((group.metadata.name.clone(), version.version), version.resources);
        }
    }
    Ok(found)
}

/// The resources of a document of one group version.
pub(crate) fn legacy(body: &[u8], of: &Registration) -> serde_json::Result<Vec<Listed>> {
    let list: ResourceList = serde_json::from_slice(body)?;
    let mut found: Vec<Listed> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for one in list.resources {
        let (parent, subresource) = match one.name.split_once('/') {
            Some((parent, subresource)) => (parent.to_owned(), Some(subresource.to_owned())),
            None => (one.name.clone(), None),
        };
        let scope = if one.namespaced { "Namespaced" } else { "Cluster" };
        let place = *places.entry(parent.clone()).or_insert_with(|| {
            found.push(Listed { resource: parent, scope: scope.to_owned(), ..Listed::default() });
            found.len() - 1
        });
        let Some(listed) = found.get_mut(place) else { continue };
        let or = |given: String, own: &str| if given.is_empty() { own.to_owned() } else { given };
        let kind =
            GroupVersionKind { group: or(one.group, &of.group), version: or(one.version, &of.version), kind: one.kind };
        match subresource {
            Some(subresource) => {
                listed.subresources.push(Subresource { subresource, response_kind: kind, verbs: one.verbs });
            }
            None => {
                listed.response_kind = kind;
                scope.clone_into(&mut listed.scope);
                listed.singular_resource = one.singular_name;
                listed.verbs = one.verbs;
                listed.short_names = one.short_names;
                listed.categories = one.categories;
            }
        }
    }
    Ok(found)
}

/// The version as this server's document shows it. `None`: it is not known what it has.
pub(crate) fn version(of: &Registration, resources: Option<&[Listed]>) -> Value {
    match resources {
        Some([]) => json!({"version": of.version, "freshness": "Current"}),
        Some(resources) => json!({"version": of.version, "resources": resources, "freshness": "Current"}),
        None => json!({"version": of.version, "freshness": "Stale"}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of() -> Registration {
        Registration { group: "g".to_owned(), version: "v1".to_owned(), ..Registration::default() }
    }

    #[test]
    fn an_old_document_becomes_what_a_new_one_says() {
        let old = json!({"kind": "APIResourceList", "groupVersion": "g/v1", "resources": [
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get", "list"],
                "shortNames": ["th"], "categories": ["all"]},
            {"name": "things/scale", "namespaced": true, "kind": "Scale", "group": "autoscaling", "version": "v1",
                "verbs": ["get"]},
            {"name": "orphans/status", "namespaced": false, "kind": "Orphan", "verbs": null},
        ]});
        let new = json!({"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": "g"}, "versions": [
            {"version": "v1", "resources": [
                {"resource": "things", "responseKind": {"group": "g", "version": "v1", "kind": "Thing"},
                    "scope": "Namespaced", "singularResource": "thing", "verbs": ["get", "list"],
                    "shortNames": ["th"], "categories": ["all"], "subresources": [{"subresource": "scale",
                        "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}, "verbs": ["get"]}]},
                {"resource": "orphans", "scope": "Cluster", "verbs": null, "subresources": [
                    {"subresource": "status", "responseKind": {"group": "g", "version": "v1", "kind": "Orphan"}}]},
            ]},
            {"version": "v2", "resources": null, "unknown": 1},
        ]}, {"metadata": {}, "versions": null}]});
        let legacy = legacy(old.to_string().as_bytes(), &of()).expect("a document");
        let mut found = aggregated(new.to_string().as_bytes()).expect("a document");
        let key = |version: &str| ("g".to_owned(), version.to_owned());
        assert_eq!(found.remove(&key("v1")), Some(legacy.clone()));
        assert_eq!(found.remove(&key("v2")), Some(Vec::new()));
        // Every resource has what clients of this server read.
        let shown = version(&of(), Some(&legacy));
        assert_eq!(shown["resources"][1]["responseKind"], json!({"group": "", "version": "", "kind": ""}));
        assert_eq!((&shown["resources"][1]["scope"], &shown["freshness"]), (&json!("Cluster"), &json!("Current")));
        assert_eq!(version(&of(), None), json!({"version": "v1", "freshness": "Stale"}));
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for bad in ["", "{\"items\": 1}", "{\"items\": [{}]}", "{\"items\": [{\"metadata\": {}, \"versions\": [{}]}]}"]
        {
            assert!(aggregated(bad.as_bytes()).is_err(), "{bad}");
        }
        let deep = format!("{{\"resources\": {}", "[".repeat(100_000));
        for bad in ["", "{\"resources\": [{}]}", "{\"resources\": [{\"name\": 1}]}", &deep] {
            assert!(legacy(bad.as_bytes(), &of()).is_err());
        }
    }
}
