//! Notes about what an apply does not change: running containers keep the values of their environment variables, as in Kubernetes.

use super::{Outcome, Reached};
use client::ListOptions;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::Value;

/// A note for each Deployment whose containers keep older values of the applied ConfigMaps and Secrets.
pub(crate) async fn notes(reached: &Reached, outcomes: &[Outcome]) -> Vec<String> {
    let mut notes = Vec::new();
    for changed in outcomes.iter().filter(|outcome| outcome.verb == "configured") {
        let kind = match changed.object["kind"].as_str() {
            Some(kind @ ("ConfigMap" | "Secret")) => kind,
            _ => continue,
        };
        let text = |field: &str| changed.object["metadata"][field].as_str().unwrap_or_default();
        // A missing note is not a failure of the apply.
        let Ok(found) = reached.client.list::<Deployment>(text("namespace"), &ListOptions::default()).await else {
            continue;
        };
        for deployment in found.items {
            let Ok(deployment) = serde_json::to_value(&deployment) else { continue };
            let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
            let rolled = |outcome: &Outcome| {
                let same = |field: &str| outcome.object["metadata"][field] == deployment["metadata"][field];
                outcome.object["kind"] == "Deployment"
                    && outcome.verb != "unchanged"
                    && same("name")
                    && same("namespace")
            };
            if reads(&deployment["spec"]["template"]["spec"], kind, text("name")) && !outcomes.iter().any(rolled) {
                notes.push(note(name, text("namespace"), &changed.label, &reached.kubectl()));
            }
        }
    }
    notes
}

fn note(deployment: &str, namespace: &str, changed: &str, kubectl: &str) -> String {
    format!(
        "deployment/{deployment} has the values of {changed} from its start; to give it the new ones: {kubectl} rollout restart \
         -n {namespace} deployment/{deployment}"
    )
}

/// Whether a container has environment variables from the object. Volumes are updated by the node.
fn reads(pod: &Value, kind: &str, name: &str) -> bool {
    let (whole, one) = match kind {
        "ConfigMap" => ("configMapRef", "configMapKeyRef"),
        _ => ("secretRef", "secretKeyRef"),
    };
    let list = |of: &Value, field: &str| of[field].as_array().cloned().unwrap_or_default();
    ["containers", "initContainers"].iter().flat_map(|field| list(pod, field)).any(|container| {
        list(&container, "envFrom").iter().any(|from| from[whole]["name"] == name)
            || list(&container, "env").iter().any(|var| var["valueFrom"][one]["name"] == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_command_of_a_note_is_for_the_cluster_that_was_reached() {
        let told = note("hello", "default", "configmap/hello", "kubectl --kubeconfig /d/kubeconfig");
        assert!(
            told.ends_with(": kubectl --kubeconfig /d/kubeconfig rollout restart -n default deployment/hello"),
            "{told}"
        );
    }

    #[test]
    fn environment_variables_are_found_wherever_they_come_from() {
        let pod = |container: Value| json!({"containers": [{"name": "other"}, container]});
        let whole = pod(json!({"envFrom": [{"configMapRef": {"name": "c"}}]}));
        assert!(reads(&whole, "ConfigMap", "c") && !reads(&whole, "ConfigMap", "d") && !reads(&whole, "Secret", "c"));
        let one = pod(json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}));
        assert!(reads(&one, "Secret", "s") && !reads(&one, "ConfigMap", "s"));
        let init = json!({"initContainers": [{"envFrom": [{"secretRef": {"name": "s"}}]}]});
        assert!(reads(&init, "Secret", "s"));
        let volume = json!({"containers": [], "volumes": [{"configMap": {"name": "c"}}]});
        assert!(!reads(&volume, "ConfigMap", "c"), "files are kept up to date");
    }
}
