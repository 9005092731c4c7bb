//! Which kinds the server serves, for controllers that handle every kind. Two requests: aggregated discovery (KEP-3352).

pub use crate::discovered::Resource;

use crate::{Client, Error, Result, discovered::group_version};
use http::Method;
use serde::Deserialize;
use std::collections::{HashMap, hash_map::Entry};

/// What the server serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// Every kind once, in the preferred version of its group where that has it, without subresources.
    pub resources: Vec<Resource>,
    /// What upstream's client says of group versions of aggregated API servers that did not answer. The others are complete.
    pub failures: Vec<String>,
    /// Those group versions.
    pub stale: Vec<String>,
}

const AGGREGATED_DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[derive(Deserialize)]
struct GroupList {
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    metadata: Named,
    #[serde(default)]
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
    #[serde(default)]
    resources: Vec<Listed>,
    #[serde(default)]
    freshness: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    resource: String,
    /// None for a resource that has subresources only.
    response_kind: Option<ResponseKind>,
    scope: String,
    #[serde(default)]
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct ResponseKind {
    kind: String,
}

/// Discovers the served resources.
///
/// # Errors
/// The server does not answer.
pub async fn resources(client: &Client) -> Result<Discovered> {
    let mut found = Discovered::default();
    for path in ["/api", "/apis"] {
        let body = client.raw_as(AGGREGATED_DISCOVERY, Method::GET, path, None).await?;
        let groups: GroupList = serde_json::from_slice(&body).map_err(|e| Error::Decode(format!("{path}: {e}")))?;
        groups.items.into_iter().for_each(|group| found.take(group));
    }
    Ok(found)
}

impl Discovered {
    /// Adds a group, whose versions come in the order of preference.
    fn take(&mut self, group: Group) {
        let mut known = HashMap::<String, usize>::new();
        for version in group.versions {
            if version.freshness == "Stale" {
                let which = group_version(&group.metadata.name, &version.version);
                self.failures.push(format!("{which}: stale GroupVersion discovery: {which}"));
                self.stale.push(which);
            }
            for Listed { resource, response_kind, scope, verbs } in version.resources {
                let Some(ResponseKind { kind }) = response_kind.filter(|kind| !kind.kind.is_empty()) else { continue };
                match known.entry(resource.clone()) {
                    Entry::Occupied(at) => self.resources[*at.get()].others.push(version.version.clone()),
                    Entry::Vacant(place) => {
                        place.insert(self.resources.len());
                        self.resources.push(Resource {
                            group: group.metadata.name.clone(),
                            version: version.version.clone(),
                            others: Vec::new(),
                            resource,
                            kind,
                            namespaced: scope == "Namespaced",
                            verbs,
                        });
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_kind_is_found_once_in_its_preferred_version_and_stale_groups_are_told() {
        let kind = |kind: &str| json!({"group": "g", "version": "v2", "kind": kind});
        let things = |version: &str| {
            json!({"version": version, "freshness": "Current", "resources": [
                {"resource": "things", "responseKind": kind("Thing"), "scope": "Namespaced", "verbs": ["list", "watch"],
                    "subresources": [{"subresource": "status", "responseKind": kind("Thing"), "verbs": ["get"]}]},
                {"resource": "reviews", "responseKind": {"group": "", "version": "", "kind": ""}, "scope": "Cluster"}]})
        };
        let groups = json!({"items": [
            {"metadata": {"creationTimestamp": null}, "versions": [{"version": "v1", "resources": [
                {"resource": "nodes", "responseKind": kind("Node"), "scope": "Cluster", "verbs": ["get"]}]}]},
            {"metadata": {"name": "g"}, "versions": [things("v2"), things("v1")]},
            {"metadata": {"name": "gone"}, "versions": [{"version": "v1", "freshness": "Stale"}]}]});
        let groups: GroupList = serde_json::from_value(groups).expect("discovery");
        let mut found = Discovered::default();
        groups.items.into_iter().for_each(|group| found.take(group));
        let [node, thing] = &found.resources[..] else { panic!("{found:?}") };
        assert_eq!((node.path("n", "a"), node.api_version()), ("/api/v1/nodes/a".into(), "v1".into()));
        assert_eq!(thing.path("n", ""), "/apis/g/v2/namespaces/n/things");
        assert_eq!(thing.api_versions().collect::<Vec<_>>(), ["g/v2", "g/v1"]);
        assert!(thing.can(&["list", "watch"]) && !thing.can(&["list", "delete"]));
        assert_eq!(found.failures, ["gone/v1: stale GroupVersion discovery: gone/v1"]);
        assert_eq!(found.stale, ["gone/v1"]);
    }
}
