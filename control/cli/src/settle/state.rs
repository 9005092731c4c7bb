//! Whether an applied object is ready, according to it and its pods. Pure.
//!
//! Pods are checked in addition to the object, whose status may be from before a restart of the cluster.

use client::{
    fit::resources::{Amount, Resources, requests},
    pod::is_ready,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::Job,
    core::v1::{ContainerStatus, Node, Pod},
};

/// The state of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is ready, or needs no waiting.
    Done,
    /// The missing parts.
    Waiting(String),
    /// It failed.
    Failed(String),
}

/// Why an object is not ready, according to its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The pod that reports it: `pod/hello-1`.
    pub(super) object: String,
    /// One word, such as `ErrImagePull`.
    pub(super) reason: String,
    pub(super) message: String,
    /// It cannot recover by itself.
    pub(super) lasting: bool,
    /// It may be older than the apply, because its pod is.
    pub(super) old: bool,
    /// The arguments of kubectl that show the container's output.
    pub(super) output: Option<String>,
}

/// The reason of a pod that fits no node at the moment.
pub(super) const UNSCHEDULED: &str = "FailedScheduling";
/// Waiting reasons of containers that are no problem.
const ON_THE_WAY: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// Reasons that persist until the user changes something.
const LASTING: [&str; 8] = [
    "ErrImagePull",
    PULL_BACK_OFF,
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    CRASHING,
];
/// Of these, the ones whose retry the node reports within a second.
const AT_ONCE: [&str; 2] = ["InvalidImageName", "ErrImageNeverPull"];
/// The reason of a container that waits for the next pull attempt.
pub(super) const PULL_BACK_OFF: &str = "ImagePullBackOff";
/// The reason of a container that repeatedly exits.
const CRASHING: &str = "CrashLoopBackOff";

/// A Deployment is ready when all pods of its newest template are ready and no other pod is left.
pub(super) fn deployment(found: &Deployment, pods: &[Pod]) -> State {
    let spec = found.spec.as_ref();
    if spec.is_some_and(|spec| spec.paused == Some(true)) {
        return State::Done;
    }
    let wanted = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let status = found.status.clone().unwrap_or_default();
    let seen = status.observed_generation.unwrap_or(0) >= found.metadata.generation.unwrap_or(0);
    let updated = status.updated_replicas.unwrap_or(0);
    let rolled = seen && updated >= wanted && status.replicas.unwrap_or(0) <= updated;
    let told = status.ready_replicas.unwrap_or(0).min(status.available_replicas.unwrap_or(0));
    replicas(wanted, told, rolled, pods)
}

/// A ReplicaSet is ready when all of its pods are.
pub(super) fn replica_set(found: &ReplicaSet, pods: &[Pod]) -> State {
    let wanted = found.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = found.status.clone().unwrap_or_default();
    let seen = status.observed_generation.unwrap_or(0) >= found.metadata.generation.unwrap_or(0);
    replicas(wanted, status.available_replicas.unwrap_or(0), seen, pods)
}

/// A StatefulSet is ready when all pods that an update reaches have the newest template, all are ready and no other is left.
pub(super) fn stateful_set(found: &StatefulSet, pods: &[Pod]) -> State {
    let spec = found.spec.as_ref();
    let wanted = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let strategy = spec.and_then(|spec| spec.update_strategy.as_ref());
    let partition = strategy.and_then(|strategy| strategy.rolling_update.as_ref()?.partition).unwrap_or(0);
    let status = found.status.clone().unwrap_or_default();
    let seen = status.observed_generation.unwrap_or(0) >= found.metadata.generation.unwrap_or(0);
    let on_delete = strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete"));
    let updated = on_delete || status.updated_replicas.unwrap_or(0) >= wanted - partition.clamp(0, wanted.max(0));
    let told = status.ready_replicas.unwrap_or(0).min(status.available_replicas.unwrap_or(0));
    replicas(wanted, told, seen && updated && status.replicas <= wanted, pods)
}

/// A DaemonSet is ready when each of its nodes has a ready pod of the newest template.
pub(super) fn daemon_set(found: &DaemonSet, pods: &[Pod]) -> State {
    let status = found.status.clone().unwrap_or_default();
    let wanted = status.desired_number_scheduled;
    let seen = status.observed_generation.unwrap_or(0) >= found.metadata.generation.unwrap_or(0);
    let strategy = found.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let on_delete = strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete"));
    let updated = on_delete || status.updated_number_scheduled.unwrap_or(0) >= wanted;
    if !seen {
        return State::Waiting("not looked at yet".to_owned());
    }
    replicas(wanted, status.number_available.unwrap_or(0), updated, pods)
}

