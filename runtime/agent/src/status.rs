//! Computes the status of a pod. Pure. Phase, conditions and container statuses equal upstream's.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>.

use crate::{
    plan::{LiveContainer, LiveState, Operation, Setup},
    pod::{self, Role},
    resize::{IN_PROGRESS, PENDING},
    state::{Attempt, AttemptState, Failure, LOST_CODE, LOST_REASON, PodState, Record, Terminated},
};
use api::schema::Schema;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, EphemeralContainer, HostIP, Pod, PodCondition, PodIP, PodStatus, ResourceRequirements,
        VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::Value;
use std::{net::IpAddr, sync::LazyLock};

/// The input besides the pod.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The persistent state.
    pub state: &'a PodState,
    /// The in-memory state of the worker.
    pub live: &'a LiveState,
    /// The node's addresses, the primary first.
    pub host: &'a [IpAddr],
    /// The pod's addresses, the primary first.
    pub addresses: &'a [IpAddr],
    /// The last reported status. It may be newer than the status of the Pod object.
    pub reported: Option<&'a PodStatus>,
    /// This is the final status: no container will run again.
    pub is_final: bool,
    /// The current time.
    pub now: Timestamp,
}

/// The status fields that only the node sets. Other clients own some conditions and the fields for scheduling and resource claims.
pub(crate) const OWN_FIELDS: &[&str] = &[
    "phase",
    "reason",
    "message",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "qosClass",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
];

/// Whether the Pod's status differs from the reported one in what the node owns: another client changed it, and the report must be repeated
/// (upstream's `needsReconcile`), or this Pod object is older than the report.
pub(crate) fn is_overwritten(pod: &Pod, reported: &PodStatus) -> bool {
    if pod.status.as_ref().is_some_and(|seen| is_as_reported(seen, reported)) {
        return false;
    }
    let (seen, said) = (without_empty_fields(pod.status.as_ref()), without_empty_fields(Some(reported)));
    if OWN_FIELDS.iter().any(|field| seen.get(field) != said.get(field)) {
        return true;
    }
    let find = |kind: &str| {
        let all = pod.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        all.into_iter().find(|c| c.type_ == kind)
    };
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().to_owned();
    reported.conditions.iter().flatten().any(|own| {
        find(&own.type_).is_none_or(|c| {
            c.status != own.status || text(&c.reason) != text(&own.reason) || text(&c.message) != text(&own.message)
        })
    })
}

/// Whether a status is the reported one word for word, as nearly each is that comes back from the API.
fn is_as_reported(seen: &PodStatus, reported: &PodStatus) -> bool {
    seen.phase == reported.phase
        && seen.reason == reported.reason
        && seen.message == reported.message
        && seen.host_ip == reported.host_ip
        && seen.host_ips == reported.host_ips
        && seen.pod_ip == reported.pod_ip
        && seen.pod_ips == reported.pod_ips
        && seen.start_time == reported.start_time
        && seen.qos_class == reported.qos_class
        && seen.init_container_statuses == reported.init_container_statuses
        && seen.container_statuses == reported.container_statuses
        && seen.ephemeral_container_statuses == reported.ephemeral_container_statuses
        && reported
            .conditions
            .iter()
            .flatten()
            .all(|own| seen.conditions.iter().flatten().any(|condition| condition == own))
}

/// The status without empty fields, as the API stores it.
fn without_empty_fields(status: Option<&PodStatus>) -> Value {
    static SCHEMA: LazyLock<Option<Schema>> = LazyLock::new(|| Schema::named("io.k8s.api.core.v1.PodStatus"));
    let mut value = status.and_then(|status| serde_json::to_value(status).ok()).unwrap_or_default();
    if let Some(schema) = &*SCHEMA {
        schema.leave_out_empty(&mut value);
    }
    value
}

