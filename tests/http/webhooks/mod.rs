//! Admission webhooks at the wire: a TLS server on loopback is asked about what clients write.

mod changes;
mod failures;
mod refusals;
mod requests;
mod server;

use self::server::{Hooks, ask, patch};
use super::*;

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// A webhook at a path of the server, for writes of ConfigMaps; `more` replaces what is different.
fn webhook(hooks: &Hooks, path: &str, more: Value) -> Value {
    let rule = json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["configmaps", "configmaps/*"]});
    let mut made = json!({
        "name": format!("{path}.example.com"), "clientConfig": hooks.config(path), "rules": [rule],
        "sideEffects": "None", "timeoutSeconds": 5, "admissionReviewVersions": ["v1"],
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        made[name] = value.clone();
    }
    made
}

/// The rule for resources of any group.
fn rules(resources: &[&str]) -> Value {
    json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources}])
}

/// Stores a configuration. It has no warning: somebody acts on it.
async fn configure(cluster: &Cluster, at: &str, name: &str, webhooks: Value) {
    let answer = cluster.post(at, json!({"metadata": {"name": name}, "webhooks": webhooks})).await;
    assert_eq!(warnings(&answer), [""; 0]);
    answer.ok();
}

/// The texts of the `Warning` headers.
fn warnings(answer: &Answer) -> Vec<String> {
    let text = |value: &http::HeaderValue| value.to_str().unwrap().replace("\\\"", "\"");
    let plain = |text: String| text.strip_prefix("299 - \"").unwrap().strip_suffix('"').unwrap().to_owned();
    answer.headers.get_all("warning").iter().map(text).map(plain).collect()
}

fn named(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"k": "v"}})
}