/// Both status and pods are needed: the status may be stale, and pods may have an older template.
fn replicas(wanted: i32, told: i32, current: bool, pods: &[Pod]) -> State {
    let ready = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && is_ready(pod)).count();
    let ready = told.min(i32::try_from(ready).unwrap_or(i32::MAX));
    match current && ready >= wanted {
        true => State::Done,
        false if ready >= wanted => State::Waiting(format!("{wanted}/{wanted} ready, with others that are to go")),
        false => State::Waiting(format!("{ready}/{wanted} ready")),
    }
}

/// A Job is ready when it is complete.
pub(super) fn job(found: &Job) -> State {
    if found.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true)) {
        return State::Done;
    }
    let status = found.status.clone().unwrap_or_default();
    let conditions = || status.conditions.iter().flatten().filter(|condition| condition.status == "True");
    if conditions().any(|condition| condition.type_ == "Complete") {
        return State::Done;
    }
    if let Some(failed) = conditions().find(|condition| condition.type_ == "Failed") {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        return State::Failed(joined("Failed", &[&text(&failed.reason), &text(&failed.message)]));
    }
    State::Waiting(format!("{} running", status.active.unwrap_or(0)))
}

/// A pod is ready, or has succeeded.
pub(super) fn pod(found: &Pod) -> State {
    let status = found.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_default();
    match phase.as_str() {
        "Succeeded" => State::Done,
        "Failed" => {
            let why: Vec<String> = problems(found).iter().map(Problem::words).collect();
            State::Failed(joined("Failed", &why.iter().map(String::as_str).collect::<Vec<_>>()))
        }
        _ if is_ready(found) => State::Done,
        "" => State::Waiting("Pending".to_owned()),
        "Running" => State::Waiting("Running, not ready".to_owned()),
        _ => State::Waiting(phase),
    }
}