/// The pod with the reported status. Its conditions are those of the API, where other clients own some.
pub(crate) fn with_reported_status(pod: &Pod, reported: &PodStatus) -> Pod {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone());
    Pod { status: Some(PodStatus { conditions, ..reported.clone() }), ..pod.clone() }
}

/// Whether the pod's status in the API has the condition Ready or ContainersReady.
pub(crate) fn is_shown_ready(pod: &Pod) -> bool {
    ["Ready", "ContainersReady"].iter().any(|type_| pod::condition(pod, type_).is_some_and(|c| c.status == "True"))
}

/// Computes the status.
pub fn generate(pod: &Pod, input: &Input<'_>) -> PodStatus {
    if let Some(failure) = input.state.failure.as_ref().filter(|failure| failure.rejected) {
        return rejected(pod, failure, input);
    }
    let mut init: Vec<_> =
        pod::init_containers(pod).iter().map(|c| container_status(pod, c, pod::init_role(c), input)).collect();
    let mut apps: Vec<_> =
        pod::spec(pod).containers.iter().map(|c| container_status(pod, c, Role::App, input)).collect();
    let ephemeral: Vec<_> = pod::ephemeral(pod).iter().map(|c| ephemeral_status(pod, c, input)).collect();
    let initialized = crate::plan::was_initialized(pod, input.state);
    let over = crate::plan::terminal_phase(pod, input.state).is_some();
    let may_run = init.iter().chain(&apps).any(|s| s.state.as_ref().is_some_and(|s| s.running.is_some()));
    if input.is_final && initialized {
        apps.iter_mut().for_each(mark_unlocated);
    }
    let mut phase = phase(pod, &init, &apps, over || input.is_final, initialized);
    let old = pod.status.clone().unwrap_or_default();
    let mut reason = old.reason.filter(|_| old.phase.as_deref() == Some("Failed"));
    let mut message = old.message.filter(|_| old.phase.as_deref() == Some("Failed"));
    if let Some(failure) = &input.state.failure
        && !may_run
    {
        phase = "Failed";
        reason = Some(failure.reason.clone());
        message = Some(failure.message.clone());
    }
    match old.phase.as_deref() {
        Some("Succeeded") => phase = "Succeeded",
        Some("Failed") => phase = "Failed",
        // A running container delays the terminal phase, so that no replacement is created before the pod has ended.
        _ if may_run && matches!(phase, "Succeeded" | "Failed") => phase = "Running",
        _ if input.is_final && !matches!(phase, "Succeeded" | "Failed") => phase = "Failed",
        _ => {}
    }
    let conditions = conditions(pod, &init, &apps, phase, input);
    let addresses: Vec<PodIP> = match input.addresses {
        [] => old.pod_ips.unwrap_or_default(),
        addresses => addresses.iter().map(|ip| PodIP { ip: ip.to_string() }).collect(),
    };
    for status in &mut init {
        if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
            status.started = Some(false);
        }
    }
    PodStatus {
        phase: Some(phase.into()),
        reason,
        message,
        conditions: Some(conditions),
        host_ip: input.host.first().map(ToString::to_string),
        host_ips: (!input.host.is_empty()).then(|| input.host.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: addresses.first().map(|ip| ip.ip.clone()),
        pod_ips: (!addresses.is_empty()).then_some(addresses),
        start_time: input.state.started.map(time),
        qos_class: Some(old.qos_class.unwrap_or_else(|| pod::qos_class(pod).to_owned())),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(apps),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// The status of a rejected pod. It has no containers, addresses or conditions.
fn rejected(pod: &Pod, failure: &Failure, input: &Input<'_>) -> PodStatus {
    PodStatus {
        phase: Some("Failed".into()),
        reason: Some(failure.reason.clone()),
        message: Some(failure.message.clone()),
        start_time: input.state.started.map(time),
        qos_class: Some(pod::qos_class(pod).to_owned()),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// A time as the API keeps it: in whole seconds.
fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// Marks a container without a known exit as terminated when the pod ends.
fn mark_unlocated(status: &mut ContainerStatus) {
    let state = status.state.get_or_insert_default();
    if state.terminated.is_none() {
        *state = ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: LOST_CODE,
                reason: Some(LOST_REASON.into()),
                message: Some("The container could not be located when the pod was terminated".into()),
                ..Default::default()
            }),
            ..Default::default()
        };
    }
}

fn container_status(pod: &Pod, c: &Container, role: Role, input: &Input<'_>) -> ContainerStatus {
    let none = LiveContainer::default();
    let live = input.live.containers.get(&c.name).map_or(&none, |live| live);
    let record = input.state.containers.get(&c.name);
    let attempt = record.and_then(|r| r.current.as_deref());
    let last = record.and_then(|r| r.last.as_deref());
    let (state, last) = match attempt.map(|a| &a.state) {
        // Like upstream, the status shows no running container before its postStart hook is done.
        Some(AttemptState::Running { .. }) if live.operation == Operation::PostStart => {
            (waiting_state(default_reason(pod), ""), last)
        }
        Some(AttemptState::Running { started_at }) => {
            let running = ContainerStateRunning { started_at: Some(time(*started_at)) };
            (ContainerState { running: Some(running), ..Default::default() }, last)
        }
        Some(AttemptState::Exited(ended)) => match &live.waiting {
            Some(waiting) if !input.is_final => (waiting_state(&waiting.reason, &waiting.message), Some(ended)),
            _ => (terminated_state(ended), last),
        },
        None => match &live.waiting {
            Some(waiting) => (waiting_state(&waiting.reason, &waiting.message), last),
            None => (waiting_state(default_reason(pod), ""), last),
        },
    };
    let running = state.running.is_some();
    let succeeded = state.terminated.as_ref().is_some_and(|t| t.exit_code == 0);
    let allocated = c.resources.as_ref().and_then(|r| r.requests.clone());
    let resources = (role != Role::Ephemeral).then(|| {
        let has = attempt.filter(|_| record.is_some_and(Record::is_running)).and_then(|a| a.given.as_deref());
        let own = c.resources.clone().unwrap_or_default();
        let resources = has.map_or_else(|| own.clone(), |has| has.within(Some(&own)));
        ResourceRequirements { claims: None, ..resources }
    });
    ContainerStatus {
        name: c.name.clone(),
        ready: if role == Role::Init { succeeded } else { running && live.started && live.ready },
        started: Some(running && live.started),
        restart_count: record.map_or(0, |r| r.restarts),
        image: attempt.map_or_else(|| c.image.clone().unwrap_or_default(), |a| a.image.clone()),
        image_id: attempt.map(|a| a.image_id.clone()).unwrap_or_default(),
        container_id: attempt.map(Attempt::container_id),
        allocated_resources: allocated,
        resources,
        state: Some(state),
        last_state: Some(last.map(terminated_state).unwrap_or_default()),
        volume_mounts: mounts(c),
        ..ContainerStatus::default()
    }
}

/// Ephemeral containers have no readiness.
fn ephemeral_status(pod: &Pod, c: &EphemeralContainer, input: &Input<'_>) -> ContainerStatus {
    let status = container_status(pod, &pod::as_container(c), Role::Ephemeral, input);
    ContainerStatus { ready: false, started: None, ..status }
}

fn mounts(c: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = c.volume_mounts.as_ref()?.iter().map(|m| VolumeMountStatus {
        name: m.name.clone(),
        mount_path: m.mount_path.clone(),
        read_only: m.read_only.filter(|r| *r),
        recursive_read_only: m.read_only.filter(|r| *r).map(|_| "Disabled".into()),
        ..Default::default()
    });
    Some(mounts.collect())
}

/// The reason of a waiting container if no other is known.
pub fn default_reason(pod: &Pod) -> &'static str {
    if pod::init_containers(pod).is_empty() { "ContainerCreating" } else { "PodInitializing" }
}

