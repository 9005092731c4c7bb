//! The paths of a resource with their operations, in the form that clients expect.

use crate::{Resource, Verb, codec};
use api::{GroupVersionKind, schema::openapi::definition_name};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// The OpenAPI version of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V2,
    V3,
}

/// Adds the paths of a resource.
pub(crate) fn add(paths: &mut Map<String, Value>, resource: &Resource, version: Version) {
    let gvr = &resource.gvr;
    let root = if gvr.group.is_empty() {
        format!("/api/{}", gvr.version)
    } else {
        format!("/apis/{}/{}", gvr.group, gvr.version)
    };
    let base = if resource.namespaced {
        format!("{root}/namespaces/{{namespace}}/{}", gvr.resource)
    } else {
        format!("{root}/{}", gvr.resource)
    };
    let writer = Writer { resource, version };
    let serves = |verb: Verb| resource.serves(verb);

    let mut collection = Map::new();
    for (verb, method) in [(Verb::List, "get"), (Verb::Create, "post"), (Verb::DeleteCollection, "delete")] {
        if serves(verb) {
            collection.insert(method.into(), writer.operation(verb, method, &resource.gvk(), ""));
        }
    }
    writer.put(paths, &base, collection, false, resource.namespaced);
    if resource.namespaced && serves(Verb::List) {
        let all = Map::from_iter([(
            "get".to_owned(),
            writer.operation(Verb::List, "get", &resource.gvk(), "ForAllNamespaces"),
        )]);
        writer.put(paths, &format!("{root}/{}", gvr.resource), all, false, false);
    }
    let mut named = Map::new();
    for (verb, method) in [(Verb::Get, "get"), (Verb::Update, "put"), (Verb::Patch, "patch"), (Verb::Delete, "delete")]
    {
        if serves(verb) {
            named.insert(method.into(), writer.operation(verb, method, &resource.gvk(), ""));
        }
    }
    writer.put(paths, &format!("{base}/{{name}}"), named, true, resource.namespaced);
    // What a proxy answers is the backend's affair.
    for sub in resource.subresources.iter().filter(|sub| !sub.serve.takes_path()) {
        let mut operations = Map::new();
        for verb in &sub.verbs {
            let method = match verb {
                Verb::Get => "get",
                Verb::Update => "put",
                Verb::Patch => "patch",
                Verb::Create => "post",
                _ => continue,
            };
            operations.insert(method.into(), writer.operation(*verb, method, &sub.kind, &capital(&sub.name)));
        }
        writer.put(paths, &format!("{base}/{{name}}/{}", sub.name), operations, true, resource.namespaced);
    }
}

/// The definition name of a kind: the published one, or one made from its group for a kind with a schema of its own.
pub(super) fn definition_of(resource: &Resource, kind: &GroupVersionKind) -> Option<Cow<'static, str>> {
    if let Some(name) = definition_name(kind) {
        return Some(name.into());
    }
    let own = resource.own_schema.is_some() && kind.group == resource.gvr.group && kind.version == resource.gvr.version;
    own.then(|| {
        let group: Vec<&str> = kind.group.rsplit('.').collect();
        format!("{}.{}.{}", group.join("."), kind.version, kind.kind).into()
    })
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

struct Writer<'a> {
    resource: &'a Resource,
    version: Version,
}

