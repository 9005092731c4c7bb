use super::*;
use crate::{plan::Waiting, state::Failure};
use serde_json::{Value, json};

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

#[derive(Clone, Copy)]
enum Does {
    /// It never started.
    Nothing,
    /// It runs and is ready.
    Runs,
    /// It runs, and its startup probe has not succeeded.
    Starts,
    /// It runs and is not ready.
    Unready,
    /// It terminated.
    Terminated(i32),
    /// It terminated and waits for its restart.
    Crashed(i32),
}
use Does::{Crashed, Nothing, Runs, Starts, Terminated as Over, Unready};

fn make(pod: &Pod, does: &[(&str, Does)]) -> (PodState, LiveState) {
    let mut state = PodState { started: Some(now()), ..PodState::default() };
    let mut live = LiveState { setup: Setup::Ready, ..LiveState::default() };
    for (name, does) in does {
        let ended = |code| {
            AttemptState::Exited(Terminated {
                container_id: "wasmtime://x".into(),
                code,
                reason: if code == 0 { "Completed".into() } else { "Error".into() },
                message: String::new(),
                started_at: Some(now()),
                finished_at: Some(now()),
                drained: false,
            })
        };
        let own = live.containers.entry((*name).into()).or_default();
        let running = AttemptState::Running { started_at: now() };
        let attempt = match does {
            Nothing => continue,
            Runs | Starts | Unready => running,
            Over(code) => ended(*code),
            Crashed(code) => {
                own.waiting = Some(Waiting { reason: "CrashLoopBackOff".into(), message: "m".into(), until: None });
                ended(*code)
            }
        };
        own.started = matches!(does, Runs | Unready);
        own.ready = matches!(does, Runs | Starts);
        let image = pod::container(pod, name).unwrap().0.image.clone().unwrap_or_default();
        let attempt = Attempt {
            id: "x".into(),
            runtime: "wasmtime".into(),
            image,
            image_id: "id".into(),
            volume_images: Vec::new(),
            log: 0,
            state: attempt,
            given: None,
        };
        state.containers.entry((*name).into()).or_default().current = Some(Box::new(attempt));
    }
    (state, live)
}

fn pod(policy: &str, init: &[&str], apps: &[&str]) -> Pod {
    let of = |names: &[&str]| -> Vec<Value> {
        let one = |n: &&str| match n.strip_prefix('+') {
            Some(sidecar) => json!({"name": sidecar, "image": "i", "restartPolicy": "Always"}),
            None => json!({"name": n, "image": "i"}),
        };
        names.iter().map(one).collect()
    };
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3},
        "spec": {"restartPolicy": policy, "initContainers": of(init), "containers": of(apps)}
    }))
    .unwrap()
}

fn status_of(pod: &Pod, does: &[(&str, Does)], is_final: bool) -> PodStatus {
    let (state, live) = make(pod, does);
    let input = Input { state: &state, live: &live, host: &[], addresses: &[], reported: None, is_final, now: now() };
    generate(pod, &input)
}

fn phase_of(pod: &Pod, does: &[(&str, Does)]) -> String {
    status_of(pod, does, false).phase.unwrap()
}

#[test]
fn phases_of_app_containers() {
    for (policy, a, b, expected) in [
        ("Always", Nothing, Nothing, "Pending"),
        ("Always", Runs, Nothing, "Pending"),
        ("Always", Runs, Runs, "Running"),
        ("Always", Starts, Unready, "Running"),
        ("Always", Over(0), Over(0), "Running"),
        ("Always", Crashed(1), Crashed(1), "Running"),
        ("Always", Runs, Crashed(1), "Running"),
        ("OnFailure", Over(0), Over(0), "Succeeded"),
        ("OnFailure", Over(0), Over(1), "Running"),
        ("OnFailure", Over(0), Crashed(1), "Running"),
        ("OnFailure", Over(0), Runs, "Running"),
        ("Never", Over(0), Over(0), "Succeeded"),
        ("Never", Over(0), Over(1), "Failed"),
        ("Never", Over(1), Runs, "Running"),
    ] {
        let pod = pod(policy, &[], &["a", "b"]);
        assert_eq!(phase_of(&pod, &[("a", a), ("b", b)]), expected, "{policy}");
    }
}

#[test]
fn phases_with_init_containers() {
    for (policy, init, side, app, expected) in [
        ("Always", Nothing, Nothing, Nothing, "Pending"),
        ("Always", Runs, Nothing, Nothing, "Pending"),
        ("Always", Crashed(1), Nothing, Nothing, "Pending"),
        ("Never", Over(1), Nothing, Nothing, "Failed"),
        ("Always", Over(0), Starts, Nothing, "Pending"),
        ("Always", Over(0), Runs, Nothing, "Pending"),
        ("Always", Over(0), Runs, Runs, "Running"),
        ("Always", Over(0), Crashed(1), Runs, "Running"),
        ("Always", Over(0), Starts, Runs, "Running"),
        ("Never", Over(0), Over(137), Over(0), "Succeeded"),
    ] {
        let pod = pod(policy, &["init", "+side"], &["app"]);
        assert_eq!(phase_of(&pod, &[("init", init), ("side", side), ("app", app)]), expected, "{policy}");
    }
}

fn conditions_of(status: &PodStatus) -> Vec<String> {
    let line = |c: &PodCondition| {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        format!("{} {} {} {}", c.type_, c.status, text(&c.reason), text(&c.message)).trim_end().to_owned()
    };
    status.conditions.iter().flatten().map(line).collect()
}

