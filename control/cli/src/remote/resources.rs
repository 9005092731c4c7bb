//! The resources that the cluster serves, from aggregated discovery, and their names on the command line.

use anyhow::bail;
use client::Client;
use serde_json::Value;

/// A served resource in its preferred version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) kind: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    /// Whether it supports list.
    pub(crate) listed: bool,
}

impl Resource {
    /// The path of an object, or of the collection if `name` is empty.
    pub(crate) fn path(&self, namespace: &str, name: &str) -> String {
        let mut path = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if self.namespaced && !namespace.is_empty() {
            path = format!("{path}/namespaces/{namespace}");
        }
        path = format!("{path}/{}", self.plural);
        if name.is_empty() { path } else { format!("{path}/{name}") }
    }

    /// `deployment.apps/hello`, as kubectl names objects.
    pub(crate) fn label(&self, name: &str) -> String {
        match self.group.as_str() {
            "" => format!("{}/{name}", self.singular),
            group => format!("{}.{group}/{name}", self.singular),
        }
    }
}

/// All served resources, the preferred groups first.
pub(crate) struct Resources(Vec<Resource>);

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

impl Resources {
    /// Reads the discovery documents.
    pub(crate) async fn discover(client: &Client) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        for url in ["/api", "/apis"] {
            let answer = super::request(client, http::Method::GET, url, None, ACCEPT).await.map_err(super::explain)?;
            all.extend(parse(&super::decode(&answer.1)?));
        }
        Ok(Self(all))
    }

    /// The resources that can be listed, each kind once, in its preferred version.
    pub(crate) fn listed(&self) -> Vec<&Resource> {
        let mut all: Vec<&Resource> = Vec::new();
        for resource in self.0.iter().filter(|resource| resource.listed) {
            // Events are served in two groups.
            let known =
                |one: &&Resource| one.kind == resource.kind && (one.group == resource.group || one.kind == "Event");
            if !all.iter().any(known) {
                all.push(resource);
            }
        }
        all
    }

    /// Finds a resource by what users type: plural, singular, kind or short name, with or without the group.
    pub(crate) fn by_name(&self, name: &str) -> anyhow::Result<&Resource> {
        let wanted = name.to_lowercase();
        let (word, group) = wanted.split_once('.').map_or((wanted.as_str(), None), |(word, group)| (word, Some(group)));
        let found = self.0.iter().find(|r| {
            let named = r.plural == word || r.singular == word || r.kind.to_lowercase() == word;
            (named || r.short_names.iter().any(|s| s == word)) && group.is_none_or(|g| r.group == g)
        });
        match found {
            Some(resource) => Ok(resource),
            None => bail!("the server doesn't have a resource type {name:?}"),
        }
    }

    /// Like [`Resources::by_name`], and also the resources of a category such as `all`.
    pub(crate) fn expand(&self, name: &str) -> anyhow::Result<Vec<&Resource>> {
        let mut members: Vec<&Resource> = Vec::new();
        for resource in self.0.iter().filter(|r| r.categories.iter().any(|c| c == name)) {
            if !members.iter().any(|m| (&m.group, &m.plural) == (&resource.group, &resource.plural)) {
                members.push(resource);
            }
        }
        if members.is_empty() { Ok(vec![self.by_name(name)?]) } else { Ok(members) }
    }

    /// Finds a resource by `apiVersion` and `kind` of an object.
    pub(crate) fn by_kind(&self, api_version: &str, kind: &str) -> anyhow::Result<&Resource> {
        let gvk = api::GroupVersionKind::from_api_version(api_version, kind);
        let found = self.0.iter().find(|r| r.group == gvk.group && r.version == gvk.version && r.kind == gvk.kind);
        match found {
            Some(resource) => Ok(resource),
            None if is_kubernetes_own(&gvk.group) => {
                bail!("no matches for kind {kind:?} in version {api_version:?}: sampan does not have it yet")
            }
            None => bail!("no matches for kind {kind:?} in version {api_version:?}"),
        }
    }
}

