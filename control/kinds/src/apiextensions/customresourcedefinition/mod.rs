//! CustomResourceDefinition: names, versions and schemas of a custom resource. Follows upstream's
//! `apiextensions-apiserver/pkg/registry/customresourcedefinition`.

mod approval;
mod code;
mod conditions;
mod conversion;
mod open_api;
mod path;
mod structural;
mod validate;
mod version;

pub(crate) use self::conditions::is_true;

use self::validate::Known;
use crate::{at::At, cells, edit};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor};

const COLUMNS: &[Column] = &[Column::name(), Column::new("Created At", CREATED).date()];

const CREATED: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// Keeps a definition until its objects are deleted.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

struct Definitions;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", Definitions)
        .short(&["crd", "crds"])
        .category("api-extensions")
        .cluster_scoped()
        .with_generation()
        .with_status()
        .with_long_lists()
        .conditional_update_only()
}

/// The version that is stored.
fn storage_version(object: &Object) -> Option<String> {
    let versions = object.list_at(&["spec", "versions"]);
    versions.iter().find(|version| version["storage"] == true)?.get("name")?.as_str().map(str::to_owned)
}

/// Adds the storage version to those in which objects may be stored.
fn note_storage_version(object: &mut Object) {
    let Some(version) = storage_version(object) else { return };
    let mut known: Vec<Value> = object.list_at(&["status", "storedVersions"]).to_vec();
    if !known.iter().any(|one| *one == version) {
        known.push(version.into());
        object.set(&["status", "storedVersions"], known);
    }
}

impl Strategy for Definitions {
    fn default(&self, object: &mut Object) {
        let kind = object.str_at(&["spec", "names", "kind"]).unwrap_or_default().to_owned();
        let spec = edit::object(&mut object.0, "spec");
        let names = edit::object(spec, "names");
        if !kind.is_empty() {
            edit::fill_str(names, "singular", &kind.to_lowercase());
            edit::fill_str(names, "listKind", &format!("{kind}List"));
        }
        edit::fill(spec, "conversion", json!({"strategy": "None"}));
        let webhook = edit::object_if(spec, "conversion").and_then(|c| edit::object_if(c, "webhook"));
        let service =
            webhook.and_then(|w| edit::object_if(w, "clientConfig")).and_then(|c| edit::object_if(c, "service"));
        if let Some(service) = service {
            edit::fill(service, "port", 443);
        }
        if object.list_at(&["status", "storedVersions"]).is_empty() {
            note_storage_version(object);
        }
    }

    fn status_defaults_need_spec(&self) -> bool {
        true
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        let names = json!({"plural": "", "kind": ""});
        object.set(&["status"], json!({"conditions": null, "acceptedNames": names, "storedVersions": null}));
        note_storage_version(object);
    }

    fn prepare_update(&self, _cx: &Context, object: &mut Object, _old: &Object) {
        note_storage_version(object);
    }

    fn allows_any_finalizer(&self) -> bool {
        true
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        // A change is judged with the old object: what was accepted before may stay.
        if cx.operation == Operation::Create { validate::definition(object, None) } else { Vec::new() }
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        validate::definition(object, Some(old))
    }

    fn validate_status(&self, _cx: &Context, object: &Object, _old: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        validate::names(At::of(object, "status").get("acceptedNames"), &mut out);
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        let before = old.map(Known::formats).unwrap_or_default();
        let new = Known::formats(object).into_iter().filter(|format| !before.contains(format));
        new.map(|format| format!("unrecognized format {format:?}")).collect()
    }

    fn blocks_deletion(&self, object: &Object) -> bool {
        // The first DELETE only marks the definition; then its finalizer keeps it.
        !object.is_deleting()
    }

    fn begin_deletion(&self, cx: &Context, object: &mut Object) {
        let mut finalizers: Vec<String> = object.finalizers().into_iter().map(str::to_owned).collect();
        if !finalizers.iter().any(|name| name == CLEANUP) {
            finalizers.push(CLEANUP.to_owned());
            object.set(&["metadata", "finalizers"], finalizers);
        }
        let condition = json!({"type": "Terminating", "status": "True", "reason": "InstanceDeletionPending",
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
            "lastTransitionTime": api::time::rfc3339(cx.now)});
        let mut conditions: Vec<Value> = object.list_at(&["status", "conditions"]).to_vec();
        conditions.retain(|one| one["type"] != "Terminating");
        conditions.push(condition);
        object.set(&["status", "conditions"], conditions);
        // Upstream marks a definition by itself: that does not count, and there is no grace.
        let before = object.generation() - 1;
        object.set(&["metadata", "generation"], before);
        object.remove(&["metadata", "deletionGracePeriodSeconds"]);
    }
}

impl TableConvertor for Definitions {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, _now: Timestamp) -> Vec<Value> {
        let created = object.at(&["metadata", "creationTimestamp"]).cloned();
        vec![
            json!(cells::text(object, &["metadata", "name"])),
            created.unwrap_or_else(|| json!("0001-01-01T00:00:00Z")),
        ]
    }
}

#[cfg(test)]
mod tests;
