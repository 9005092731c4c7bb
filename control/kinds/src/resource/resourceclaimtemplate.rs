//! ResourceClaimTemplate: what the claims of pods are made of.

use super::{GROUP, claims};
use crate::{Capabilities, at::At, cells, edit, podspec, rules};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor, strategy::Recheck};

const KIND: &str = "ResourceClaimTemplate";
const COLUMNS: &[Column] = &[Column::name(), Column::age()];

/// The kind.
pub(crate) struct Templates(pub(crate) Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    Resource::new(GROUP, "v1", "resourceclaimtemplates", KIND, Templates(capabilities.clone())).returning_deleted()
}

impl Strategy for Templates {
    fn default(&self, object: &mut Object) {
        let spec = edit::object_if(&mut object.0, "spec");
        spec.and_then(|spec| edit::object_if(spec, "spec")).into_iter().for_each(claims::default);
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        let (mut out, template) = (Vec::new(), At::of(object, "spec"));
        if cx.operation != Operation::Update {
            claims::admin_requests(cx, object, template.get("spec"), &mut out);
        }
        metadata(template.get("metadata"), &mut out);
        claims::validate(template.get("spec"), &mut out);
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let spec = At::of(object, "spec");
        if edit::deep_equal_at(object, old, &["spec"]) {
            return Vec::new();
        }
        vec![Cause::invalid_shown(&spec.field(), &shown(spec), "field is immutable")]
    }

    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn warnings(&self, _cx: &Context, _object: &Object, _old: Option<&Object>) -> Vec<String> {
        self.0.nothing_acts_on(KIND)
    }
}

/// Labels and annotations, and nothing else.
fn metadata(metadata: At<'_>, out: &mut Vec<Cause>) {
    podspec::annotation_keys(metadata.get("annotations"), out);
    rules::labels(metadata.get("labels"), out);
    // In the order of Go's type, and as upstream makes names of fields of those of Go.
    for name in [
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ] {
        if !metadata.get(name).is_empty() {
            let shown = if name == "uid" { "uID" } else { name };
            out.push(metadata.get(shown).forbidden("cannot be set"));
        }
    }
}

/// A template as Go prints it: the metadata is embedded, and not of an internal type.
fn shown(template: At<'_>) -> String {
    let metadata = ["labels", "annotations"].map(|name| (name, template.get("metadata").get(name)));
    let metadata =
        metadata.iter().filter(|(_, at)| !at.is_empty()).map(|(name, at)| format!("\"{name}\":{},", at.value()));
    let spec = template.get("spec").printed("io.k8s.api.resource.v1.ResourceClaimSpec");
    format!("{{{}\"Spec\":{spec}}}", metadata.collect::<String>())
}

impl TableConvertor for Templates {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        vec![json!(object.name()), cells::age(object, now)]
    }
}
