//! Which kinds the server serves now, and their objects as metadata only: for the controllers that concern themselves with every kind.

use std::collections::{HashMap, hash_map::Entry};

use client::{Client, Error};
use http::Method;
use serde::Deserialize;

/// A kind in the version that its group prefers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    /// Group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// The other versions in which it is served.
    pub others: Vec<String>,
    /// Plural name, as in paths.
    pub resource: String,
    /// Kind.
    pub kind: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What can be done.
    pub verbs: Vec<String>,
}

impl Resource {
    /// Whether all of `verbs` are served.
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|v| self.verbs.iter().any(|w| w == v))
    }

    /// `group/version`, or the version alone.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `group/version` of every version in which it is served.
    pub fn api_versions(&self) -> impl Iterator<Item = String> {
        let other = |version: &String| Self { version: version.clone(), ..self.clone() }.api_version();
        std::iter::once(self.api_version()).chain(self.others.iter().map(other))
    }

    /// The path of a collection, or of one object; an empty namespace is all of them.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let mut path = format!("{root}/{}", self.api_version());
        if self.namespaced && !namespace.is_empty() {
            path.push_str(&format!("/namespaces/{namespace}"));
        }
        path.push_str(&format!("/{}", self.resource));
        if !name.is_empty() {
            path.push_str(&format!("/{name}"));
        }
        path
    }
}

#[derive(Deserialize)]
struct GroupList {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    versions: Vec<GroupVersion>,
    preferred_version: Option<GroupVersion>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    group_version: String,
}

#[derive(Deserialize)]
struct ResourceList {
    resources: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    kind: String,
    #[serde(default)]
    namespaced: bool,
    #[serde(default)]
    verbs: Vec<String>,
}

/// Every served kind once, in its preferred version where that has it; subresources are left out. A group that cannot be asked is told in the
/// second part and does not hide the others.
///
/// # Errors
/// When the list of groups cannot be had.
pub async fn resources(client: &Client) -> Result<(Vec<Resource>, Vec<String>), Error> {
    let groups: GroupList = get(client, "/apis").await?;
    let mut versions = vec!["v1".to_owned()];
    for group in groups.groups {
        let preferred = group.preferred_version.map(|v| v.group_version);
        versions.extend(preferred.clone());
        versions.extend(group.versions.into_iter().map(|v| v.group_version).filter(|v| Some(v) != preferred.as_ref()));
    }
    let (mut found, mut failures) = (HashMap::<(String, String), usize>::new(), Vec::new());
    let mut order: Vec<Resource> = Vec::new();
    for version in versions {
        let root = if version.contains('/') { "/apis" } else { "/api" };
        match get::<ResourceList>(client, &format!("{root}/{version}")).await {
            Ok(list) => {
                for resource in list.resources.into_iter().filter_map(|e| resource(&version, e)) {
                    let key = (resource.group.clone(), resource.resource.clone());
                    match found.entry(key) {
                        Entry::Occupied(at) => order[*at.get()].others.push(resource.version),
                        Entry::Vacant(place) => {
                            place.insert(order.len());
                            order.push(resource);
                        }
                    }
                }
            }
            Err(error) => failures.push(format!("{version}: {error}")),
        }
    }
    Ok((order, failures))
}

fn resource(version: &str, entry: Named) -> Option<Resource> {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let whole = !entry.name.contains('/');
    whole.then(|| Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        others: Vec::new(),
        resource: entry.name,
        kind: entry.kind,
        namespaced: entry.namespaced,
        verbs: entry.verbs,
    })
}

async fn get<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> Result<T, Error> {
    let body = client.raw(Method::GET, path, None).await?;
    serde_json::from_slice(&body).map_err(|e| Error::Decode(format!("{path}: {e}")))
}
