//! Lease: heartbeats and leader election (coordination.k8s.io).

use crate::{at::At, cells};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Holder", "holderIdentity contains the identity of the holder of a current lease."),
    Column::age(),
];

/// Fields of the feature gate CoordinatedLeaderElection, which is off: dropped unless the stored object has them.
const COORDINATED: &[&str] = &["strategy", "preferredHolder"];

pub(crate) struct Leases;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new("coordination.k8s.io", "v1", "leases", "Lease", Leases).creating_on_update().conditional_update_only()
}

impl Strategy for Leases {
    fn allows_any_finalizer(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Object) {
        crate::edit::object(&mut object.0, "spec");
    }

    fn prepare_create(&self, _cx: &Context, object: &mut Object) {
        COORDINATED.iter().for_each(|field| drop(object.remove(&["spec", field])));
    }

    fn prepare_update(&self, _cx: &Context, object: &mut Object, old: &Object) {
        for field in COORDINATED.iter().filter(|field| old.at(&["spec", field]).is_none()) {
            object.remove(&["spec", field]);
        }
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        let spec = At::of(object, "spec");
        let duration = spec.get("leaseDurationSeconds");
        if duration.int().is_some_and(|n| n <= 0) {
            out.push(duration.invalid("must be greater than 0"));
        }
        spec.get("leaseTransitions").not_negative(&mut out);
        let strategy = spec.get("strategy");
        if strategy.is_set() && strategy.str() != "OldestEmulationVersion" {
            let problems = api::names::qualified_name(strategy.str());
            strategy.invalid_all(problems, &mut out);
        }
        if !spec.get("preferredHolder").is_empty() && strategy.is_empty() {
            out.push(spec.get("preferredHolder").forbidden("may only be specified if `strategy` is defined"));
        }
        out
    }
}

impl TableConvertor for Leases {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let holder = cells::text(object, &["spec", "holderIdentity"]);
        vec![json!(object.name()), json!(holder), cells::age(object, now)]
    }
}
