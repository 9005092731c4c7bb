//! What the kinds of this group have in common: they are asked about a write before anybody knows what it is, and are checked once.

use super::{GROUP, reserved};
use crate::{cells, edit};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::Value;
use server::{Column, Context, Operation, Resource, Strategy, TableConvertor, strategy::Recheck};

/// What differs between them.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    pub(super) plural: &'static str,
    pub(super) kind: &'static str,
    pub(super) columns: &'static [Column],
    /// The cells of a row, but for the age.
    pub(super) cells: fn(&Object) -> Vec<Value>,
    pub(super) default: fn(&mut Object),
    /// The faults of an object, or of what replaces a stored one.
    pub(super) faults: fn(&Object, Option<&Object>) -> Vec<Cause>,
    /// The faults of a status, if it has one.
    pub(super) status: Option<fn(&Object) -> Vec<Cause>>,
}

impl Form {
    /// The resource.
    pub(crate) fn resource(self) -> Resource {
        let resource = Resource::new(GROUP, "v1", self.plural, self.kind, self)
            .category("api-extensions")
            .cluster_scoped()
            .with_generation()
            .conditional_update_only();
        if self.status.is_some() { resource.with_status() } else { resource }
    }
}

impl Strategy for Form {
    fn default(&self, object: &mut Object) {
        (self.default)(object);
        if self.status.is_some() {
            edit::object(&mut object.0, "status");
        }
    }

    fn validate(&self, cx: &Context, object: &Object) -> Vec<Cause> {
        // What is asked of an update depends on what is stored.
        if cx.operation == Operation::Update { Vec::new() } else { (self.faults)(object, None) }
    }

    fn validate_update(&self, _cx: &Context, object: &Object, old: &Object) -> Vec<Cause> {
        (self.faults)(object, Some(old))
    }

    fn rechecks_metadata(&self) -> Recheck {
        Recheck::Whole
    }

    fn validate_status(&self, _cx: &Context, object: &Object, _old: &Object) -> Vec<Cause> {
        self.status.map(|faults| faults(object)).unwrap_or_default()
    }

    fn warnings(&self, _cx: &Context, object: &Object, _old: Option<&Object>) -> Vec<String> {
        reserved(object).into_iter().collect()
    }
}

impl TableConvertor for Form {
    fn columns(&self) -> &[Column] {
        self.columns
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let mut row = (self.cells)(object);
        row.push(cells::age(object, now));
        row
    }
}