fn waiting_state(reason: &str, message: &str) -> ContainerState {
    let message = (!message.is_empty()).then(|| message.to_owned());
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..Default::default()
    }
}

fn terminated_state(ended: &Terminated) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(ended.container_id.clone()),
            exit_code: ended.code,
            reason: Some(ended.reason.clone()),
            message: (!ended.message.is_empty()).then(|| ended.message.clone()),
            started_at: ended.started_at.map(time),
            finished_at: ended.finished_at.map(time),
            signal: None,
        }),
        ..Default::default()
    }
}

fn summary(status: &ContainerStatus) -> (bool, Option<i32>, bool, Option<i32>) {
    let state = status.state.as_ref();
    let last = status.last_state.as_ref();
    (
        state.is_some_and(|s| s.running.is_some()),
        state.and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code),
        state.is_some_and(|s| s.waiting.is_some()),
        last.and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code),
    )
}

/// The phase of the pod, computed from its container statuses. `terminal` means that no container is restarted, `initialized` that an app
/// container was started.
pub fn phase(
    pod: &Pod,
    init: &[ContainerStatus],
    apps: &[ContainerStatus],
    terminal: bool,
    initialized: bool,
) -> &'static str {
    let policy = pod::spec(pod).restart_policy.as_deref().unwrap_or("Always");
    let (mut pending_init, mut failed_init, mut pending_sidecars) = (0, 0, 0);
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for (container, status) in pod::init_containers(pod).iter().zip(init) {
        let (runs, ended, waits, last) = summary(status);
        if pod::init_role(container) == Role::Sidecar {
            if runs {
                running += 1;
                pending_sidecars += usize::from(status.started != Some(true));
            } else if waits && last.is_none() {
                waiting += 1;
                pending_sidecars += 1;
            }
            continue;
        }
        let code = ended.or(last.filter(|_| waits));
        pending_init += usize::from(runs || code != Some(0));
        failed_init += usize::from(!runs && code.is_some_and(|c| c != 0));
    }
    for status in apps {
        let (runs, ended, _, last) = summary(status);
        if runs {
            running += 1;
        } else if let Some(code) = ended {
            stopped += 1;
            succeeded += usize::from(code == 0);
        } else if last.is_some() {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    if !initialized && failed_init > 0 && policy == "Never" {
        return "Failed";
    }
    if (!initialized && pending_init + pending_sidecars > 0) || waiting > 0 {
        return "Pending";
    }
    match (running, stopped) {
        (0, 0) => "Pending",
        (0, _) if stopped == succeeded && (terminal || policy != "Always") => "Succeeded",
        (0, _) if terminal || policy == "Never" => "Failed",
        _ => "Running",
    }
}

fn conditions(
    pod: &Pod,
    init: &[ContainerStatus],
    apps: &[ContainerStatus],
    phase: &str,
    input: &Input<'_>,
) -> Vec<PodCondition> {
    let old = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let containers_ready = containers_ready(pod, init, apps, phase);
    let ready = pod_ready(pod, old, &containers_ready);
    let sandbox = (input.live.setup == Setup::Ready, None, None);
    let wanted = [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized(pod, init, apps, phase)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", (true, None, None)),
    ];
    let make = |(kind, (status, reason, message)): (&str, ConditionValue)| {
        let status = if status { "True" } else { "False" };
        let reported = input.reported.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let before = reported.iter().chain(old).find(|c| c.type_ == kind);
        let since = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason,
            message,
            last_transition_time: Some(since.unwrap_or(time(input.now))),
            observed_generation: pod.metadata.generation,
            ..Default::default()
        }
    };
    let pressure = input.state.failure.as_ref().filter(|failure| failure.pressure);
    let disrupted = pressure.map(|failure| {
        ("DisruptionTarget", (true, Some("TerminationByKubelet".to_owned()), Some(failure.message.clone())))
    });
    let mut all: Vec<PodCondition> = wanted.into_iter().chain(disrupted).map(make).collect();
    if !matches!(phase, "Succeeded" | "Failed") {
        all.extend(resize_conditions(old, input));
    }
    all
}

