//! Waits until applied objects are ready: the pods of workloads ready, Jobs complete, node ports open. Shows problems of pods and events as
//! they appear, and stops waiting for objects that cannot recover.

mod events;
mod observe;
mod state;

use crate::{data_dir::DataDir, out, progress::Progress, remote::Outcome};
use client::Client;
use events::Warnings;
use jiff::Timestamp;
use observe::{Observation, observe};
use serde_json::Value;
use state::{Problem, State};
use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

/// How long an object with a lasting problem may take to recover.
const RECOVERY_TIME: Duration = Duration::from_secs(5);
/// The same for a problem of a pod that is older than the apply: the node may be waiting before its next attempt.
const OLD_RECOVERY_TIME: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long pods without a readiness probe must stay ready: such a pod is ready until its guest traps.
const STABLE_TIME: Duration = Duration::from_millis(300);
/// How long to wait for Services without pods only: their node ports refuse connections until there are pods.
const NO_PODS_TIMEOUT: Duration = Duration::from_secs(1);

/// The node whose ports are checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) address: IpAddr,
    /// The process that must listen on them.
    pub(crate) pid: u32,
}

/// The options of waiting.
pub(crate) struct WaitOptions<'a> {
    /// How long the command waits; the cluster continues to try afterwards.
    pub(crate) timeout: Duration,
    /// The time of the apply: older events are ignored.
    pub(crate) since: Timestamp,
    /// `None` if the cluster is not on this machine, so that its ports cannot be checked.
    pub(crate) node: Option<Node>,
    /// `None` if the cluster is in no data directory: hints then do not include the kubeconfig.
    pub(crate) dir: Option<&'a DataDir>,
}

impl WaitOptions<'_> {
    fn kubectl(&self) -> String {
        self.dir.map_or_else(|| "kubectl".to_owned(), DataDir::kubectl)
    }

    /// Adds this cluster to the commands in a text.
    fn complete(&self, text: &str) -> String {
        self.dir.map_or_else(|| text.to_owned(), |dir| dir.complete(text))
    }

    /// The command that shows the log of a failing container.
    fn output(&self, problem: &Problem) -> String {
        problem.output.as_ref().map_or_else(String::new, |logs| format!("; its output: {} {logs}", self.kubectl()))
    }
}

/// An applied object that is not ready.
#[derive(Debug)]
pub(crate) struct NotReady {
    /// Which object, and why.
    what: String,
    /// The command to inspect it.
    inspect: String,
}

impl std::fmt::Display for NotReady {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\ninspect with: {}", self.what, self.inspect)
    }
}

impl std::error::Error for NotReady {}

/// An applied object that is not ready yet.
struct Pending<'a> {
    outcome: &'a Outcome,
    /// Since when it has a lasting problem.
    stuck: Option<Instant>,
    /// Pods from before the apply that wait for the next pull attempt, and whether it has happened since.
    tried: HashMap<String, bool>,
    /// Since when it is ready.
    done: Option<Instant>,
    last: Observation,
}

/// Shows progress until all objects are ready. Returns an error at once if an object failed, soon if it cannot recover, and otherwise after
/// the timeout.
pub(crate) async fn wait(
    client: &Client,
    outcomes: &[Outcome],
    options: &WaitOptions<'_>,
    progress: &mut Progress,
) -> Result<(), NotReady> {
    let mut pending: Vec<Pending<'_>> = outcomes.iter().map(Pending::of).collect();
    let settled = timeout(options.timeout, settle(client, &mut pending, options, progress)).await;
    settled.unwrap_or_else(|_| {
        let Some(first) = pending.first() else { return Ok(()) };
        let (what, others) = (first.words(), pending.len() - 1);
        let others = if others == 0 { String::new() } else { format!(" (and {others} more)") };
        Err(first.not_ready(format!("not ready after {} s: {what}{others}", options.timeout.as_secs()), options))
    })
}

