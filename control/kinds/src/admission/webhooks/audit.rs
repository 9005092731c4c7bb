//! What audit is told of webhooks: keys and values of annotations.

use super::hook::Hook;
use serde_json::Value;

const MUTATION: &str = "mutation.webhook.admission.k8s.io/";
const PATCH: &str = "patch.webhook.admission.k8s.io/";
const VALIDATING: &str = "validating.webhook.admission.k8s.io/";

fn place(prefix: &str, round: usize, index: usize) -> String {
    format!("{prefix}round_{round}_index_{index}")
}

/// That a mutating webhook was called, and whether it changed the object. `index` is that among all webhooks.
pub fn mutation(hook: &Hook, round: usize, index: usize, mutated: bool) -> (String, String) {
    let (configuration, name) = (Value::from(hook.configuration.as_str()), Value::from(hook.name.as_str()));
    let value = format!("{{\"configuration\":{configuration},\"webhook\":{name},\"mutated\":{mutated}}}");
    (place(MUTATION, round, index), value)
}

/// The patch of a mutating webhook, for requests of which audit has the body.
pub fn patch(hook: &Hook, round: usize, index: usize, operations: &Value) -> (String, String) {
    let (configuration, name) = (Value::from(hook.configuration.as_str()), Value::from(hook.name.as_str()));
    let value = format!(
        "{{\"configuration\":{configuration},\"webhook\":{name},\"patch\":{operations},\"patchType\":\"JSONPatch\"}}"
    );
    (place(PATCH, round, index), value)
}

/// That a webhook could not be called, and the request went on. `index` of a validating webhook is that among those that were called.
pub fn failed_open(hook: &Hook, round: usize, index: usize) -> (String, String) {
    let prefix = if hook.mutating { MUTATION } else { VALIDATING };
    (place(&format!("failed-open.{prefix}"), round, index), hook.name.clone())
}