#[test]
fn conditions_name_what_is_missing() {
    let p = pod("Always", &["one", "+two"], &["a", "b"]);
    let status = status_of(&p, &[("one", Over(0)), ("two", Starts), ("a", Nothing)], false);
    assert_eq!(
        conditions_of(&status),
        [
            "PodReadyToStartContainers True",
            "Initialized False ContainersNotInitialized containers with incomplete status: [two]",
            "Ready False ContainersNotReady containers with unready status: [two a b]",
            "ContainersReady False ContainersNotReady containers with unready status: [two a b]",
            "PodScheduled True",
        ]
    );
    assert!(status.conditions.iter().flatten().all(|c| c.observed_generation == Some(3)));
    let ready = status_of(&p, &[("one", Over(0)), ("two", Runs), ("a", Runs), ("b", Runs)], false);
    assert!(ready.conditions.iter().flatten().all(|c| c.status == "True"));
    let p = pod("Never", &[], &["a"]);
    let done = conditions_of(&status_of(&p, &[("a", Over(0))], true));
    assert!(done.contains(&"Ready False PodCompleted".to_owned()), "{done:?}");
    assert!(done.contains(&"Initialized True PodCompleted".to_owned()), "{done:?}");
    let failed = conditions_of(&status_of(&p, &[("a", Over(1))], true));
    assert!(failed.contains(&"ContainersReady False PodFailed".to_owned()), "{failed:?}");
}

#[test]
fn readiness_gates_hold_ready_back() {
    let gate = |status: Option<&str>| {
        let mut pod = pod("Always", &[], &["a"]);
        pod.spec.as_mut().unwrap().readiness_gates = serde_json::from_value(json!([{"conditionType": "x/y"}])).unwrap();
        if let Some(status) = status {
            pod.status = serde_json::from_value(json!({"conditions": [{"type": "x/y", "status": status}]})).unwrap();
        }
        conditions_of(&status_of(&pod, &[("a", Runs)], false))[2].clone()
    };
    assert_eq!(
        gate(None),
        "Ready False ReadinessGatesNotReady corresponding condition of pod readiness gate \"x/y\" does not exist."
    );
    assert_eq!(
        gate(Some("False")),
        "Ready False ReadinessGatesNotReady the status of pod readiness gate \"x/y\" is not \"True\", but False"
    );
    assert_eq!(gate(Some("True")), "Ready True");
}

#[test]
fn transition_times_stay_until_the_status_turns() {
    let mut p = pod("Always", &[], &["a"]);
    p.status = serde_json::from_value(json!({"conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "2025-01-01T00:00:00Z"},
        {"type": "ContainersReady", "status": "False", "lastTransitionTime": "2025-01-01T00:00:00Z"}]}))
    .unwrap();
    let status = status_of(&p, &[("a", Runs)], false);
    let at = |kind: &str| {
        let all = status.conditions.as_ref().unwrap();
        all.iter().find(|c| c.type_ == kind).unwrap().last_transition_time.as_ref().unwrap().0
    };
    assert_eq!(at("Ready").to_string(), "2025-01-01T00:00:00Z");
    assert_eq!(at("ContainersReady"), now());
}

#[test]
fn container_statuses_tell_state_last_state_and_readiness() {
    let p = pod("Always", &[], &["new", "runs", "crashed"]);
    let status = status_of(&p, &[("runs", Unready), ("crashed", Crashed(3))], false);
    let all = serde_json::to_value(status.container_statuses.unwrap()).unwrap();
    assert_eq!(all[0]["state"], json!({"waiting": {"reason": "ContainerCreating"}}));
    assert_eq!((&all[0]["imageID"], &all[0]["image"], &all[0]["started"]), (&json!(""), &json!("i"), &json!(false)));
    assert_eq!(all[1]["state"], json!({"running": {"startedAt": "2026-01-01T00:10:00Z"}}));
    assert_eq!((&all[1]["ready"], &all[1]["started"]), (&json!(false), &json!(true)));
    assert_eq!(all[1]["containerID"], "wasmtime://x");
    assert_eq!(all[2]["state"], json!({"waiting": {"reason": "CrashLoopBackOff", "message": "m"}}));
    assert_eq!(all[2]["lastState"]["terminated"]["exitCode"], 3);
    let p = pod("Always", &["init"], &["a"]);
    let status = serde_json::to_value(status_of(&p, &[], false)).unwrap();
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
}

#[test]
fn a_deadline_is_told_only_when_nothing_runs_any_more() {
    let p = pod("Always", &[], &["a"]);
    let told = |does, is_final| {
        let (mut state, live) = make(&p, &[("a", does)]);
        state.failure =
            Some(Failure { reason: "DeadlineExceeded".into(), message: "m".into(), rejected: false, pressure: false });
        let input =
            Input { state: &state, live: &live, host: &[], addresses: &[], reported: None, is_final, now: now() };
        let status = generate(&p, &input);
        (status.phase.unwrap(), status.reason)
    };
    assert_eq!(told(Runs, false), ("Running".into(), None));
    assert_eq!(told(Over(143), true), ("Failed".into(), Some("DeadlineExceeded".into())));
}

#[test]
fn the_last_report_of_a_pod_that_did_not_end_by_itself_is_failed() {
    let p = pod("Always", &[], &["a", "b"]);
    assert_eq!(status_of(&p, &[], true).phase.unwrap(), "Failed");
    let status = status_of(&p, &[("a", Over(0))], true);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let b = serde_json::to_value(&status.container_statuses.unwrap()[1]).unwrap();
    assert_eq!(b["state"]["terminated"]["reason"], "ContainerStatusUnknown");
    let status = status_of(&p, &[("a", Over(0)), ("b", Over(0))], true);
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
}
