//! The pods of hollow nodes: what a node reports of a pod whose containers start at once, are always ready, and stop when they are told.

use crate::{Options, addresses, addresses::Addresses, number};
use anyhow::bail;
use client::{Client, Controller, DeleteOptions, Delta, Informer, Key, Next, Patch, Wakeups, meta};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, OnceLock},
};

/// Reports the pods of the nodes; a controller whose keys are those of the pods.
pub(crate) struct Pods {
    client: Client,
    pods: Informer<Pod>,
    addresses: Arc<Addresses>,
    options: Options,
    /// Set once the addresses of pods of earlier runs are recorded.
    recorded: OnceLock<()>,
}

/// What a node does about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// Its containers run.
    Start,
    /// Its containers have ended by themselves.
    Finish,
    /// Its containers have ended because they were told to: the pod goes.
    Remove,
}

fn step(pod: &Pod) -> Step {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    if pod.metadata.deletion_timestamp.is_some() {
        return Step::Remove;
    }
    if matches!(phase, "Succeeded" | "Failed") {
        return Step::Nothing;
    }
    if meta::controller_of(&pod.metadata).is_some_and(|owner| owner.kind == "Job") {
        return Step::Finish;
    }
    let shown = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let shown = shown
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && (condition.status == "True") == gates_open(pod));
    if phase == "Running" && shown { Step::Nothing } else { Step::Start }
}

/// Whether every readiness gate of the pod is open.
fn gates_open(pod: &Pod) -> bool {
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let is_true = |kind: &str| {
        conditions.into_iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True")
    };
    gates.into_iter().all(|gate| is_true(&gate.condition_type))
}

/// The status of a pod whose containers run, or have ended with code 0.
fn status(pod: &Pod, (host, address): (Ipv4Addr, Ipv4Addr), ended: bool, now: Timestamp) -> Value {
    let now = api::time::rfc3339(now);
    let before = pod.status.as_ref();
    let started = before
        .and_then(|status| Some(api::time::rfc3339(status.start_time.as_ref()?.0)))
        .unwrap_or_else(|| now.clone());
    let ready = !ended && gates_open(pod);
    let condition = |kind: &str, is: bool| {
        let status = if is { "True" } else { "False" };
        let all = before.and_then(|status| status.conditions.as_ref());
        let same = all.into_iter().flatten().find(|condition| condition.type_ == kind && condition.status == status);
        let since = same.and_then(|condition| Some(api::time::rfc3339(condition.last_transition_time.as_ref()?.0)));
        let reason = match (is, ended) {
            (false, true) => json!("PodCompleted"),
            (false, false) => json!("ReadinessGatesNotReady"),
            (true, _) => Value::Null,
        };
        json!({"type": kind, "status": status, "reason": reason, "lastTransitionTime": since.unwrap_or_else(|| now.clone())})
    };
    let of = |container: &Container, stops: bool| {
        let uid = meta::uid(&pod.metadata);
        let id = format!("hollow://{uid}/{}", container.name);
        let image = container.image.clone().unwrap_or_default();
        let (ended, completed) = (stops || ended, "Completed");
        let state = match ended {
            true => {
                json!({"terminated": {"exitCode": 0, "reason": completed, "startedAt": started, "finishedAt": now, "containerID": id}})
            }
            false => json!({"running": {"startedAt": started}}),
        };
        json!({"name": container.name, "image": image, "imageID": image, "containerID": id, "restartCount": 0,
            "ready": stops || !ended, "started": !ended, "state": state, "lastState": {}})
    };
    let spec = pod.spec.clone().unwrap_or_default();
    let is_sidecar = |container: &Container| container.restart_policy.as_deref() == Some("Always");
    let first: Vec<Value> =
        spec.init_containers.iter().flatten().map(|container| of(container, !is_sidecar(container))).collect();
    let containers: Vec<Value> = spec.containers.iter().map(|container| of(container, false)).collect();
    let mut body = json!({
        "phase": if ended { "Succeeded" } else { "Running" },
        "conditions": [
            condition("PodReadyToStartContainers", !ended), condition("Initialized", true), condition("Ready", ready),
            condition("ContainersReady", !ended),
        ],
        "hostIP": host.to_string(), "hostIPs": [{"ip": host.to_string()}], "podIP": address.to_string(),
        "podIPs": [{"ip": address.to_string()}], "startTime": started, "containerStatuses": containers,
    });
    if !first.is_empty() {
        body["initContainerStatuses"] = json!(first);
    }
    body
}

impl Pods {
    pub(crate) fn new(client: Client, pods: Informer<Pod>, addresses: Arc<Addresses>, options: Options) -> Self {
        Self { client, pods, addresses, options, recorded: OnceLock::new() }
    }

