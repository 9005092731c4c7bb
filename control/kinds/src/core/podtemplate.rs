//! PodTemplate: a stored pod template.

use crate::{Capabilities, at::At, cells, podspec};
use api::{Cause, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Column, Context, Resource, Strategy, TableConvertor};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new("Containers", "Names of each container in the template."),
    Column::new("Images", "Images referenced by each container in the template."),
    Column::new("Pod Labels", "The labels for the pod template."),
];

struct PodTemplates(Capabilities);

/// The resource.
pub(crate) fn resource(capabilities: &Capabilities) -> Resource {
    let templates = PodTemplates(capabilities.clone());
    Resource::new("", "v1", "podtemplates", "PodTemplate", templates).with_generation().returning_deleted()
}

impl Strategy for PodTemplates {
    fn default(&self, object: &mut Object) {
        podspec::default_template(&mut object.0);
    }

    fn validate(&self, _cx: &Context, object: &Object) -> Vec<Cause> {
        let mut out = Vec::new();
        podspec::validate_template(At::of(object, "template"), &mut out);
        out
    }

    fn warnings(&self, _cx: &Context, object: &Object, _old: Option<&Object>) -> Vec<String> {
        podspec::template_warnings(&self.0, At::of(object, "template"))
    }
}

impl TableConvertor for PodTemplates {
    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, _now: Timestamp) -> Vec<Value> {
        let template = At::of(object, "template");
        let [names, images] = cells::containers(template.get("spec"));
        let labels = cells::labels(object.at(&["template", "metadata", "labels"]));
        vec![json!(object.name()), names, images, json!(labels)]
    }
}
