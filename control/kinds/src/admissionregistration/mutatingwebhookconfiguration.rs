//! MutatingWebhookConfiguration: webhooks that may change what is written.

use super::{GROUP, reserved, webhooks};
use crate::cells;
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor, strategy::Recheck};

const KIND: &str = "MutatingWebhookConfiguration";

/// The kind.
pub(crate) struct Configurations;

/// The resource.
pub(crate) fn resource() -> Resource {
    Resource::new(GROUP, "v1", "mutatingwebhookconfigurations", KIND, Configurations)
        .category("api-extensions")
        .cluster_scoped()
        .with_generation()
        .conditional_update_only()
}

impl Strategy for Configurations {
    fn default(&self, object: &mut Object) {
        webhooks::default(object, true);
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        // What is asked of an update depends on what is stored.
        if cx.operation == Operation::Update { Vec::new() } else { webhooks::validate(object, true) }
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        webhooks::validate_update(object, old, true)
    }

    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Whole
    }

    fn warnings(&self, _cx: &Context, object: &Object, _old: Option<&Object>) -> Vec<String> {
        reserved(object).into_iter().collect()
    }
}

impl TableConvertor for Configurations {
    fn columns(&self) -> &[Column] {
        webhooks::COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        vec![json!(object.name()), json!(object.list_at(&["webhooks"]).len()), cells::age(object, now)]
    }
}