async fn settle(
    client: &Client,
    pending: &mut Vec<Pending<'_>>,
    options: &WaitOptions<'_>,
    progress: &mut Progress,
) -> Result<(), NotReady> {
    let (all, start) = (pending.len(), Instant::now());
    let mut told = HashSet::new();
    let mut warnings = Warnings::since(options.since);
    let mut bare: Option<Instant> = None;
    loop {
        for one in pending.iter_mut() {
            one.last = observe(client, one.outcome, options.node, options.since).await;
            if one.last.is_unexplained() {
                let newest = warnings.newest(client, one.namespace(), &one.last.uids, Instant::now()).await;
                one.last.problems.extend(newest);
            }
            for problem in one.last.problems.iter().filter(|problem| is_reported(problem, start.elapsed())) {
                // Pods of one object have the same problem, and its message may contain a count. A problem that turns out to be lasting is
                // shown again.
                if told.insert((one.outcome.label.clone(), problem.cause().to_owned(), problem.lasting)) {
                    let words = options.complete(&problem.words());
                    progress.line(&format!("  {}: {words}{}", problem.object, options.output(problem)));
                }
            }
            if let Some(error) = one.failure(Instant::now(), options) {
                return Err(error);
            }
        }
        pending.retain_mut(|one| !one.is_settled(Instant::now()));
        if pending.is_empty() {
            return Ok(());
        }
        bare = pending.iter().all(Pending::lacks_only_pods).then(|| bare.unwrap_or_else(Instant::now));
        if bare.is_some_and(|since| since.elapsed() >= NO_PODS_TIMEOUT) {
            return Ok(());
        }
        let missing: Vec<_> = pending.iter().filter_map(Pending::missing).collect();
        progress.waiting(&missing, all - pending.len(), start.elapsed().as_secs());
        sleep(POLL_INTERVAL).await;
    }
}

impl<'a> Pending<'a> {
    fn of(outcome: &'a Outcome) -> Self {
        Self { outcome, stuck: None, tried: HashMap::new(), done: None, last: Observation::default() }
    }

    fn namespace(&self) -> &str {
        self.outcome.object["metadata"]["namespace"].as_str().unwrap_or("default")
    }

    /// The object and its missing parts.
    fn missing(&self) -> Option<(String, String)> {
        match &self.last.state {
            Some(State::Waiting(what)) => Some((self.outcome.label.clone(), what.clone())),
            _ => None,
        }
    }

    /// Whether it is a Service that only lacks pods.
    fn lacks_only_pods(&self) -> bool {
        matches!(&self.last.state, Some(State::Waiting(what)) if what == observe::NO_PODS)
    }

    /// The error if it is not worth waiting any longer.
    fn failure(&mut self, now: Instant, options: &WaitOptions<'_>) -> Option<NotReady> {
        if let Some(State::Failed(why)) = &self.last.state {
            return Some(self.not_ready(format!("{}: {why}", self.outcome.label), options));
        }
        let lasting = || self.last.problems.iter().filter(|problem| problem.lasting);
        let is_stuck = self.last.state != Some(State::Done) && lasting().next().is_some();
        self.stuck = is_stuck.then(|| self.stuck.unwrap_or(now));
        for problem in lasting() {
            if problem.reason == state::PULL_BACK_OFF {
                self.tried.entry(problem.object.clone()).or_default();
            } else if let Some(tried) = self.tried.get_mut(&problem.object) {
                *tried = true;
            }
        }
        let is_old = |problem: &Problem| problem.old && self.tried.get(&problem.object) != Some(&true);
        let grace = if lasting().all(is_old) { OLD_RECOVERY_TIME } else { RECOVERY_TIME };
        let stuck = self.stuck.is_some_and(|since| now - since >= grace);
        stuck.then(|| {
            let taken = self.last.worst().is_some_and(|problem| problem.reason == observe::TAKEN);
            let what = if taken { "not ready while its port is taken" } else { "not ready, and it will not recover" };
            self.not_ready(format!("{what}: {}", self.words()), options)
        })
    }

    /// Whether it is ready and stays so.
    fn is_settled(&mut self, now: Instant) -> bool {
        let done = self.last.state == Some(State::Done);
        self.done = done.then(|| self.done.unwrap_or(now));
        let steady = if is_unprobed(&self.outcome.object) { STABLE_TIME } else { Duration::ZERO };
        self.done.is_some_and(|since| now - since >= steady)
    }

