//! Binds pods by the API.

use crate::{
    handle::{Cycle, Handle},
    plugin::{Plugin, Task},
    status::Failure,
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// Posts the Binding.
pub struct DefaultBinder;

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn bind<'a>(&'a self, handle: &'a Handle, cycle: &'a Cycle) -> Option<Task<'a>> {
        Some(Box::pin(async move {
            let (namespace, name) = cycle.key();
            let binding = json!({"apiVersion": "v1", "kind": "Binding",
                "metadata": {"name": name, "namespace": namespace, "uid": cycle.pod.pod.metadata.uid},
                "target": {"apiVersion": "v1", "kind": "Node", "name": cycle.node}});
            let target = (namespace, name, "binding");
            match handle.client.subresource::<Pod, _, Value>(http::Method::POST, target, &binding).await {
                Ok(_) => Ok(()),
                Err(error) if error.is_not_found() => Err(Failure::Canceled),
                Err(error) if error.is_conflict() => Err(Failure::Taken),
                Err(error) => Err(error.into()),
            }
        }))
    }
}
