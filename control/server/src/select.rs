//! Label and field selectors of a list, watch or deletecollection, evaluated on the parsed labels and fields of an entry.

use crate::{Resource, payload::View, request::Query};
use api::{
    Status,
    selector::{FieldSelector, Selector},
};

/// One requirement on a field.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    label: String,
    value: String,
    equal: bool,
}

/// A label and a field selector.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    labels: Selector,
    fields: Vec<Requirement>,
}

impl Filter {
    /// Parses `labelSelector` and `fieldSelector`; 400 for a syntax error or a field that cannot be selected.
    pub(crate) fn parse(query: &Query, resource: &Resource, name: Option<&str>) -> Result<Self, Status> {
        let labels = Selector::parse(query.get("labelSelector").unwrap_or_default()).map_err(|e| {
            Status::bad_request(format!(
                "unable to parse requirement: {}",
                e.trim_start_matches("unable to parse requirement: ")
            ))
        })?;
        let fields =
            FieldSelector::parse(query.get("fieldSelector").unwrap_or_default()).map_err(Status::bad_request)?;
        let mut requirements = Vec::new();
        for r in fields.requirements() {
            if !known(resource, &r.field) {
                return Err(Status::bad_request(resource.strategy.unknown_field(&r.field)));
            }
            requirements.push(Requirement { label: r.field.clone(), value: r.value.clone(), equal: r.equal });
        }
        if let Some(name) = name {
            requirements.push(Requirement { label: "metadata.name".into(), value: name.into(), equal: true });
        }
        Ok(Self { labels, fields: requirements })
    }

    /// Whether every object is selected.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The name, if the selector requires one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields.iter().find(|r| r.equal && r.label == "metadata.name").map(|r| r.value.as_str())
    }

    /// Whether an object is selected. `namespace` and `name` come from the key.
    pub(crate) fn matches(&self, resource: &Resource, namespace: &str, name: &str, view: &View) -> bool {
        let fields = self.fields.iter().all(|r| {
            let value = match r.label.as_str() {
                "metadata.name" => name,
                "metadata.namespace" => namespace,
                label => view.field(resource, label).unwrap_or_default(),
            };
            (value == r.value) == r.equal
        });
        fields && (self.labels.is_empty() || self.labels.matches(|key| view.label(key)))
    }
}

/// Whether a field can be selected. Kinds with selectable fields list all of them, so that cluster-scoped ones do not list the namespace; for
/// other kinds both metadata fields can be selected.
fn known(resource: &Resource, field: &str) -> bool {
    let own = resource.strategy.selectable();
    match field {
        "metadata.name" => true,
        "metadata.namespace" => resource.namespaced || own.is_empty(),
        field => own.position(field).is_some(),
    }
}

/// Namespace and name from a key of the resource.
pub(crate) fn identity<'a>(resource: &Resource, prefix: &str, key: &'a str) -> (&'a str, &'a str) {
    let rest = key.get(prefix.len()..).unwrap_or_default();
    if resource.namespaced { rest.split_once('/').unwrap_or(("", rest)) } else { ("", rest) }
}
