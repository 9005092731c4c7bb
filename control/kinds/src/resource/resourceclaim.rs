//! ResourceClaim: a claim to devices, and the devices that it has.

use super::{GROUP, claims, status};
use crate::{Capabilities, at::At, cells, edit};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor, strategy::Recheck};

const KIND: &str = "ResourceClaim";

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("State", "A summary of the current state (allocated, pending, reserved, etc.)."),
    Column::age(),
];

/// The kind.
pub(crate) struct Claims(pub(crate) Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    Resource::new(GROUP, "v1", "resourceclaims", KIND, Claims(capabilities.clone())).with_status().returning_deleted()
}

impl Strategy for Claims {
    fn default(&self, object: &mut Object) {
        edit::object_if(&mut object.0, "spec").into_iter().for_each(claims::default);
        edit::object(&mut object.0, "status");
        status::default(object);
    }

    fn prepare_status(&self, _cx: &Context, object: &mut Object, old: &Object) {
        status::forget_deallocated(object, old);
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        // What cannot change is not judged again.
        let (mut out, spec) = (Vec::new(), At::of(object, "spec"));
        if cx.operation != Operation::Update {
            claims::admin_requests(cx, object, spec, &mut out);
            claims::validate(spec, &mut out);
        }
        out
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        let spec = At::of(object, "spec");
        if edit::deep_equal_at(object, old, &["spec"]) {
            return Vec::new();
        }
        let shown = spec.printed("io.k8s.api.resource.v1.ResourceClaimSpec");
        vec![Cause::invalid_shown(&spec.field(), &shown, "field is immutable")]
    }

    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn validate_status(&self, cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        status::validate(cx, object, old)
    }

    fn warnings(&self, _cx: &Context, _object: &Object, _old: Option<&Object>) -> Vec<String> {
        self.0.nothing_acts_on(KIND)
    }
}

impl TableConvertor for Claims {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let status = At::of(object, "status");
        let (deleted, allocated) = (object.is_deleting(), status.get("allocation").is_set());
        let reserved = allocated && !status.get("reservedFor").is_empty();
        let states = [
            ("deleted", deleted),
            ("pending", !allocated && !deleted),
            ("allocated", allocated),
            ("reserved", reserved),
        ];
        let states: Vec<&str> = states.into_iter().filter(|(_, is)| *is).map(|(state, _)| state).collect();
        vec![json!(object.name()), json!(states.join(",")), cells::age(object, now)]
    }
}
