//! TaintNodesByCondition: a new node has the taint not-ready until the node life cycle controller removes it.

use api::{Object, Status};
use serde_json::{Value, json};
use server::admission::{Admission, Attributes};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) struct TaintNodesByCondition;

#[async_trait::async_trait]
impl Admission for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.creates("", "nodes")
    }

    async fn admit(&self, _attributes: &Attributes, object: &mut Object) -> Result<(), Status> {
        let taints = object.entry(&["spec", "taints"]);
        if !taints.is_array() {
            *taints = json!([]);
        }
        let list = taints.as_array_mut().expect("made an array above");
        let there = |taint: &Value| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule";
        if !list.iter().any(there) {
            list.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}
