//! Reports why a pod has no node: the event FailedScheduling and the condition PodScheduled.

use crate::{
    handle::Handle,
    pod::{PodInfo, node_name},
};
use client::{EventType, Patch, reference};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use serde_json::{Value, json};
use std::sync::Arc;

/// A report about a pod.
pub(crate) struct Report {
    /// `Unschedulable` or `SchedulerError`.
    pub(crate) reason: &'static str,
    /// Upstream's message.
    pub(crate) message: String,
    /// The nominated node; `Some` of nothing clears it, `None` leaves it as it is.
    pub(crate) nominated: Option<String>,
}

/// How often the condition is written after conflicts.
const ATTEMPTS: u32 = 5;

/// Records the event, and writes the condition if it differs.
pub(crate) async fn report(handle: &Handle, pod: &PodInfo, report: Report) {
    handle.recorder.event(&reference(&*pod.pod), EventType::Warning, "FailedScheduling", report.message.clone());
    if let Err(error) = write(handle, pod.pod.clone(), &report).await {
        let meta = &pod.pod.metadata;
        let (namespace, name) = (meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""));
        tracing::warn!(pod = format!("{namespace}/{name}"), %error, "the condition PodScheduled could not be written");
    }
}

/// Writes the report into the pod if the pod is unchanged or still has no node: a slow report may come after the next attempt has bound it.
async fn write(handle: &Handle, mut pod: Arc<Pod>, report: &Report) -> Result<(), client::Error> {
    let mut attempt = 1;
    loop {
        let condition = condition(&pod, report.reason, &report.message, handle.clock.now());
        let Some(patch) = patch(&pod, condition, report.nominated.clone()) else { return Ok(()) };
        let meta = &pod.metadata;
        let (namespace, name) = (meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""));
        match handle.client.patch_status::<Pod>(namespace, name, Patch::Strategic(patch)).await {
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) if error.is_conflict() && attempt < ATTEMPTS => attempt += 1,
            other => return other.map(drop),
        }
        match handle.client.find::<Pod>(namespace, name).await? {
            Some(now) if now.metadata.uid == meta.uid && node_name(&now).is_empty() => pod = Arc::new(now),
            _ => return Ok(()),
        }
    }
}

/// The patch with what the pod does not have already; its precondition is this state of the pod.
fn patch(pod: &Pod, condition: Option<Value>, nominated: Option<String>) -> Option<Value> {
    let mut status = serde_json::Map::new();
    if let Some(condition) = condition {
        status.insert("conditions".to_owned(), json!([condition]));
    }
    let known = pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).unwrap_or("");
    if let Some(node) = nominated.filter(|node| known != node) {
        let node = if node.is_empty() { Value::Null } else { node.into() };
        status.insert("nominatedNodeName".to_owned(), node);
    }
    let meta = json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version});
    (!status.is_empty()).then(|| json!({"metadata": meta, "status": status}))
}

/// `PodScheduled` as false, unless the pod has this condition already.
fn condition(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> Option<Value> {
    let known = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let known = known.and_then(|c| c.iter().find(|c| c.type_ == "PodScheduled"));
    let unchanged = known.is_some_and(|c| {
        c.status == "False" && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message)
    });
    if unchanged {
        return None;
    }
    let since = known.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let since = since.map_or(now, |t| t.0);
    Some(json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": Time(since), "observedGeneration": pod.metadata.generation}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_is_written_once_and_keeps_its_time() {
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let mut p: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "7"}}))
            .expect("a pod");
        let told = |p: &Pod, message: &str, now| patch(p, condition(p, "Unschedulable", message, now), None);
        let patch = told(&p, "why", now).expect("a patch");
        let c = &patch["status"]["conditions"][0];
        assert_eq!(
            (c["status"].as_str(), c["lastTransitionTime"].as_str()),
            (Some("False"), Some("2026-01-01T00:00:00Z"))
        );
        p.status = serde_json::from_value(patch["status"].clone()).expect("a status");
        assert_eq!(told(&p, "why", now), None);
        let later = "2026-01-01T01:00:00Z".parse().expect("a time");
        let again = told(&p, "other", later).expect("a patch");
        assert_eq!(again["status"]["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
    }

    #[test]
    fn a_nominated_node_is_written_once() {
        let mut p: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "7"}}))
            .expect("a pod");
        let written = patch(&p, None, Some("n".into())).expect("a patch");
        assert_eq!(
            written,
            json!({"metadata": {"uid": "u", "resourceVersion": "7"}, "status": {"nominatedNodeName": "n"}})
        );
        p.status = serde_json::from_value(written["status"].clone()).expect("a status");
        assert_eq!(patch(&p, None, Some("n".into())), None);
        let cleared = patch(&p, None, Some(String::new())).expect("a patch");
        assert_eq!(cleared["status"], json!({"nominatedNodeName": null}));
        p.status = None;
        assert_eq!(patch(&p, None, Some(String::new())), None);
    }
}