/// Whether a group is Kubernetes' own: its kinds cannot be installed.
fn is_kubernetes_own(group: &str) -> bool {
    !group.contains('.') || group.ends_with(".k8s.io")
}

fn parse(list: &Value) -> Vec<Resource> {
    let mut all = Vec::new();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for group in list["items"].as_array().into_iter().flatten() {
        for version in group["versions"].as_array().into_iter().flatten() {
            for resource in version["resources"].as_array().into_iter().flatten() {
                let list = |field: &str| resource[field].as_array().into_iter().flatten().map(text).collect();
                all.push(Resource {
                    group: text(&group["metadata"]["name"]),
                    version: text(&version["version"]),
                    plural: text(&resource["resource"]),
                    kind: text(&resource["responseKind"]["kind"]),
                    singular: text(&resource["singularResource"]),
                    short_names: list("shortNames"),
                    categories: list("categories"),
                    namespaced: resource["scope"] == "Namespaced",
                    listed: resource["verbs"].as_array().is_some_and(|verbs| verbs.iter().any(|verb| verb == "list")),
                });
            }
        }
    }
    all
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// A namespaced resource of version v1.
    pub(in crate::remote) fn resource(group: &str, plural: &str, kind: &str, singular: &str) -> Resource {
        Resource {
            group: group.into(),
            version: "v1".into(),
            plural: plural.into(),
            kind: kind.into(),
            singular: singular.into(),
            short_names: Vec::new(),
            categories: vec!["all".into()],
            namespaced: true,
            listed: true,
        }
    }

    #[test]
    fn a_category_is_its_resources_in_their_preferred_version() {
        let mut older = resource("apps", "deployments", "Deployment", "deployment");
        older.version = "v1beta1".into();
        let secret = Resource { categories: Vec::new(), ..resource("", "secrets", "Secret", "secret") };
        let pods = resource("", "pods", "Pod", "pod");
        let all = Resources(vec![pods, secret, resource("apps", "deployments", "Deployment", "deployment"), older]);
        let found: Vec<String> =
            all.expand("all").expect("a category").iter().map(|r| format!("{}/{}", r.plural, r.version)).collect();
        assert_eq!(found, ["pods/v1", "deployments/v1"]);
        assert_eq!(all.expand("secrets").expect("a resource").len(), 1);
        assert!(all.expand("nope").is_err());
    }

    fn resources() -> Resources {
        let list = json!({"items": [{"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [{
            "resource": "deployments", "responseKind": {"kind": "Deployment"}, "scope": "Namespaced",
            "singularResource": "deployment", "shortNames": ["deploy"]}]}]}]});
        Resources(parse(&list))
    }

    #[test]
    fn users_name_resources_in_many_ways() {
        let all = resources();
        for name in ["deployments", "deployment", "Deployment", "deploy", "deployments.apps"] {
            assert_eq!(all.by_name(name).expect(name).plural, "deployments");
        }
        assert!(all.by_name("deployments.batch").is_err());
        assert_eq!(
            all.by_name("nope").expect_err("none").to_string(),
            "the server doesn't have a resource type \"nope\""
        );
    }

    #[test]
    fn a_kind_of_kubernetes_that_is_not_served_is_told_apart_from_a_wrong_one() {
        let refused = |version: &str| resources().by_kind(version, "X").expect_err("none").to_string();
        assert_eq!(refused("apps/v1"), "no matches for kind \"X\" in version \"apps/v1\": sampan does not have it yet");
        assert_eq!(refused("example.com/v1"), "no matches for kind \"X\" in version \"example.com/v1\"");
    }

    #[test]
    fn paths_and_labels() {
        let all = resources();
        let deployment = all.by_kind("apps/v1", "Deployment").expect("served");
        assert_eq!(deployment.path("n", "x"), "/apis/apps/v1/namespaces/n/deployments/x");
        assert_eq!(deployment.path("", ""), "/apis/apps/v1/deployments");
        assert_eq!(deployment.label("x"), "deployment.apps/x");
    }
}
