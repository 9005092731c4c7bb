//! Selects the pod and the container of `logs`, like kubectl (its `polymorphichelpers`, `podutils.ByLogging` and `podcmd`), with its
//! messages.

use api::selector::Selector;
use serde_json::Value;
use std::{cmp::Ordering, collections::BTreeMap};

/// The annotation that names the container to show.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

pub(super) fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap_or_default()
}

/// The pod selector of an object. `go` is its type in kubectl's errors.
pub(super) fn selector(kind: &str, go: &str, object: &Value) -> Result<String, String> {
    let selector = &object["spec"]["selector"];
    match kind {
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" => Selector::from_label_selector(selector)
            .map(|s| s.to_string())
            .map_err(|e| format!("invalid label selector: {e}")),
        "ReplicationController" | "Service" => {
            let pairs: BTreeMap<String, String> =
                selector.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), text(v))).collect();
            match pairs.is_empty() {
                true => Err(format!(
                    "invalid {} '{}': {kind} is defined without a selector",
                    kind.to_lowercase(),
                    name(object)
                )),
                false => Ok(pairs.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")),
            }
        }
        // Not something that is left to do: kubectl's own answer, word for word, about a kind that selects no pods
        _ => Err(format!("selector for {go} not implemented")),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Sorts the most interesting pod first: assigned, running, ready for long, restarted often, old.
