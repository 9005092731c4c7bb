//! DeviceClass: a kind of devices that may be claimed, and the configuration that each of them gets.

use super::{GROUP, claims::MAX_CONFIGS, config, lists};
use crate::{Capabilities, at::At, cells, edit};
use api::{Cause, Object, names};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor, strategy::Recheck};

const KIND: &str = "DeviceClass";
const COLUMNS: &[Column] = &[Column::name(), Column::age()];

/// The kind.
pub(crate) struct Classes(pub(crate) Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    Resource::new(GROUP, "v1", "deviceclasses", KIND, Classes(capabilities.clone()))
        .cluster_scoped()
        .with_generation()
        .returning_deleted()
}

impl Strategy for Classes {
    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        if cx.operation == Operation::Update { Vec::new() } else { all(object) }
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        if edit::deep_equal_at(object, old, &["spec"]) { Vec::new() } else { all(object) }
    }

    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Both
    }

    fn warnings(&self, _cx: &Context, _object: &Object, _old: Option<&Object>) -> Vec<String> {
        self.0.nothing_acts_on(KIND)
    }
}

fn all(object: &Object) -> Vec<Cause> {
    let (mut out, spec) = (Vec::new(), At::of(object, "spec"));
    config::selectors(spec.get("selectors"), &mut out);
    lists::each(spec.get("config"), MAX_CONFIGS, config::configuration, &mut out);
    let name = spec.get("extendedResourceName");
    if name.is_set() && !is_extended(name.str()) {
        out.push(name.invalid("must be a valid extended resource name"));
    }
    out
}

/// Whether a resource is neither one of Kubernetes nor a request in a quota.
fn is_extended(name: &str) -> bool {
    const REQUESTS: &str = "requests.";
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    !native && !name.starts_with(REQUESTS) && names::qualified_name(&format!("{REQUESTS}{name}")).is_empty()
}

impl TableConvertor for Classes {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        vec![json!(object.name()), cells::age(object, now)]
    }
}