impl Writer<'_> {
    fn put(
        &self,
        paths: &mut Map<String, Value>,
        path: &str,
        mut operations: Map<String, Value>,
        named: bool,
        namespaced: bool,
    ) {
        if operations.is_empty() {
            return;
        }
        let mut parameters = Vec::new();
        if named {
            parameters.push(self.parameter("name", "path", "string", &format!("name of the {}", self.resource.kind)));
        }
        if namespaced {
            parameters.push(self.parameter(
                "namespace",
                "path",
                "string",
                "object name and auth scope, such as for teams and projects",
            ));
        }
        let pretty = "If 'true', then the output is pretty printed.";
        parameters.push(self.parameter("pretty", "query", "string", pretty));
        operations.insert("parameters".into(), Value::Array(parameters));
        paths.insert(path.into(), Value::Object(operations));
    }

    fn parameter(&self, name: &str, place: &str, kind: &str, description: &str) -> Value {
        let mut made = json!({"name": name, "in": place, "description": description});
        match self.version {
            Version::V3 => made["schema"] = json!({"type": kind, "uniqueItems": true}),
            Version::V2 => {
                made["type"] = json!(kind);
                made["uniqueItems"] = json!(true);
            }
        }
        if place == "path" {
            made["required"] = json!(true);
        }
        made
    }

    fn reference(&self, name: &str) -> Value {
        match self.version {
            Version::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
            Version::V2 => json!({"$ref": format!("#/definitions/{name}")}),
        }
    }

    fn schema(&self, kind: &GroupVersionKind) -> Value {
        definition_of(self.resource, kind).map_or_else(|| json!({"type": "object"}), |name| self.reference(&name))
    }

    fn operation(&self, verb: Verb, method: &str, kind: &GroupVersionKind, suffix: &str) -> Value {
        let (action, word) = match verb {
            Verb::Create => ("post", "create"),
            Verb::Delete => ("delete", "delete"),
            Verb::DeleteCollection => ("deletecollection", "delete collection of"),
            Verb::Get | Verb::Watch => ("get", "read the specified"),
            Verb::List => ("list", "list or watch objects of kind"),
            Verb::Patch => ("patch", "partially update the specified"),
            Verb::Update => ("put", "replace the specified"),
        };
        let gvr = &self.resource.gvr;
        let group = if gvr.group.is_empty() {
            "core".to_owned()
        } else {
            capital(gvr.group.split('.').next().unwrap_or_default())
        };
        let space = if self.resource.namespaced && suffix != "ForAllNamespaces" { "Namespaced" } else { "" };
        let id = format!("{}{}{}{space}{}{suffix}", action, capital(&group), capital(&gvr.version), self.resource.kind);
        let answer = match verb {
            Verb::List => {
                self.schema(&GroupVersionKind { kind: self.resource.list_kind.clone(), ..self.resource.gvk() })
            }
            Verb::Delete | Verb::DeleteCollection
                if !self.resource.returns_deleted_object || verb == Verb::DeleteCollection =>
            {
                self.reference("io.k8s.apimachinery.pkg.apis.meta.v1.Status")
            }
            _ => self.schema(kind),
        };
        let mut made = json!({
            "description": format!("{word} {}", self.resource.kind),
            "operationId": id,
            "tags": [format!("{}_{}", group.to_lowercase(), gvr.version)],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        });
        let mut parameters = self.parameters(verb);
        let created = matches!(verb, Verb::Create | Verb::Update | Verb::Patch);
        match self.version {
            Version::V3 => {
                let content = |schema: &Value| json!({"description": "OK", "content": {"application/json": {"schema": schema}, "application/yaml": {"schema": schema}}});
                made["responses"] = json!({"200": content(&answer), "401": {"description": "Unauthorized"}});
                if created {
                    made["responses"]["201"] = content(&answer);
                }
                if let Some(body) = self.body_v3(verb, kind) {
                    made["requestBody"] = body;
                }
            }
            Version::V2 => {
                made["consumes"] = if method == "patch" { json!(self.patch_types()) } else { json!(["*/*"]) };
                made["produces"] = json!(["application/json", "application/yaml"]);
                made["schemes"] = json!(["https"]);
                made["responses"] =
                    json!({"200": {"description": "OK", "schema": answer}, "401": {"description": "Unauthorized"}});
                if created {
                    made["responses"]["201"] = json!({"description": "Created", "schema": answer});
                }
                if let Some(schema) = self.body(verb, kind) {
                    let required = !matches!(verb, Verb::Delete | Verb::DeleteCollection);
                    parameters.push(json!({"name": "body", "in": "body", "required": required, "schema": schema}));
                }
            }
        }
        if !parameters.is_empty() {
            made["parameters"] = Value::Array(parameters);
        }
        made
    }

    fn body(&self, verb: Verb, kind: &GroupVersionKind) -> Option<Value> {
        match verb {
            Verb::Create | Verb::Update => Some(self.schema(kind)),
            Verb::Patch => Some(json!({"type": "object"})),
            Verb::Delete | Verb::DeleteCollection => {
                Some(self.reference("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"))
            }
            Verb::Get | Verb::List | Verb::Watch => None,
        }
    }

    /// Sorted, as upstream lists them.
    fn patch_types(&self) -> Vec<&'static str> {
        let mut types: Vec<&str> = codec::patch_types(self.resource.own_schema.is_some()).collect();
        types.sort_unstable();
        types
    }

    fn body_v3(&self, verb: Verb, kind: &GroupVersionKind) -> Option<Value> {
        let schema = self.body(verb, kind)?;
        if verb == Verb::Patch {
            let content: Map<String, Value> =
                self.patch_types().into_iter().map(|t| (t.to_owned(), json!({"schema": schema}))).collect();
            return Some(json!({"content": content, "required": true}));
        }
        Some(json!({"content": {"*/*": {"schema": schema}}}))
    }

    fn parameters(&self, verb: Verb) -> Vec<Value> {
        let write: &[(&str, &str, &str)] = &[
            (
                "dryRun",
                "string",
                "When present, indicates that modifications should not be persisted. The only valid value is All.",
            ),
            ("fieldManager", "string", "The name of the actor that makes these changes."),
            ("fieldValidation", "string", "What to do about unknown or duplicate fields: Ignore, Warn or Strict."),
        ];
        let read: &[(&str, &str, &str)] = &[
            ("allowWatchBookmarks", "boolean", "Whether the server may send events of type BOOKMARK."),
            ("continue", "string", "The token of the list that is continued."),
            ("fieldSelector", "string", "Restricts the objects by their fields."),
            ("labelSelector", "string", "Restricts the objects by their labels."),
            ("limit", "integer", "The most objects to return."),
            ("resourceVersion", "string", "Which versions of the data may be returned."),
            ("resourceVersionMatch", "string", "How resourceVersion is meant."),
            ("sendInitialEvents", "boolean", "Whether a watch begins with events for the objects that exist."),
            ("timeoutSeconds", "integer", "How long a watch lasts."),
            ("watch", "boolean", "Watch for changes instead of listing."),
        ];
        let delete: &[(&str, &str, &str)] = &[
            (
                "dryRun",
                "string",
                "When present, indicates that modifications should not be persisted. The only valid value is All.",
            ),
            ("gracePeriodSeconds", "integer", "How long the object may take to go, in seconds."),
            ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
            ("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
        ];
        let force: &[(&str, &str, &str)] =
            &[("force", "boolean", "Take fields over from other managers. Only for apply.")];
        let sets: &[&[(&str, &str, &str)]] = match verb {
            Verb::Create | Verb::Update => &[write],
            Verb::Patch => &[write, force],
            Verb::List | Verb::Watch => &[read],
            Verb::Delete => &[delete],
            Verb::DeleteCollection => &[delete, &read[1..7]],
            Verb::Get => &[],
        };
        let mut seen = Vec::new();
        let all = sets.iter().flat_map(|set| set.iter()).filter(|(name, ..)| {
            let new = !seen.contains(name);
            seen.push(name);
            new
        });
        all.map(|(name, kind, text)| self.parameter(name, "query", kind, text)).collect()
    }
}