    /// Records the addresses that pods of earlier runs have.
    fn record(&self) {
        self.recorded.get_or_init(|| {
            for pod in self.pods.list() {
                if let (Some(_), Some(IpAddr::V4(address))) = (self.node(&pod), shown(&pod)) {
                    self.addresses.keep(meta::uid(&pod.metadata), address);
                }
            }
        });
    }

    /// The number of the pod's node, if it is one of these.
    fn node(&self, pod: &Pod) -> Option<u32> {
        node_of(pod).filter(|node| *node < self.options.nodes)
    }

    async fn send(&self, pod: &Pod, node: u32, ended: bool) -> anyhow::Result<()> {
        let uid = meta::uid(&pod.metadata);
        let host = addresses::of_node(self.addresses.cidr(), node);
        let shares = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        let address = if shares { Some(host) } else { self.addresses.give(uid, node) };
        let Some(address) = address else { bail!("node {} has no address left for it", crate::name(node)) };
        let status = status(pod, (host, address), ended, self.options.clock.now());
        let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": status}));
        let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
        match self.client.patch_status::<Pod>(namespace, name, patch).await {
            // the pod is gone, or another has its name
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl Controller for Pods {
    const NAME: &'static str = "hollow-pods";

    fn wire(&self, wakeups: &mut Wakeups) {
        let addresses = self.addresses.clone();
        wakeups.on(&self.pods, move |delta| {
            let pod = delta.object();
            if node_of(pod).is_none() {
                return Vec::new();
            }
            if let Delta::Deleted { .. } = delta {
                addresses.free(meta::uid(&pod.metadata));
                return Vec::new();
            }
            vec![Key::of(&**pod)]
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        self.record();
        let Some(pod) = self.pods.find(key) else { return Ok(Next::Done) };
        let Some(node) = self.node(&pod) else { return Ok(Next::Done) };
        match step(&pod) {
            Step::Nothing => {}
            Step::Start => self.send(&pod, node, false).await?,
            Step::Finish => self.send(&pod, node, true).await?,
            Step::Remove => {
                if !is_finished(&pod) {
                    self.send(&pod, node, true).await?;
                }
                let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
                let options = DeleteOptions::uid(meta::uid(&pod.metadata)).grace(0);
                match self.client.delete::<Pod>(namespace, name, &options).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error.into()),
                    _ => {}
                }
            }
        }
        Ok(Next::Done)
    }
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn node_of(pod: &Pod) -> Option<u32> {
    number(pod.spec.as_ref()?.node_name.as_deref()?)
}

/// The address that the pod's status shows.
fn shown(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    #[test]
    fn each_state_of_a_pod_asks_for_one_step() {
        let job = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u", "controller": true}]);
        let gates = json!({"containers": [], "readinessGates": [{"conditionType": "mine"}]});
        let conditions = |ready: &str, mine: &str| json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}, {"type": "mine", "status": mine}]});
        for (value, expected) in [
            (json!({}), Step::Start),
            (json!({"status": conditions("True", "False")}), Step::Nothing),
            (json!({"metadata": {"ownerReferences": job}}), Step::Finish),
            (json!({"metadata": {"ownerReferences": job}, "status": {"phase": "Succeeded"}}), Step::Nothing),
            (json!({"status": {"phase": "Failed"}}), Step::Nothing),
            (
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Failed"}}),
                Step::Remove,
            ),
            (json!({"spec": gates, "status": conditions("False", "False")}), Step::Nothing),
            (json!({"spec": gates, "status": conditions("False", "True")}), Step::Start),
        ] {
            assert_eq!(step(&pod(value.clone())), expected, "{value}");
        }
    }

    #[test]
    fn a_status_is_what_a_kubelet_reports() {
        let pod = pod(json!({"metadata": {"uid": "u"}, "spec": {
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "c", "image": "x:1"}]}}));
        let (host, address) = (Ipv4Addr::new(240, 0, 0, 1), Ipv4Addr::new(240, 0, 0, 2));
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let running = status(&pod, (host, address), false, now);
        let ready = |status: &Value| {
            status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap()["status"].clone()
        };
        assert_eq!((&running["phase"], ready(&running)), (&json!("Running"), json!("True")));
        assert_eq!(running["podIPs"], json!([{"ip": "240.0.0.2"}]));
        let first = &running["initContainerStatuses"];
        assert_eq!((&first[0]["state"]["terminated"]["exitCode"], &first[0]["ready"]), (&json!(0), &json!(true)));
        assert_eq!(first[1]["state"]["running"]["startedAt"], "2026-01-01T00:00:00Z", "a sidecar runs on");
        let ended = status(&pod, (host, address), true, now);
        assert_eq!((&ended["phase"], ready(&ended)), (&json!("Succeeded"), json!("False")));
        assert_eq!(ended["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    }
}
