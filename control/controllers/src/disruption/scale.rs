//! How many pods the owners of some pods should have: their `spec.replicas`, or what their scale subresource says.

use crate::{meta, served::Served};
use client::{Client, Error, Informer, discovery::Resource};
use http::Method;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        core::v1::{Pod, ReplicationController},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// The sum of the scales of some pods' owners.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scale {
    /// The sum.
    pub(super) replicas: i32,
    /// Whether a pod has no owner, so that the sum says little.
    pub(super) unmanaged: bool,
}

/// Looks up owners.
pub(super) struct Owners {
    pub(super) client: Client,
    pub(super) controllers: Informer<ReplicationController>,
    pub(super) replica_sets: Informer<ReplicaSet>,
    pub(super) deployments: Informer<Deployment>,
    pub(super) stateful_sets: Informer<StatefulSet>,
    /// What is served, for owners of other kinds.
    pub(super) served: Served,
}

impl Owners {
    /// The scale of the owners of pods of a namespace.
    ///
    /// # Errors
    /// Upstream's text for an owner that has none.
    pub(super) async fn scale(&self, namespace: &str, pods: &[Arc<Pod>]) -> Result<Scale, String> {
        let (mut seen, mut scales, mut unmanaged) = (Vec::<&str>::new(), BTreeMap::<String, i32>::new(), false);
        for pod in pods {
            let Some(owner) = meta::controller_of(&pod.metadata) else {
                unmanaged = true;
                continue;
            };
            if seen.contains(&owner.uid.as_str()) {
                continue;
            }
            seen.push(&owner.uid);
            let found = match self.workload(namespace, owner) {
                Some(found) => Some(found),
                None => self.subresource(namespace, owner).await?,
            };
            let Some((uid, replicas)) = found else {
                return Err(format!("found no controllers for pod {:?}", meta::name(&pod.metadata)));
            };
            // The pods of several ReplicaSets of one Deployment count for it once.
            scales.insert(uid, replicas);
        }
        let replicas = scales.values().fold(0_i32, |sum, one| sum.saturating_add(*one));
        Ok(Scale { replicas, unmanaged })
    }

    /// The uid and replicas of an owner of a kind that everybody knows.
    fn workload(&self, namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let uid = owner.uid.clone();
        match (group, owner.kind.as_str()) {
            ("", "ReplicationController") => {
                let found = self.controllers.get(namespace, &owner.name);
                let found = found.filter(|rc| meta::uid(&rc.metadata) == uid)?;
                Some((uid, replicas(found.spec.as_ref().and_then(|spec| spec.replicas))))
            }
            ("apps", "StatefulSet") => {
                let found = self.stateful_sets.get(namespace, &owner.name);
                let found = found.filter(|set| meta::uid(&set.metadata) == uid)?;
                Some((uid, replicas(found.spec.as_ref().and_then(|spec| spec.replicas))))
            }
            ("apps" | "extensions", "ReplicaSet") => {
                let found = self.replica_sets.get(namespace, &owner.name);
                let set = found.filter(|set| meta::uid(&set.metadata) == uid)?;
                let above = meta::controller_of(&set.metadata).filter(|above| above.kind == "Deployment");
                let Some(above) = above else {
                    return Some((uid, replicas(set.spec.as_ref().and_then(|spec| spec.replicas))));
                };
                let found = self.deployments.get(namespace, &above.name);
                let found = found.filter(|deployment| meta::uid(&deployment.metadata) == above.uid)?;
                Some((above.uid.clone(), replicas(found.spec.as_ref().and_then(|spec| spec.replicas))))
            }
            _ => None,
        }
    }

    /// The same of an owner of any kind, by its scale subresource.
    async fn subresource(&self, namespace: &str, owner: &OwnerReference) -> Result<Option<(String, i32)>, String> {
        let text = |error: Error| error.to_string();
        let served = self.served.resources().await.map_err(text)?;
        let (kind, version) = (&owner.kind, &owner.api_version);
        let of_kind = |r: &&Resource| r.kind == *kind && r.api_versions().any(|served| served == *version);
        let resource = served.iter().find(of_kind);
        let resource = resource.ok_or_else(|| format!("no matches for kind {kind:?} in version {version:?}"))?;
        let path = format!("{}/scale", resource.path(namespace, &owner.name));
        match self.client.raw(Method::GET, &path, None).await {
            Ok(body) => Ok(read(&body, &owner.uid)),
            Err(error) if error.is_not_found() => {
                let group = resource.path("", "");
                let group = group.strip_suffix(&format!("/{}", resource.resource)).unwrap_or_default();
                let body = self.client.raw(Method::GET, group, None).await.map_err(text)?;
                if scales(&body, &resource.resource) {
                    return Ok(None);
                }
                let dot = if resource.group.is_empty() { "" } else { "." };
                let named = format!("{}{dot}{}", resource.resource, resource.group);
                Err(format!("{named} does not implement the scale subresource"))
            }
            Err(error) => Err(text(error)),
        }
    }
}

/// `spec.replicas`, 1 where absent.
fn replicas(given: Option<i32>) -> i32 {
    given.unwrap_or(1)
}

/// The uid and replicas of a Scale, if it is of the object with this uid.
fn read(scale: &[u8], uid: &str) -> Option<(String, i32)> {
    let scale: Value = serde_json::from_slice(scale).ok()?;
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    (scale["metadata"]["uid"] == uid).then(|| (uid.to_owned(), i32::try_from(replicas).unwrap_or(i32::MAX)))
}

/// Whether the discovery of a group version has the scale subresource of a resource.
fn scales(list: &[u8], resource: &str) -> bool {
    let Ok(list) = serde_json::from_slice::<Value>(list) else { return false };
    let name = format!("{resource}/scale");
    list["resources"].as_array().into_iter().flatten().any(|one| one["name"] == name.as_str() && one["kind"] == "Scale")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_and_discovery_are_read() {
        let scale = br#"{"metadata": {"uid": "u"}, "spec": {"replicas": 3}}"#;
        assert_eq!(read(scale, "u"), Some(("u".to_owned(), 3)));
        assert_eq!(read(scale, "other"), None, "it was made anew under this name");
        assert_eq!(read(br#"{"metadata": {"uid": "u"}, "spec": {}}"#, "u"), Some(("u".to_owned(), 0)));
        let list =
            br#"{"resources": [{"name": "things", "kind": "Thing"}, {"name": "things/scale", "kind": "Scale"}]}"#;
        assert!(scales(list, "things") && !scales(list, "others") && !scales(b"{", "things"));
    }
}