/// The conditions of a resize, which are there as long as they are true. Their time is that of their reason.
fn resize_conditions(old: &[PodCondition], input: &Input<'_>) -> impl Iterator<Item = PodCondition> {
    let reported = input.reported.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let make = |kind: &str, reason: &str, message: &str, generation: Option<i64>| {
        let before = reported.iter().chain(old).find(|c| c.type_ == kind);
        let same = before.filter(|c| c.reason.as_deref().unwrap_or_default() == reason);
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        PodCondition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            reason: text(reason),
            message: text(message),
            last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or(Some(time(input.now))),
            observed_generation: generation,
            ..Default::default()
        }
    };
    let resize = &input.live.resize;
    let pending = resize.pending.as_ref().map(|p| make(PENDING, &p.reason, &p.message, p.generation));
    let progress = resize.progress.as_ref().map(|p| {
        let reason = if p.error.is_empty() { "" } else { "Error" };
        make(IN_PROGRESS, reason, &p.error, p.generation)
    });
    pending.into_iter().chain(progress)
}

/// Status, reason and message of a condition.
type ConditionValue = (bool, Option<String>, Option<String>);

fn false_because(reason: &str, message: String) -> ConditionValue {
    (false, Some(reason.to_owned()), (!message.is_empty()).then_some(message))
}

