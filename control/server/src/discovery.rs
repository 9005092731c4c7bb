//! Discovery: the aggregated documents (v2 and v2beta1) and the legacy ones, built once per registry and kept as bytes with their ETag.

use crate::{
    Resource, Server, Subresource,
    aggregation::{discovery, found::Documents, outline::Outline},
    call::Call,
    lazy::SmallDocument,
    negotiate::{self, Clause, Media, Output, PROTOBUF},
    registry::Registry,
    reply,
};
use api::Status;
use axum::body::Body;
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::{collections::HashMap, sync::Arc};

/// The document that the client prefers: the aggregated one in a version, or the legacy one; in protobuf only if it accepts nothing else.
fn asked(headers: &HeaderMap) -> (Option<&'static str>, Media) {
    let clauses = negotiate::clauses(headers);
    let of = |clause: &Clause<'_>| match (clause.parameter("as"), clause.parameter("g"), clause.parameter("v")) {
        (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => Some(Some("v2")),
        (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => Some(Some("v2beta1")),
        (None, ..) => Some(None),
        _ => None,
    };
    let json = clauses.iter().find_map(|clause| match (clause.media, of(clause)) {
        ("application/json", found) => found,
        ("*/*" | "application/*", Some(None)) => Some(None),
        _ => None,
    });
    let protobuf = || clauses.iter().filter(|clause| clause.media == PROTOBUF).find_map(of);
    match json {
        Some(found) => (found, Media::Json),
        None => protobuf().map_or((None, Media::Json), |found| (found, Media::Protobuf)),
    }
}

/// Answers a discovery path; `None` if there is no such document.
pub(crate) async fn answer(server: &Server, call: &Call, path: &str) -> Result<Option<Response<Body>>, Status> {
    let registry = server.registry();
    let documents = registry.documents();
    let outline = discovery::outline(server, &registry);
    // Documents of what is served here alone are made once.
    let alone = outline.elsewhere().is_empty();
    let merged = |make: &dyn Fn() -> Option<Value>| make().map(|value| SmallDocument::new(&value));
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (aggregated, media) = asked(call.headers());
    let mut shown = None;
    let document = match segments.as_slice() {
        [root @ ("api" | "apis")] => match aggregated {
            Some(version) => {
                shown = Some(version);
                let core = *root == "api";
                if core || alone {
                    let make = || Some(aggregate(&registry, &outline, &HashMap::new(), core, version));
                    documents.small(&format!("{root} {version}"), make)
                } else {
                    let others = discovery::documents(server, &outline).await;
                    merged(&|| Some(aggregate(&registry, &outline, &others, core, version)))
                }
            }
            None => {
                let advertise = server.advertise().to_string();
                let make = || Some(legacy_root(&outline, *root == "api", &advertise));
                if alone || *root == "api" { documents.small(root, make) } else { merged(&make) }
            }
        },
        ["api", version] => documents.small(path, || resources(&registry, "", version)),
        ["apis", group] => {
            let make = || group_of(&outline, group);
            if alone { documents.small(path, make) } else { merged(&make) }
        }
        ["apis", group, version] => documents.small(path, || resources(&registry, group, version)),
        _ => return Ok(None),
    };
    let Some(document) = document else { return Ok(None) };
    // Only the roots support conditional requests, as upstream; the others are small.
    let output = Output { media, pretty: negotiate::pretty(call.headers(), &call.query), ..Output::default() };
    let matches = call.headers().get(header::IF_NONE_MATCH) == Some(&document.etag);
    let mut response = if matches {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        reply::json(StatusCode::OK, output, document.bytes.clone())
    };
    let headers = response.headers_mut();
    if let Some(version) = shown {
        let media = if media == Media::Protobuf { PROTOBUF } else { "application/json" };
        let media = format!("{media};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(&media).expect("a media type is a header value"));
        headers.insert(header::ETAG, document.etag);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    }
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    Ok(Some(response))
}

fn verbs(verbs: &[crate::Verb]) -> Value {
    let mut names: Vec<&str> = verbs.iter().map(|v| v.as_str()).collect();
    names.sort_unstable();
    json!(names)
}

/// The verbs of a resource. Upstream lists those of defined resources in an order of their own.
fn verbs_of(resource: &Resource) -> Value {
    let mut made = verbs(&resource.verbs);
    if let (Some(_), Some(names)) = (&resource.own_schema, made.as_array_mut()) {
        let create = names.iter().position(|name| name == "create").map(|at| names.remove(at));
        let after = names.iter().position(|name| name == "patch").map_or(0, |at| at + 1);
        names.splice(after..after, create);
    }
    made
}

fn kind_json(kind: &api::GroupVersionKind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn aggregate(
    registry: &Registry,
    outline: &Outline,
    others: &HashMap<(String, String), Documents>,
    core: bool,
    version: &str,
) -> Value {
    let groups = outline.groups().iter().filter(|group| group.name.is_empty() == core);
    let items: Vec<Value> = groups
        .map(|group| {
            let (group, versions) = (group.name.as_str(), &group.versions);
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let v = &version.name;
                    if version.elsewhere.is_some() {
                        let known = others.get(&(group.to_owned(), v.clone()));
                        return known.map_or_else(
                            || json!({"version": v, "freshness": "Stale"}),
                            |known| (*known.version).clone(),
                        );
                    }
                    let resources: Vec<Value> = registry.group_version(group, v).map(aggregated_resource).collect();
                    json!({"version": v, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items})
}

fn aggregated_resource(resource: &Arc<Resource>) -> Value {
    let mut made = Map::new();
    made.insert("resource".into(), json!(resource.gvr.resource));
    made.insert("responseKind".into(), kind_json(&resource.gvk()));
    made.insert("scope".into(), json!(if resource.namespaced { "Namespaced" } else { "Cluster" }));
    made.insert("singularResource".into(), json!(resource.singular));
    made.insert("verbs".into(), verbs_of(resource));
    if !resource.short_names.is_empty() {
        made.insert("shortNames".into(), json!(resource.short_names));
    }
    if !resource.categories.is_empty() {
        made.insert("categories".into(), json!(resource.categories));
    }
    if !resource.subresources.is_empty() {
        let one = |s: &Arc<Subresource>| json!({"subresource": s.name, "responseKind": kind_json(&s.kind), "verbs": verbs(&s.verbs)});
        made.insert("subresources".into(), resource.subresources.iter().map(one).collect());
    }
    Value::Object(made)
}

fn legacy_root(outline: &Outline, core: bool, advertise: &str) -> Value {
    if core {
        let own = outline.groups().iter().filter(|group| group.name.is_empty());
        let versions: Vec<&str> = own.flat_map(|group| &group.versions).map(|version| version.name.as_str()).collect();
        let addresses = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": advertise}]);
        return json!({"kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": addresses});
    }
    let names = outline.groups().iter().map(|group| group.name.as_str()).filter(|name| !name.is_empty());
    let groups: Vec<Value> = names.filter_map(|name| group_value(outline, name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group_value(outline: &Outline, group: &str) -> Option<Value> {
    let found = outline.groups().iter().find(|one| one.name == group)?;
    let one = |v: &String| json!({"groupVersion": format!("{group}/{v}"), "version": v});
    let all: Vec<Value> = found.versions.iter().map(|version| &version.name).map(one).collect();
    Some(json!({"name": group, "versions": all, "preferredVersion": all.first()?}))
}

fn group_of(outline: &Outline, group: &str) -> Option<Value> {
    let mut value = group_value(outline, group).filter(|_| !group.is_empty())?;
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Some(value)
}

/// `v1` APIResourceList, with its fields in the order of Go's type: scripts cut lines out of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceList {
    kind: &'static str,
    /// The oldest of these documents has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    group_version: String,
    resources: Vec<Listed>,
}

/// `v1` APIResource: a resource or a subresource.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: String,
    singular_name: String,
    namespaced: bool,
    /// Of the kind, where it is in another group or version than the list.
    #[serde(flatten)]
    foreign: Option<Foreign>,
    kind: String,
    verbs: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    short_names: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    categories: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_version_hash: Option<String>,
}

#[derive(Serialize)]
struct Foreign {
    group: String,
    version: String,
}

fn resources(registry: &Registry, group: &str, version: &str) -> Option<ResourceList> {
    let listed = |resource: &Arc<Resource>| {
        let own = Listed {
            name: resource.gvr.resource.clone(),
            singular_name: resource.singular.clone(),
            namespaced: resource.namespaced,
            foreign: None,
            kind: resource.kind.clone(),
            verbs: verbs_of(resource),
            short_names: resource.short_names.clone(),
            categories: resource.categories.clone(),
            storage_version_hash: resource.action.is_none().then(|| storage_version_hash(resource)),
        };
        let sub = |sub: &Arc<Subresource>| Listed {
            name: format!("{}/{}", resource.gvr.resource, sub.name),
            singular_name: String::new(),
            namespaced: resource.namespaced,
            foreign: (sub.kind.group != group || sub.kind.version != version)
                .then(|| Foreign { group: sub.kind.group.clone(), version: sub.kind.version.clone() }),
            kind: sub.kind.kind.clone(),
            verbs: verbs(&sub.verbs),
            short_names: Vec::new(),
            categories: Vec::new(),
            storage_version_hash: None,
        };
        std::iter::once(own).chain(resource.subresources.iter().map(sub)).collect::<Vec<_>>()
    };
    let resources: Vec<Listed> = registry.group_version(group, version).flat_map(listed).collect();
    if resources.is_empty() {
        return None;
    }
    let (group_version, api_version) =
        if group.is_empty() { (version.to_owned(), None) } else { (format!("{group}/{version}"), Some("v1")) };
    Some(ResourceList { kind: "APIResourceList", api_version, group_version, resources })
}

/// All versions of a defined resource have the hash of the stored one.
fn storage_version_hash(resource: &Resource) -> String {
    let own = format!("{}/{}", resource.gvr.group, resource.gvr.version);
    let stored = if resource.own_schema.is_some() { &resource.storage_version } else { &own };
    BASE64_STANDARD.encode(&Sha256::digest(format!("{stored}/{}", resource.kind))[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::OwnSchema;

    #[test]
    fn the_aggregated_document_is_protobuf_for_who_accepts_nothing_else() {
        let asked =
            |text: &'static str| asked(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(text))]));
        for (text, wanted) in [
            ("", (None, Media::Json)),
            ("text/html", (None, Media::Json)),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
                (Some("v2"), Media::Json),
            ),
            (
                "application/json,application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                (None, Media::Json),
            ),
            ("application/vnd.kubernetes.protobuf,application/json", (None, Media::Json)),
            ("application/vnd.kubernetes.protobuf", (None, Media::Protobuf)),
            (
                "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
                (Some("v2beta1"), Media::Protobuf),
            ),
            (
                "application/vnd.kubernetes.protobuf;g=x;v=v2;as=Table,application/vnd.kubernetes.protobuf",
                (None, Media::Protobuf),
            ),
        ] {
            assert_eq!(asked(text), wanted, "{text}");
        }
    }

    #[test]
    fn verbs_of_defined_resources_have_upstreams_order() {
        let plain = Resource::new("a.b", "v1", "ts", "T", crate::strategy::Plain);
        let built_in = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        assert_eq!(verbs_of(&plain), json!(built_in));
        let own = plain.with_own_schema(Arc::new(OwnSchema::new(&json!({"type": "object"}))));
        let defined = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
        assert_eq!(verbs_of(&own), json!(defined));
    }
}
