//! DefaultTolerationSeconds: pods tolerate a node that is not ready or unreachable for five minutes.

use api::{Object, Status};
use serde_json::{Value, json};
use server::admission::{Admission, Attributes, Operation};

pub(super) struct DefaultTolerationSeconds;

#[async_trait::async_trait]
impl Admission for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.is("", "pods") && attributes.context.operation != Operation::Delete
    }

    async fn admit(&self, _attributes: &Attributes, object: &mut Object) -> Result<(), Status> {
        for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let text = |toleration: &Value, name: &str| toleration[name].as_str().unwrap_or_default().to_owned();
            let tolerated = object.list_at(&["spec", "tolerations"]).iter().any(|toleration| {
                let (key, effect) = (text(toleration, "key"), text(toleration, "effect"));
                (key.is_empty() || key == taint) && (effect.is_empty() || effect == "NoExecute")
            });
            if tolerated {
                continue;
            }
            let list = object.entry(&["spec", "tolerations"]);
            if !list.is_array() {
                *list = json!([]);
            }
            let toleration =
                json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
            list.as_array_mut().expect("made an array above").push(toleration);
        }
        Ok(())
    }
}