fn containers_ready(pod: &Pod, init: &[ContainerStatus], apps: &[ContainerStatus], phase: &str) -> ConditionValue {
    match phase {
        "Succeeded" => return false_because("PodCompleted", String::new()),
        "Failed" => return false_because("PodFailed", String::new()),
        _ => {}
    }
    let sidecars = pod::init_containers(pod).iter().zip(init).filter(|(c, _)| pod::init_role(c) == Role::Sidecar);
    let all = sidecars.map(|(_, s)| s).chain(apps);
    let unready: Vec<_> = all.filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    if unready.is_empty() {
        return (true, None, None);
    }
    false_because("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
}

fn pod_ready(pod: &Pod, old: &[PodCondition], containers: &ConditionValue) -> ConditionValue {
    if !containers.0 {
        return containers.clone();
    }
    let mut messages = Vec::new();
    for gate in pod::spec(pod).readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match old.iter().find(|c| c.type_ == *kind) {
            None => messages.push(format!("corresponding condition of pod readiness gate {kind:?} does not exist.")),
            Some(c) if c.status != "True" => {
                messages.push(format!("the status of pod readiness gate {kind:?} is not \"True\", but {}", c.status));
            }
            Some(_) => {}
        }
    }
    if messages.is_empty() { (true, None, None) } else { false_because("ReadinessGatesNotReady", messages.join(", ")) }
}

fn initialized(pod: &Pod, init: &[ContainerStatus], apps: &[ContainerStatus], phase: &str) -> ConditionValue {
    if phase == "Succeeded" {
        return (true, Some("PodCompleted".into()), None);
    }
    let ever_started = |s: &ContainerStatus| {
        let (runs, ended, _, last) = summary(s);
        runs || ended.is_some() || last.is_some()
    };
    if apps.iter().any(ever_started) {
        return (true, None, None);
    }
    let done = |(c, s): &(&Container, &ContainerStatus)| match pod::init_role(c) {
        Role::Sidecar => s.started == Some(true),
        _ => s.ready,
    };
    let incomplete: Vec<_> =
        pod::init_containers(pod).iter().zip(init).filter(|pair| !done(pair)).map(|(c, _)| c.name.as_str()).collect();
    if incomplete.is_empty() {
        return (true, None, None);
    }
    false_because("ContainersNotInitialized", format!("containers with incomplete status: [{}]", incomplete.join(" ")))
}

#[cfg(test)]
mod tests;