/// Problems of a pod. Those that it reported before `since` may be resolved.
pub(super) fn problems_since(pod: &Pod, since: Timestamp) -> Vec<Problem> {
    let mut all = problems(pod);
    // Timestamps of objects have whole seconds.
    let is_old = |time: &Timestamp| time.as_second() < since.as_second();
    if pod.metadata.creation_timestamp.as_ref().is_none_or(|created| !is_old(&created.0)) {
        return all;
    }
    let status = pod.status.as_ref();
    let ends = status.into_iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ends = ends.filter_map(|status| status.last_state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    // The scheduler has not retried it since, and there may be a node for it now.
    let scheduled = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let looked = scheduled
        .filter(|condition| condition.type_ == "PodScheduled")
        .any(|condition| condition.last_transition_time.as_ref().is_some_and(|time| !is_old(&time.0)));
    all.iter_mut().filter(|problem| problem.reason == UNSCHEDULED).for_each(|problem| problem.old = !looked);
    let crashed = ends.map(|time| time.0).max().is_some_and(|time| !is_old(&time));
    for problem in all.iter_mut().filter(|problem| problem.lasting) {
        let fresh = (crashed && problem.reason == CRASHING) || AT_ONCE.contains(&problem.reason.as_str());
        problem.old = !fresh;
    }
    all
}

/// Problems of a pod.
fn problems(pod: &Pod) -> Vec<Problem> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let Some(status) = pod.status.as_ref().filter(|_| pod.metadata.deletion_timestamp.is_none()) else {
        return Vec::new();
    };
    let problem = |reason: &str, message: String| Problem {
        object: format!("pod/{name}"),
        reason: reason.to_owned(),
        message,
        lasting: LASTING.contains(&reason),
        old: false,
        output: None,
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut all = Vec::new();
    let conditions = status.conditions.iter().flatten();
    for unscheduled in conditions.filter(|c| c.type_ == "PodScheduled" && c.status == "False") {
        all.push(problem(UNSCHEDULED, unscheduled.message.clone().unwrap_or_default()));
    }
    if status.phase.as_deref() == Some("Failed")
        && let Some(reason) = &status.reason
    {
        all.push(problem(reason, status.message.clone().unwrap_or_default()));
    }
    let init = status.init_container_statuses.iter().flatten();
    for container in init.chain(status.container_statuses.iter().flatten()) {
        let Some((reason, message)) = of_container(container) else { continue };
        let output =
            (reason == CRASHING).then(|| format!("logs -n {namespace} {name} -c {} --previous", container.name));
        all.push(Problem { output, ..problem(&reason, message) });
    }
    all
}

/// The reason and message of a container that is not running properly.
fn of_container(status: &ContainerStatus) -> Option<(String, String)> {
    let state = status.state.as_ref()?;
    let ended = |ended: &k8s_openapi::api::core::v1::ContainerStateTerminated| {
        // The lines after the first are the stack trace of a trap.
        let message = ended.message.as_deref().unwrap_or_default().trim().lines().next().unwrap_or_default();
        joined(&format!("container {} ended with exit code {}", status.name, ended.exit_code), &[message])
    };
    if let Some(terminated) = state.terminated.as_ref().filter(|terminated| terminated.exit_code != 0) {
        return Some((terminated.reason.clone().unwrap_or_else(|| "Error".to_owned()), ended(terminated)));
    }
    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.clone().filter(|reason| !ON_THE_WAY.contains(&reason.as_str()))?;
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let message = match last {
        Some(last) if reason == CRASHING => ended(last),
        _ => waiting.message.clone().unwrap_or_default(),
    };
    Some((reason, message))
}

/// A pod that requests more than any node has waits forever: reports that instead, as lasting.
pub(super) fn mark_what_never_fits(problems: &mut [Problem], pod: &Pod, nodes: &[Node]) {
    let name = format!("pod/{}", pod.metadata.name.as_deref().unwrap_or_default());
    let Some(what) = never_fits(pod, nodes) else { return };
    for problem in problems.iter_mut().filter(|problem| problem.object == name && problem.reason == UNSCHEDULED) {
        (problem.message, problem.lasting, problem.old) = (what.clone(), true, false);
    }
}

/// The requests of a pod that exceed every node's allocatable resources.
fn never_fits(pod: &Pod, nodes: &[Node]) -> Option<String> {
    let asked = requests(pod.spec.as_ref()?);
    let has: Vec<Resources> = nodes
        .iter()
        .map(|node| Resources::parse(node.status.as_ref().and_then(|status| status.allocatable.as_ref())))
        .collect();
    let beyond = |of: fn(&Resources) -> Amount| {
        let most = has.iter().map(of).max()?;
        (of(&asked) > most).then_some((of(&asked), most))
    };
    if let Some((asked, most)) = beyond(|resources| resources.cpu) {
        return Some(format!("it requests {asked}m of cpu, and no node has more than {most}m"));
    }
    let bytes = [("memory", beyond(|resources| resources.memory)), ("ephemeral-storage", beyond(|r| r.storage))];
    let (what, (asked, most)) = bytes.into_iter().find_map(|(what, found)| Some((what, found?)))?;
    Some(format!(
        "it requests {} MiB of {what}, and no node has more than {} MiB",
        asked.div_euclid(1 << 20),
        most >> 20
    ))
}

impl Problem {
    /// The reason that groups reports: two reasons alternate for one cause.
    pub(super) fn cause(&self) -> &str {
        if self.reason == PULL_BACK_OFF { "ErrImagePull" } else { &self.reason }
    }

    /// `ErrImagePull: no such image`.
    pub(super) fn words(&self) -> String {
        joined(&self.reason, &[&self.message])
    }
}

fn joined(first: &str, rest: &[&str]) -> String {
    rest.iter().filter(|text| !text.is_empty()).fold(first.to_owned(), |all, text| format!("{all}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_request_beyond_every_node_is_told_as_such_and_stays() {
        let node = |cpu: &str, memory: &str| -> Node {
            serde_json::from_value(json!({"status": {"allocatable": {"cpu": cpu, "memory": memory}}})).expect("a node")
        };
        let pod = |requests: Value| -> Pod {
            let containers = json!([{"name": "c", "resources": {"requests": requests}}]);
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": containers}}))
                .expect("a pod")
        };
        let nodes = [node("1900m", "4Gi"), node("3", "2Gi")];
        let cpu = never_fits(&pod(json!({"cpu": "64"})), &nodes);
        assert_eq!(cpu.as_deref(), Some("it requests 64000m of cpu, and no node has more than 3000m"));
        let memory = never_fits(&pod(json!({"memory": "5Gi"})), &nodes);
        assert_eq!(memory.as_deref(), Some("it requests 5120 MiB of memory, and no node has more than 4096 MiB"));
        assert_eq!(never_fits(&pod(json!({"cpu": "3", "memory": "2Gi"})), &nodes), None, "it waits for room");
        assert_eq!(never_fits(&pod(json!({"cpu": "64"})), &[]), None, "a node may come");
        let object = "pod/p".to_owned();
        let mut problems = [UNSCHEDULED, "Other"].map(|reason| Problem {
            object: object.clone(),
            reason: reason.into(),
            message: "0/2 nodes".into(),
            lasting: false,
            old: false,
            output: None,
        });
        mark_what_never_fits(&mut problems, &pod(json!({"cpu": "64"})), &nodes);
        assert!(problems[0].lasting && problems[0].message.contains("64000m") && !problems[1].lasting);
    }

    fn pods(status: &[Value]) -> Vec<Pod> {
        let pod = |status: &Value| json!({"metadata": {"name": "p"}, "status": status});
        status.iter().map(|status| serde_json::from_value(pod(status)).expect("a pod")).collect()
    }

    fn ready(is: &str) -> Value {
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": is}]})
    }

    fn waiting(reason: &str, message: &str) -> Value {
        json!({"phase": "Pending", "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}}]})
    }

    #[test]
    fn a_deployment_is_there_when_its_status_and_its_pods_say_so() {
        let deployment = |replicas: i32, updated: i32, available: i32| -> Deployment {
            let status = json!({"observedGeneration": 2, "replicas": replicas, "updatedReplicas": updated,
                "readyReplicas": available, "availableReplicas": available});
            serde_json::from_value(json!({"metadata": {"generation": 2},
                "spec": {"replicas": 2, "selector": {}, "template": {}}, "status": status}))
            .expect("a deployment")
        };
        let both = pods(&[ready("True"), ready("True")]);
        let is = |found: Deployment, pods: &[Pod]| super::deployment(&found, pods);
        assert_eq!(is(deployment(2, 2, 2), &both), State::Done);
        // The status is of the previous run: no pod has started in this one.
        let old = pods(&[ready("False"), ready("False")]);
        assert_eq!(is(deployment(2, 2, 2), &old), State::Waiting("0/2 ready".into()));
        // Pods of the older template are ready.
        let more = State::Waiting("2/2 ready, with others that are to go".into());
        assert_eq!(is(deployment(3, 1, 2), &both), more);
        assert_eq!(is(deployment(3, 2, 2), &both), more);
        assert_eq!(is(deployment(2, 2, 1), &both), State::Waiting("1/2 ready".into()));
        let mut unseen = deployment(2, 2, 2);
        unseen.metadata.generation = Some(3);
        assert_ne!(is(unseen, &both), State::Done);
        let mut leaving = both.clone();
        leaving[0].metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("t"));
        assert_eq!(is(deployment(2, 2, 2), &leaving), State::Waiting("1/2 ready".into()));
    }

    #[test]
    fn sets_are_there_when_all_that_an_update_reaches_is() {
        let both = pods(&[ready("True"), ready("True")]);
        let stateful = |strategy: Value, updated: i32| {
            let status = json!({"observedGeneration": 1, "replicas": 2, "readyReplicas": 2, "availableReplicas": 2, "updatedReplicas": updated});
            let spec = json!({"replicas": 2, "selector": {}, "template": {}, "updateStrategy": strategy});
            let found = json!({"metadata": {"generation": 1}, "spec": spec, "status": status});
            super::stateful_set(&serde_json::from_value(found).expect("a set"), &both)
        };
        let others = State::Waiting("2/2 ready, with others that are to go".into());
        assert_eq!(stateful(json!({}), 2), State::Done);
        assert_eq!(stateful(json!({}), 1), others);
        assert_eq!(stateful(json!({"rollingUpdate": {"partition": 1}}), 1), State::Done);
        assert_eq!(stateful(json!({"type": "OnDelete"}), 0), State::Done);
        let daemon = |seen: i64, desired: i32, updated: i32| {
            let status = json!({"observedGeneration": seen, "currentNumberScheduled": 2, "desiredNumberScheduled": desired,
                "numberMisscheduled": 0, "numberReady": 2, "numberAvailable": 2, "updatedNumberScheduled": updated});
            let found =
                json!({"metadata": {"generation": 1}, "spec": {"selector": {}, "template": {}}, "status": status});
            super::daemon_set(&serde_json::from_value(found).expect("a set"), &both)
        };
        assert_eq!(daemon(1, 2, 2), State::Done);
        assert_eq!(daemon(1, 2, 1), others);
        assert_eq!(daemon(1, 3, 2), State::Waiting("2/3 ready".into()));
        assert_ne!(daemon(0, 0, 0), State::Done, "the number of nodes is not known yet");
    }

    #[test]
    fn a_job_is_there_when_complete_and_failed_with_its_reason() {
        let job = |conditions: Value| -> State {
            let value = json!({"metadata": {}, "status": {"active": 1, "conditions": conditions}});
            super::job(&serde_json::from_value(value).expect("a job"))
        };
        assert_eq!(job(json!([])), State::Waiting("1 running".into()));
        assert_eq!(job(json!([{"type": "Complete", "status": "True"}])), State::Done);
        let failed = json!([{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "m"}]);
        assert_eq!(job(failed), State::Failed("Failed: BackoffLimitExceeded: m".into()));
    }

    #[test]
    fn a_pod_is_there_when_ready_or_over_with_success() {
        let is = |status: Value| super::pod(&pods(&[status])[0]);
        assert_eq!(is(ready("True")), State::Done);
        assert_eq!(is(ready("False")), State::Waiting("Running, not ready".into()));
        assert_eq!(is(json!({"phase": "Succeeded"})), State::Done);
        let failed = json!({"phase": "Failed", "containerStatuses": [{"name": "c", "image": "i", "imageID": "",
            "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}]});
        assert_eq!(is(failed), State::Failed("Failed: Error: container c ended with exit code 3".into()));
    }

    #[test]
    fn troubles_are_what_pods_report_and_lasting_ones_are_known() {
        let of = |status: Value| -> Vec<(String, bool)> {
            super::problems(&pods(&[status])[0]).iter().map(|t| (t.words(), t.lasting)).collect()
        };
        assert_eq!(of(waiting("ContainerCreating", "")), []);
        assert_eq!(of(waiting("ErrImagePull", "no such image")), [("ErrImagePull: no such image".into(), true)]);
        assert_eq!(of(waiting("CreateContainerConfigError", "")), [("CreateContainerConfigError".into(), true)]);
        let unscheduled = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu."}]});
        let want = "FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu.".to_owned();
        assert_eq!(of(unscheduled), [(want, false)]);
        let mut crashing = waiting("CrashLoopBackOff", "back-off 10s");
        crashing["containerStatuses"][0]["lastState"] =
            json!({"terminated": {"exitCode": 7, "message": "trap\nstack\n"}});
        let want = "CrashLoopBackOff: container c ended with exit code 7: trap";
        assert_eq!(of(crashing), [(want.to_owned(), true)]);
    }

    #[test]
    fn what_a_pod_told_before_the_apply_may_be_mended() {
        let since: Timestamp = "2026-01-01T00:00:10.9Z".parse().expect("a time");
        let old = |created: &str, status: Value| {
            let pod = json!({"metadata": {"name": "p", "creationTimestamp": created}, "status": status});
            let all = problems_since(&serde_json::from_value(pod).expect("a pod"), since);
            assert_eq!(all.len(), 1);
            all[0].old
        };
        let (before, now) = ("2026-01-01T00:00:09Z", "2026-01-01T00:00:10Z");
        assert!(
            old(before, waiting("ImagePullBackOff", "back-off")) && !old(now, waiting("ImagePullBackOff", "back-off"))
        );
        assert!(!old(before, waiting("ErrImageNeverPull", "not present")), "the node would have noticed");
        assert!(!old(before, json!({"phase": "Failed", "reason": "Evicted"})), "it is no back-off");
        let unscheduled = |changed: &str| {
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": "0/1 nodes are available: 1 Too many pods.", "lastTransitionTime": changed}]})
        };
        assert!(old(before, unscheduled(before)), "of an earlier start");
        assert!(!old(before, unscheduled(now)) && !old(now, unscheduled(now)));
        let crashing = |finished: &str| {
            let mut status = waiting(CRASHING, "back-off");
            status["containerStatuses"][0]["lastState"] =
                json!({"terminated": {"exitCode": 7, "finishedAt": finished}});
            status
        };
        assert!(old(before, crashing(before)));
        assert!(!old(before, crashing(now)), "it crashed since");
    }
}
