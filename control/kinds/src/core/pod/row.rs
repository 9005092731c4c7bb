//! The table row of a pod (`kubectl get pods`), with upstream's precedence of reasons.

use crate::{at::At, cells};
use api::Object;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashSet;

/// Restarts so far, and when the last one was.
#[derive(Default, Clone)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: At<'_>) {
        self.count += status.get("restartCount").int().unwrap_or(0);
        let ended = status.down(&["lastState", "terminated", "finishedAt"]).str().parse().ok();
        self.last = self.last.max(ended);
    }
}

pub(super) fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (At::of(object, "spec"), At::of(object, "status"));
    let summary = summary(object);
    let restarts = match summary.restarts.last.filter(|_| summary.restarts.count != 0) {
        Some(last) => {
            format!("{} ({} ago)", summary.restarts.count, api::time::human_duration(now.duration_since(last)))
        }
        None => summary.restarts.count.to_string(),
    };
    let or_none = |text: &str| json!(if text.is_empty() { "<none>" } else { text });
    vec![
        json!(object.name()),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.reason),
        json!(restarts),
        cells::age(object, now),
        or_none(status.get("podIPs").index(0).get("ip").str()),
        or_none(spec.get("nodeName").str()),
        or_none(status.get("nominatedNodeName").str()),
        json!(gates(spec, status)),
    ]
}

struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: Restarts,
}

fn summary(object: &Object) -> Summary {
    let (spec, status) = (At::of(object, "spec"), At::of(object, "status"));
    let own = |name| status.get(name).str();
    let mut reason = if own("reason").is_empty() { own("phase") } else { own("reason") }.to_owned();
    if status
        .get("conditions")
        .items()
        .any(|c| c.get("type").str() == "PodScheduled" && c.get("reason").str() == "SchedulingGated")
    {
        reason = "SchedulingGated".to_owned();
    }
    let always = spec.get("initContainers").items().filter(|c| c.get("restartPolicy").str() == "Always");
    let sidecars = always.clone().count();
    let restartable: HashSet<&str> = always.map(|c| c.get("name").str()).collect();
    let mut ready = 0;
    let (mut restarts, mut sidecar_restarts) = (Restarts::default(), Restarts::default());
    let mut initializing = false;
    for (i, container) in status.get("initContainerStatuses").items().enumerate() {
        let sidecar = restartable.contains(container.get("name").str());
        restarts.add(container);
        if sidecar {
            sidecar_restarts.add(container);
        }
        let (terminated, waiting) = (container.down(&["state", "terminated"]), container.down(&["state", "waiting"]));
        if terminated.is_set() && terminated.get("exitCode").int().unwrap_or(0) == 0 {
            continue;
        }
        if sidecar && container.get("started").bool() {
            ready += usize::from(container.get("ready").bool());
            continue;
        }
        initializing = true;
        reason = if terminated.is_set() {
            format!("Init:{}", ended(terminated))
        } else if !matches!(waiting.get("reason").str(), "" | "PodInitializing") {
            format!("Init:{}", waiting.get("reason").str())
        } else {
            format!("Init:{i}/{}", spec.get("initContainers").len())
        };
        break;
    }
    let condition = |kind: &str| {
        status.get("conditions").items().any(|c| c.get("type").str() == kind && c.get("status").str() == "True")
    };
    if !initializing || condition("Initialized") {
        restarts = sidecar_restarts;
        main_containers(status, condition("Ready"), &mut reason, &mut ready, &mut restarts);
    }
    let finished = matches!(own("phase"), "Succeeded" | "Failed");
    if object.is_deleting() && own("reason") == "NodeLost" {
        reason = "Unknown".to_owned();
    } else if object.is_deleting() && !finished {
        reason = "Terminating".to_owned();
    }
    Summary { reason, ready, total: spec.get("containers").len() + sidecars, restarts }
}

/// Why a container ended: its reason, else its signal or exit code.
fn ended(terminated: At<'_>) -> String {
    let number = |name| terminated.get(name).int().unwrap_or(0);
    match terminated.get("reason").str() {
        "" if number("signal") != 0 => format!("Signal:{}", number("signal")),
        "" => format!("ExitCode:{}", number("exitCode")),
        reason => reason.to_owned(),
    }
}

