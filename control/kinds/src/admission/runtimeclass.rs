//! RuntimeClass: a pod gets the overhead, node selector and tolerations of its RuntimeClass.

use api::{Object, Status};
use serde_json::{Value, json};
use server::admission::{Admission, Attributes, forbidden};
use std::sync::Arc;

pub(super) struct RuntimeClass;

#[async_trait::async_trait]
impl Admission for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.creates("", "pods")
    }

    async fn admit(&self, attributes: &Attributes, object: &mut Object) -> Result<(), Status> {
        let Some(class) = class(attributes, object)? else { return Ok(()) };
        if let Some(fixed) = class.at(&["overhead", "podFixed"]) {
            let own = object.at(&["spec", "overhead"]);
            let empty = own.and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
            if !empty && own != Some(fixed) {
                let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                return Err(forbidden(attributes, object, why));
            }
            object.set(&["spec", "overhead"], fixed.clone());
        }
        for (key, value) in class.pairs(&["scheduling", "nodeSelector"]) {
            match object.str_at(&["spec", "nodeSelector", key]) {
                Some(own) if own != value => {
                    let why = format!(
                        "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
                    );
                    return Err(forbidden(attributes, object, &why));
                }
                _ => object.set(&["spec", "nodeSelector", key], value),
            }
        }
        let more = class.list_at(&["scheduling", "tolerations"]);
        if !more.is_empty() {
            let list = object.entry(&["spec", "tolerations"]);
            if !list.is_array() {
                *list = json!([]);
            }
            let list = list.as_array_mut().expect("made an array above");
            for toleration in more {
                if !list.contains(toleration) {
                    list.push(toleration.clone());
                }
            }
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        let wanted = class(attributes, object)?.and_then(|class| class.at(&["overhead", "podFixed"]).cloned());
        let own = object.at(&["spec", "overhead"]).filter(|o| o.as_object().is_some_and(|o| !o.is_empty()));
        match (wanted, own) {
            (Some(wanted), own) if own != Some(&wanted) => {
                let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                Err(forbidden(attributes, object, why))
            }
            (None, Some(_)) => {
                let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
                Err(forbidden(attributes, object, why))
            }
            _ => Ok(()),
        }
    }
}

fn class(attributes: &Attributes, object: &Object) -> Result<Option<Arc<Object>>, Status> {
    let Some(name) = object.str_at(&["spec", "runtimeClassName"]) else { return Ok(None) };
    match attributes.context.objects.get("node.k8s.io", "runtimeclasses", "", name) {
        Some(class) => Ok(Some(class)),
        None => Err(forbidden(attributes, object, &format!("pod rejected: RuntimeClass \"{name}\" not found"))),
    }
}