    /// What it waits for and why, in one line. The message of a problem was already shown, unless progress is suppressed.
    fn words(&self) -> String {
        let label = &self.outcome.label;
        let why = |problem: &Problem| if out::is_quiet() { problem.words() } else { problem.reason.clone() };
        match (self.last.worst(), &self.last.state) {
            (Some(problem), _) if problem.object == *label => format!("{label}: {}", why(problem)),
            (Some(problem), _) => format!("{label}: {}: {}", problem.object, why(problem)),
            (None, Some(State::Waiting(what))) => format!("{label}: {what}"),
            (None, _) => label.clone(),
        }
    }

    fn not_ready(&self, what: String, options: &WaitOptions<'_>) -> NotReady {
        let object = self.last.worst().map_or(&self.outcome.label, |problem| &problem.object);
        let what = options.complete(&what);
        NotReady { what, inspect: format!("{} describe -n {} {object}", options.kubectl(), self.namespace()) }
    }
}

/// Whether a problem is shown after this time: one from before the apply may disappear when the scheduler retries the pod.
fn is_reported(problem: &Problem, waited: Duration) -> bool {
    !(problem.old && problem.reason == state::UNSCHEDULED) || waited >= RECOVERY_TIME
}

/// Whether it has pods that are ready as soon as they run.
fn is_unprobed(object: &Value) -> bool {
    let pod = match object["kind"].as_str() {
        Some("Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet") => &object["spec"]["template"]["spec"],
        Some("Pod") => &object["spec"],
        _ => return false,
    };
    pod["containers"].as_array().into_iter().flatten().any(|container| container["readinessProbe"].is_null())
}

/// The TCP node ports of a Service.
fn tcp_node_ports(service: &Value) -> impl Iterator<Item = u16> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let tcp = ports.filter(|port| port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP"));
    tcp.filter_map(|port| port["nodePort"].as_u64().and_then(|number| u16::try_from(number).ok()))
}