fn main_containers(status: At<'_>, pod_ready: bool, reason: &mut String, ready: &mut usize, restarts: &mut Restarts) {
    let mut running = false;
    let mut error = String::new();
    let containers: Vec<At<'_>> = status.get("containerStatuses").items().collect();
    for container in containers.into_iter().rev() {
        restarts.add(container);
        let state = container.get("state");
        let (waiting, terminated) = (state.down(&["waiting", "reason"]), state.get("terminated"));
        if !waiting.str().is_empty() {
            *reason = waiting.str().to_owned();
        } else if terminated.is_set() {
            *reason = ended(terminated);
            if terminated.get("exitCode").int().unwrap_or(0) != 0 {
                error.clone_from(reason);
            }
        } else if container.get("ready").bool() && state.get("running").is_set() {
            running = true;
            *ready += 1;
        }
    }
    if reason == "Completed" {
        if running && pod_ready {
            *reason = "Running".to_owned();
        } else if !error.is_empty() {
            *reason = error;
        } else if running {
            *reason = "NotReady".to_owned();
        }
    }
}

fn gates(spec: At<'_>, status: At<'_>) -> String {
    let gates = spec.get("readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = |gate: &At<'_>| {
        let kind = gate.get("conditionType").str();
        let mut conditions = status.get("conditions").items();
        conditions.find(|c| c.get("type").str() == kind).is_some_and(|c| c.get("status").str() == "True")
    };
    format!("{}/{}", gates.items().filter(open).count(), gates.len())
}

#[cfg(test)]
mod tests {
    use super::super::Pods;
    use crate::testing::row;

    fn shown(status: &str) -> String {
        let text = format!(
            "{{metadata: {{name: p, creationTimestamp: '2026-01-01T00:00:00Z'}}, spec: {{nodeName: n1, containers: [{{name: a}}, {{name: b}}], initContainers: [{{name: i}}, {{name: s, restartPolicy: Always}}]}}, status: {status}}}"
        );
        row(&Pods(Default::default()), &text)
    }

    #[test]
    fn the_reason_that_matters_is_shown() {
        let cases = [
            ("{phase: Pending}", "p | 0/3 | Pending | 0 | 60s | <none> | n1 | <none> | <none>"),
            (
                "{phase: Pending, initContainerStatuses: [{name: i, state: {running: {}}}]}",
                "p | 0/3 | Init:0/2 | 0 | 60s | <none> | n1 | <none> | <none>",
            ),
            (
                "{phase: Pending, initContainerStatuses: [{name: i, restartCount: 2, state: {terminated: {exitCode: 3}}}]}",
                "p | 0/3 | Init:ExitCode:3 | 2 | 60s | <none> | n1 | <none> | <none>",
            ),
            (
                "{phase: Running, podIPs: [{ip: 10.0.0.1}], initContainerStatuses: [{name: i, restartCount: 2, state: {terminated: {exitCode: 0}}}, {name: s, started: true, ready: true, restartCount: 1}], containerStatuses: [{ready: true, state: {running: {}}}, {ready: false, restartCount: 4, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {finishedAt: '2026-01-01T00:00:30Z'}}}]}",
                "p | 2/3 | CrashLoopBackOff | 5 (30s ago) | 60s | 10.0.0.1 | n1 | <none> | <none>",
            ),
            (
                "{phase: Running, conditions: [{type: Ready, status: 'True'}], containerStatuses: [{ready: true, state: {running: {}}}, {state: {terminated: {exitCode: 0, reason: Completed}}}]}",
                "p | 1/3 | Running | 0 | 60s | <none> | n1 | <none> | <none>",
            ),
            (
                "{phase: Running, conditions: [{type: Ready, status: 'True'}], containerStatuses: [{state: {terminated: {exitCode: 0, reason: Completed}}}, {ready: true, state: {running: {}}}]}",
                "p | 1/3 | Running | 0 | 60s | <none> | n1 | <none> | <none>",
            ),
            ("{phase: Failed, reason: Evicted}", "p | 0/3 | Evicted | 0 | 60s | <none> | n1 | <none> | <none>"),
        ];
        for (status, wanted) in cases {
            assert_eq!(shown(status), wanted, "{status}");
        }
    }

    #[test]
    fn deletion_and_gates_show() {
        let text = "{metadata: {name: p, deletionTimestamp: '2026-01-01T00:00:10Z'}, spec: {readinessGates: [{conditionType: x}, {conditionType: y}]}, status: {phase: Running, conditions: [{type: x, status: 'True'}]}}";
        assert_eq!(
            row(&Pods(Default::default()), text),
            "p | 0/0 | Terminating | 0 | <unknown> | <none> | <none> | <none> | 1/2"
        );
    }
}