pub(super) fn by_logging(a: &Value, b: &Value) -> Ordering {
    let unassigned = |pod: &Value| text(&pod["spec"]["nodeName"]).is_empty();
    let phase = |pod: &Value| match pod["status"]["phase"].as_str() {
        Some("Running") => 0,
        Some("Unknown") => 1,
        _ => 2,
    };
    // A missing time sorts after every time. RFC 3339 times in one zone compare as text.
    let since = |time: &Value| (time.as_str().is_none(), text(time));
    let ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array();
        let found = conditions.into_iter().flatten().find(|c| c["type"] == "Ready" && c["status"] == "True");
        (found.is_none(), found.map(|c| since(&c["lastTransitionTime"])))
    };
    let restarts = |pod: &Value| {
        let statuses = pod["status"]["containerStatuses"].as_array();
        statuses.into_iter().flatten().filter_map(|s| s["restartCount"].as_i64()).max().unwrap_or(0)
    };
    unassigned(a)
        .cmp(&unassigned(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| ready(a).cmp(&ready(b)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| since(&a["metadata"]["creationTimestamp"]).cmp(&since(&b["metadata"]["creationTimestamp"])))
}

/// The names of all containers.
pub(super) fn containers(pod: &Value) -> Vec<String> {
    let lists = ["initContainers", "containers", "ephemeralContainers"].map(|list| pod["spec"][list].as_array());
    lists.into_iter().flatten().flatten().map(|container| text(&container["name"])).collect()
}

/// Why an object has no pods and will get none by itself, so that there is no need to wait.
pub(super) fn why_none(kind: &str, object: &Value) -> Option<&'static str> {
    let has = |condition: &str| {
        let conditions = object["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|it| it["type"] == condition && it["status"] == "True")
    };
    match kind {
        "Deployment" | "ReplicaSet" | "StatefulSet" | "ReplicationController" => {
            (object["spec"]["replicas"] == 0).then_some("it is scaled to 0 replicas")
        }
        "Job" if has("Complete") || has("Failed") => Some("it is over, and its pods were removed"),
        "Job" if object["spec"]["suspend"] == true => Some("it is suspended"),
        "Job" if object["spec"]["completions"] == 0 || object["spec"]["parallelism"] == 0 => Some("it asks for none"),
        "DaemonSet"
            if object["status"]["observedGeneration"] == object["metadata"]["generation"]
                && object["status"]["desiredNumberScheduled"] == 0 =>
        {
            Some("no node is selected by it")
        }
        "Service" => Some("its selector finds none"),
        _ => None,
    }
}

/// Why a container waits, in its own message, because its reason alone does not say what is wrong.
pub(super) fn why_waiting(pod: &Value, container: &str) -> Option<String> {
    let lists = ["containerStatuses", "initContainerStatuses"].map(|list| pod["status"][list].as_array());
    let status = lists.into_iter().flatten().flatten().find(|status| status["name"] == container)?;
    let message = status["state"]["waiting"]["message"].as_str().filter(|message| !message.is_empty())?;
    Some(message.to_owned())
}

/// The container to show, and a note about the choice.
pub(super) fn container(pod: &Value, asked: Option<&str>) -> Result<(String, Option<String>), String> {
    let names = |field: &str, suffix: &str| -> Vec<(String, String)> {
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.map(|c| text(&c["name"])).map(|name| (name.clone(), format!("{name}{suffix}"))).collect()
    };
    let mut all = names("containers", "");
    let Some(first) = all.first().map(|(name, _)| name.clone()) else {
        return Err(format!("pod {} has no containers", name(pod)));
    };
    all.extend(names("ephemeralContainers", " (ephem)"));
    all.extend(names("initContainers", " (init)"));
    let has = |wanted: &str| all.iter().any(|(name, _)| name == wanted);
    if let Some(asked) = asked {
        return match has(asked) {
            true => Ok((asked.to_owned(), None)),
            false => Err(format!("container {asked} is not valid for pod {}", name(pod))),
        };
    }
    match pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str().filter(|n| !n.is_empty()) {
        Some(wanted) if has(wanted) => return Ok((wanted.to_owned(), None)),
        Some(wanted) => {
            return Ok((first, Some(format!("Default container name {wanted:?} not found in pod {}", name(pod)))));
        }
        None => {}
    }
    let shown: Vec<&str> = all.iter().map(|(_, shown)| shown.as_str()).collect();
    let told = (all.len() > 1).then(|| format!("Defaulted container {first:?} out of: {}", shown.join(", ")));
    Ok((first, told))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_are_read_from_what_has_pods() {
        let labels = json!({"spec": {"selector": {"matchLabels": {"app": "x"}}}});
        assert_eq!(selector("Deployment", "*v1.Deployment", &labels), Ok("app=x".into()));
        assert_eq!(selector("Job", "*v1.Job", &labels), Ok("app=x".into()));
        let plain = json!({"metadata": {"name": "s"}, "spec": {"selector": {"a": "1", "b": "2"}}});
        assert_eq!(selector("Service", "*v1.Service", &plain), Ok("a=1,b=2".into()));
        let none = json!({"metadata": {"name": "s"}, "spec": {}});
        let error = selector("Service", "*v1.Service", &none).expect_err("none");
        assert_eq!(error, "invalid service 's': Service is defined without a selector");
        let error = selector("ConfigMap", "*v1.ConfigMap", &none).expect_err("no pods");
        assert_eq!(error, "selector for *v1.ConfigMap not implemented");
    }

    #[test]
    fn the_pod_that_tells_most_comes_first() {
        let pod = |name: &str, node: &str, phase: &str, ready: Option<&str>, restarts: u32, created: &str| {
            let condition = ready.map(|since| json!({"type": "Ready", "status": "True", "lastTransitionTime": since}));
            json!({
                "metadata": {"name": name, "creationTimestamp": created}, "spec": {"nodeName": node},
                "status": {"phase": phase, "conditions": condition.into_iter().collect::<Vec<_>>(),
                    "containerStatuses": [{"restartCount": restarts}]}})
        };
        let order = [
            pod("ready-long", "n", "Running", Some("2026-01-01T00:00:00Z"), 0, "2026-01-01T00:00:05Z"),
            pod("ready", "n", "Running", Some("2026-01-01T00:00:09Z"), 5, "2026-01-01T00:00:00Z"),
            pod("restarted", "n", "Running", None, 3, "2026-01-01T00:00:00Z"),
            pod("old", "n", "Running", None, 0, "2026-01-01T00:00:00Z"),
            pod("young", "n", "Running", None, 0, "2026-01-01T00:00:07Z"),
            pod("unknown", "n", "Unknown", None, 9, "2026-01-01T00:00:00Z"),
            pod("pending", "n", "Pending", None, 9, "2026-01-01T00:00:00Z"),
            pod("unassigned", "", "Pending", None, 9, "2026-01-01T00:00:00Z"),
        ];
        let mut sorted: Vec<Value> = order.iter().rev().cloned().collect();
        sorted.sort_by(by_logging);
        assert_eq!(sorted.iter().map(name).collect::<Vec<_>>(), order.iter().map(name).collect::<Vec<_>>());
    }

    #[test]
    fn pods_that_will_not_come_are_not_waited_for() {
        let none = |kind: &str, object: Value| why_none(kind, &object);
        assert_eq!(none("Deployment", json!({"spec": {"replicas": 0}})), Some("it is scaled to 0 replicas"));
        assert_eq!(none("Deployment", json!({"spec": {"replicas": 1}})), None);
        let over = |condition: &str, status: &str| {
            none("Job", json!({"status": {"conditions": [{"type": condition, "status": status}]}}))
        };
        assert_eq!(over("Complete", "True"), Some("it is over, and its pods were removed"));
        assert!(over("Failed", "True").is_some() && over("Complete", "False").is_none());
        let daemon = |desired: i32| json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "desiredNumberScheduled": desired}});
        assert_eq!(
            (none("DaemonSet", daemon(0)), none("DaemonSet", daemon(1))),
            (Some("no node is selected by it"), None)
        );
        assert_eq!(none("Job", json!({"spec": {"suspend": true}})), Some("it is suspended"));
        assert_eq!(none("Job", json!({"spec": {"parallelism": 1}})), None);
        assert_eq!(none("Service", json!({})), Some("its selector finds none"));
    }

    #[test]
    fn a_container_that_waits_says_why() {
        let pod = json!({"status": {"containerStatuses": [
            {"name": "a", "state": {"waiting": {"reason": "CreateContainerError", "message": "it imports env::foo"}}},
            {"name": "b", "state": {"running": {}}}]}});
        assert_eq!(why_waiting(&pod, "a").as_deref(), Some("it imports env::foo"));
        assert_eq!((why_waiting(&pod, "b"), why_waiting(&pod, "c")), (None, None));
    }

    #[test]
    fn the_container_is_asked_for_annotated_or_the_first() {
        let mut pod = json!({"metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        let told = "Defaulted container \"a\" out of: a, b, i (init)".to_owned();
        assert_eq!(container(&pod, None), Ok(("a".into(), Some(told))));
        assert_eq!(container(&pod, Some("i")), Ok(("i".into(), None)));
        assert_eq!(container(&pod, Some("z")), Err("container z is not valid for pod p".into()));
        pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "b"});
        assert_eq!(container(&pod, None), Ok(("b".into(), None)));
        let single = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(container(&single, None), Ok(("a".into(), None)));
    }
}