/// Namespace, name and URL of the node ports of ready Services. Empty if the node is not on this machine.
pub(crate) fn urls(outcomes: &[Outcome], node: Option<IpAddr>) -> Vec<(&str, &str, String)> {
    let mut all = Vec::new();
    let Some(node) = node else { return all };
    for service in outcomes.iter().filter(|outcome| outcome.object["kind"] == "Service") {
        let text = |field: &str| service.object["metadata"][field].as_str().unwrap_or_default();
        for number in tcp_node_ports(&service.object) {
            let address = crate::port::reachable(SocketAddr::new(node, number));
            all.push((text("namespace"), text("name"), format!("http://{address}")));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_scheduler_said_before_the_apply_is_told_only_if_it_stays() {
        let problem = |reason: &str, old| Problem {
            object: "pod/p".into(),
            reason: reason.into(),
            message: "m".into(),
            lasting: false,
            old,
            output: None,
        };
        let old = problem(state::UNSCHEDULED, true);
        assert!(!is_reported(&old, Duration::from_secs(1)) && is_reported(&old, RECOVERY_TIME));
        assert!(is_reported(&problem(state::UNSCHEDULED, false), Duration::ZERO));
        assert!(is_reported(&problem("ErrImagePull", true), Duration::ZERO));
    }

    fn outcome(object: Value) -> Outcome {
        Outcome { label: "service/hello".into(), verb: "created", object }
    }

    #[test]
    fn pods_without_a_readiness_probe_must_stay_ready() {
        let deployment = |container: Value| {
            outcome(json!({"kind": "Deployment", "spec": {"template": {"spec": {"containers": [container]}}}}))
        };
        let start = Instant::now();
        let observed = |state| Observation { state: Some(state), ..Observation::default() };
        let probed = deployment(json!({"readinessProbe": {}}));
        assert!(Pending { last: observed(State::Done), ..Pending::of(&probed) }.is_settled(start));
        let unprobed = deployment(json!({}));
        let mut one = Pending { last: observed(State::Done), ..Pending::of(&unprobed) };
        assert!(!one.is_settled(start));
        one.last = observed(State::Waiting("0/1 ready".into()));
        assert!(!one.is_settled(start + STABLE_TIME), "its guest trapped");
        one.last = observed(State::Done);
        assert!(!one.is_settled(start + STABLE_TIME * 2));
        assert!(one.is_settled(start + STABLE_TIME * 3));
    }

    #[test]
    fn lasting_trouble_is_given_up_after_a_grace_and_other_trouble_is_not() {
        let object = outcome(json!({"kind": "Deployment", "metadata": {"namespace": "n"}}));
        let problem = |lasting| Problem {
            object: "pod/p".into(),
            reason: "ErrImagePull".into(),
            message: "none".into(),
            lasting,
            old: false,
            output: None,
        };
        let waiting = |lasting| Observation {
            state: Some(State::Waiting("0/1 ready".into())),
            problems: vec![problem(lasting)],
            ..Observation::default()
        };
        let dir = DataDir::locate(Some("/tmp/my data".as_ref())).expect("a path");
        let options = WaitOptions { timeout: RECOVERY_TIME, since: Timestamp::UNIX_EPOCH, node: None, dir: Some(&dir) };
        let mut one = Pending { last: waiting(true), ..Pending::of(&object) };
        let start = Instant::now();
        assert!(one.failure(start, &options).is_none());
        let error = one.failure(start + RECOVERY_TIME, &options).expect("given up").to_string();
        assert!(error.contains("service/hello: pod/p: ErrImagePull\n"), "{error}");
        assert!(error.ends_with("kubectl --kubeconfig '/tmp/my data/kubeconfig' describe -n n pod/p"), "{error}");
        one.last = waiting(false);
        assert!(one.failure(start + RECOVERY_TIME * 2, &options).is_none());
        one.last = waiting(true);
        assert!(one.failure(start + RECOVERY_TIME * 3, &options).is_none(), "the grace begins again");
        one.last.state = Some(State::Failed("Failed".into()));
        assert!(one.failure(start + RECOVERY_TIME * 3, &options).is_some(), "at once");
    }

    #[test]
    fn a_port_that_is_taken_may_be_free_again() {
        let object = outcome(json!({"kind": "Service", "metadata": {"namespace": "n"}}));
        let taken = Problem {
            object: object.label.clone(),
            reason: observe::TAKEN.into(),
            message: "node port 30080 of service/hello is taken by process 7 (nginx)".into(),
            lasting: true,
            old: false,
            output: None,
        };
        let state = Some(State::Waiting("node port 30080 is not open".into()));
        let last = Observation { state, problems: vec![taken], ..Observation::default() };
        let mut one = Pending { last, ..Pending::of(&object) };
        let options = WaitOptions { timeout: RECOVERY_TIME, since: Timestamp::UNIX_EPOCH, node: None, dir: None };
        let start = Instant::now();
        assert!(one.failure(start, &options).is_none());
        let error = one.failure(start + RECOVERY_TIME, &options).expect("given up").to_string();
        assert!(
            error.starts_with("not ready while its port is taken: service/hello: NodePortUnavailable\n"),
            "{error}"
        );
    }

    #[test]
    fn a_pod_of_before_the_apply_is_given_time_until_it_has_tried_again() {
        let object = outcome(json!({"kind": "Deployment", "metadata": {"namespace": "n"}}));
        let waiting = |reason: &str| Observation {
            state: Some(State::Waiting("0/1 ready".into())),
            problems: vec![Problem {
                object: "pod/p".into(),
                reason: reason.into(),
                message: String::new(),
                lasting: true,
                old: true,
                output: None,
            }],
            ..Observation::default()
        };
        let options = WaitOptions { timeout: OLD_RECOVERY_TIME, since: Timestamp::UNIX_EPOCH, node: None, dir: None };
        let start = Instant::now();
        let begun = |reason: &str| {
            let mut one = Pending { last: waiting(reason), ..Pending::of(&object) };
            assert!(one.failure(start, &options).is_none());
            one
        };
        let mut one = begun(state::PULL_BACK_OFF);
        assert!(one.failure(start + RECOVERY_TIME * 2, &options).is_none(), "it has not tried again");
        assert!(one.failure(start + OLD_RECOVERY_TIME, &options).is_some(), "but it is not waited for for ever");
        let mut one = begun(state::PULL_BACK_OFF);
        for reason in ["ErrImagePull", state::PULL_BACK_OFF] {
            one.last = waiting(reason);
            assert!(one.failure(start + RECOVERY_TIME, &options).is_some(), "{reason} is the answer of now");
        }
        let mut one = begun("ErrImagePull");
        one.last = waiting(state::PULL_BACK_OFF);
        assert!(one.failure(start + RECOVERY_TIME, &options).is_none(), "that was the answer of before");
    }
}
