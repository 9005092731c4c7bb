use super::*;
use crate::state::{Attempt, AttemptState, Failure};
use expect_test::{Expect, expect};
use serde_json::{Value, json};

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

/// A pod with the state of its containers.
struct Case {
    pod: Pod,
    state: PodState,
    live: LiveState,
}

fn case(spec: Value) -> Case {
    let mut spec = spec;
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            container["image"] = "i".into();
        }
    }
    let pod =
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap();
    let state = PodState { started: Some(ago(60)), ..PodState::default() };
    Case { pod, state, live: LiveState { setup: Setup::Ready, ..LiveState::default() } }
}

fn apps(policy: &str, names: &[&str]) -> Case {
    let containers: Vec<_> = names.iter().map(|n| json!({"name": n})).collect();
    case(json!({"restartPolicy": policy, "containers": containers}))
}

/// `init` is an init container, `side` a sidecar, `app` an app container.
fn with_init(policy: &str) -> Case {
    case(json!({
        "restartPolicy": policy,
        "initContainers": [{"name": "init"}, {"name": "side", "restartPolicy": "Always"}, {"name": "init2"}],
        "containers": [{"name": "app"}]
    }))
}

impl Case {
    fn attempt(mut self, name: &str, state: AttemptState) -> Self {
        let attempt = Attempt {
            id: name.into(),
            runtime: "wasmtime".into(),
            image: "i".into(),
            image_id: String::new(),
            volume_images: Vec::new(),
            log: 0,
            state,
            given: None,
        };
        self.state.containers.entry(name.into()).or_default().current = Some(Box::new(attempt));
        self
    }

    fn runs(mut self, name: &str) -> Self {
        self.live.containers.entry(name.into()).or_default().started = true;
        self.attempt(name, AttemptState::Running { started_at: ago(30) })
    }

    fn ended(self, name: &str, code: i32, seconds_ago: i64) -> Self {
        let ended = Terminated {
            container_id: String::new(),
            code,
            reason: String::new(),
            message: String::new(),
            started_at: None,
            finished_at: Some(ago(seconds_ago)),
            drained: false,
        };
        self.attempt(name, AttemptState::Exited(ended))
    }

    fn backoff(mut self, name: &str, seconds: i64) -> Self {
        let backoff = Backoff { delay: SignedDuration::from_secs(seconds), updated: ago(30) };
        self.state.containers.entry(name.into()).or_default().backoff = Some(backoff);
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn live(self, name: &str, change: impl FnOnce(&mut LiveContainer)) -> Self {
        self.with(|case| change(case.live.containers.entry(name.into()).or_default()))
    }

    fn deleting(self) -> Self {
        self.with(|case| {
            case.pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
            case.pod.metadata.deletion_grace_period_seconds = Some(5);
        })
    }

    #[track_caller]
    fn plans(self, expected: Expect) {
        let plan = plan(&self.pod, &self.state, &self.live, now());
        let line = |action: &Action| match action {
            Action::SetUp => "set up".to_owned(),
            Action::Start(name) => format!("start {name}"),
            Action::Cancel(name) => format!("cancel {name}"),
            Action::BackOff { container, delay, .. } => format!("back off {container} {}s", delay.as_secs()),
            Action::Stop { container, grace, message } => format!("stop {container} {}s: {message}", grace.as_secs()),
            Action::Resize(name) => format!("resize {name}"),
            Action::Fail { reason, .. } => format!("fail {reason}"),
            Action::TearDown => "tear down".to_owned(),
            Action::Finish => "finish".to_owned(),
        };
        let mut lines: Vec<_> = plan.actions.iter().map(line).collect();
        if let Some(wake) = plan.wake {
            lines.push(format!("wake in {}s", wake.duration_since(now()).as_secs()));
        }
        expected.assert_eq(&lines.join("\n"));
    }
}

#[test]
fn the_pod_is_set_up_before_its_containers() {
    apps("Always", &["a"]).with(|c| c.live.setup = Setup::None).plans(expect!["set up"]);
    apps("Always", &["a"]).with(|c| c.live.setup = Setup::InProgress).plans(expect![""]);
    apps("Always", &["a"])
        .with(|c| c.live.setup = Setup::Failed(now() + SignedDuration::from_secs(4)))
        .plans(expect!["wake in 4s"]);
    apps("Always", &["a"]).with(|c| c.live.setup = Setup::Failed(ago(1))).plans(expect!["set up"]);
}

#[test]
fn app_containers_start_together_and_are_left_alone_while_they_run() {
    apps("Always", &["a", "b"]).plans(expect![[r#"
        start a
        start b"#]]);
    apps("Always", &["a", "b"]).runs("a").plans(expect!["start b"]);
    apps("Always", &["a", "b"]).runs("a").live("b", |l| l.operation = Operation::Starting).plans(expect![""]);
}

#[test]
fn ended_containers_restart_as_their_policy_says() {
    apps("Always", &["a", "b"]).ended("a", 0, 1).runs("b").plans(expect!["start a"]);
    apps("OnFailure", &["a", "b"]).ended("a", 0, 1).runs("b").plans(expect![""]);
    apps("OnFailure", &["a", "b"]).ended("a", 1, 1).runs("b").plans(expect!["start a"]);
    apps("Never", &["a", "b"]).ended("a", 1, 1).runs("b").plans(expect![""]);
    // A container's own policy overrides the pod's.
    case(json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Always"}]}))
        .ended("a", 1, 1)
        .plans(expect!["start a"]);
}

#[test]
fn restarts_are_held_back_by_the_back_off() {
    apps("Always", &["a"]).ended("a", 1, 3).backoff("a", 10).plans(expect![[r#"
        back off a 10s
        wake in 7s"#]]);
    apps("Always", &["a"]).ended("a", 1, 11).backoff("a", 10).plans(expect!["start a"]);
}

#[test]
fn a_failed_start_is_tried_again_when_it_is_due() {
    let waiting = |until| Some(Waiting { reason: "ErrImagePull".into(), message: String::new(), until });
    apps("Always", &["a"])
        .live("a", |l| l.waiting = waiting(Some(now() + SignedDuration::from_secs(9))))
        .plans(expect!["wake in 9s"]);
    apps("Always", &["a"]).live("a", |l| l.waiting = waiting(Some(ago(0)))).plans(expect!["start a"]);
    apps("Always", &["a"]).live("a", |l| l.waiting = waiting(None)).plans(expect!["start a"]);
}

#[test]
fn init_containers_run_one_after_another_and_sidecars_when_started() {
    with_init("Always").plans(expect!["start init"]);
    with_init("Always").runs("init").plans(expect![""]);
    with_init("Always").ended("init", 0, 1).plans(expect!["start side"]);
    with_init("Always").ended("init", 0, 1).runs("side").live("side", |l| l.started = false).plans(expect![""]);
    with_init("Always").ended("init", 0, 1).runs("side").plans(expect!["start init2"]);
    with_init("Always").ended("init", 0, 9).runs("side").ended("init2", 0, 1).plans(expect!["start app"]);
    // A sidecar that exits before the pod is initialized restarts before the next init container.
    with_init("Never").ended("init", 0, 9).ended("side", 0, 1).plans(expect!["start side"]);
}

#[test]
fn what_came_after_a_sidecar_does_not_wait_for_it_again() {
    let crashed = || with_init("Always").ended("init", 0, 9).ended("side", 7, 3).backoff("side", 10);
    crashed().runs("init2").plans(expect![[r#"
        back off side 10s
        wake in 7s"#]]);
    crashed().ended("init2", 0, 1).plans(expect![[r#"
        back off side 10s
        start app
        wake in 7s"#]]);
    crashed().ended("init2", 1, 1).plans(expect![[r#"
        back off side 10s
        start init2
        wake in 7s"#]]);
    // After a restart of the process, containers start in the original order.
    let drained = |case: &mut Case| {
        for record in case.state.containers.values_mut() {
            let Some(AttemptState::Exited(ended)) = record.current.as_mut().map(|attempt| &mut attempt.state) else {
                continue;
            };
            ended.drained = true;
        }
    };
    let cut = || with_init("Always").ended("init", 0, 9).ended("side", 143, 1).ended("init2", 143, 1).with(drained);
    cut().plans(expect!["start side"]);
    cut().runs("side").plans(expect!["start init2"]);
}

#[test]
fn failed_init_containers_are_tried_again_unless_the_pod_says_never() {
    with_init("Always").ended("init", 1, 1).plans(expect!["start init"]);
    with_init("OnFailure").ended("init", 1, 1).backoff("init", 20).plans(expect![[r#"
        back off init 20s
        wake in 19s"#]]);
    with_init("Never").ended("init", 1, 1).plans(expect!["tear down"]);
}

#[test]
fn an_initialized_pod_runs_no_init_container_again_but_keeps_its_sidecars() {
    let case = || with_init("Always").ended("init", 1, 1).ended("init2", 1, 1).runs("app");
    case().runs("side").plans(expect![""]);
    case().ended("side", 0, 1).plans(expect!["start side"]);
}

#[test]
fn probes_and_changed_images_stop_a_container() {
    let unhealthy = |grace| move |l: &mut LiveContainer| l.unhealthy = Some(("m".into(), grace));
    apps("Always", &["a"]).runs("a").live("a", unhealthy(None)).plans(expect!["stop a 30s: m"]);
    apps("Always", &["a"]).runs("a").live("a", unhealthy(Some(Duration::from_secs(3)))).plans(expect!["stop a 3s: m"]);
    apps("Always", &["a"])
        .runs("a")
        .live("a", unhealthy(None))
        .live("a", |l| l.operation = Operation::Stopping(Duration::from_secs(30)))
        .plans(expect![""]);
    apps("Always", &["a"])
        .runs("a")
        .with(|c| c.pod.spec.as_mut().unwrap().containers[0].image = Some("other".into()))
        .plans(expect!["stop a 30s: Container a definition changed, will be restarted"]);
}

#[test]
fn deletion_stops_apps_then_sidecars_then_undoes_everything() {
    let all = || with_init("Always").ended("init", 0, 9).ended("init2", 0, 9);
    all().runs("side").runs("app").deleting().plans(expect!["stop app 5s: Stopping container app"]);
    all()
        .runs("side")
        .runs("app")
        .live("app", |l| l.operation = Operation::Stopping(Duration::from_secs(5)))
        .deleting()
        .plans(expect![""]);
    all().runs("side").ended("app", 143, 1).deleting().plans(expect!["stop side 5s: Stopping container side"]);
    all().ended("side", 143, 1).ended("app", 143, 1).deleting().plans(expect!["tear down"]);
    all()
        .ended("side", 143, 1)
        .ended("app", 143, 1)
        .deleting()
        .with(|c| c.live.setup = Setup::TearingDown)
        .plans(expect![""]);
    all()
        .ended("side", 143, 1)
        .ended("app", 143, 1)
        .deleting()
        .with(|c| c.live.setup = Setup::None)
        .plans(expect!["finish"]);
}

#[test]
fn a_shorter_grace_period_is_passed_on_and_starts_are_given_up() {
    apps("Always", &["a"])
        .runs("a")
        .live("a", |l| l.operation = Operation::Stopping(Duration::from_secs(30)))
        .deleting()
        .plans(expect!["stop a 5s: Stopping container a"]);
    apps("Always", &["a"]).live("a", |l| l.operation = Operation::Starting).deleting().plans(expect!["cancel a"]);
    apps("Always", &["a"]).runs("a").with(|c| c.live.gone = true).plans(expect!["stop a 30s: Stopping container a"]);
}

#[test]
fn a_finished_pod_is_undone_and_left_until_it_is_deleted() {
    apps("Never", &["a", "b"]).ended("a", 0, 1).ended("b", 1, 1).plans(expect!["tear down"]);
    apps("Never", &["a"]).ended("a", 0, 1).with(|c| c.live.setup = Setup::None).plans(expect![""]);
    apps("Never", &["a"]).ended("a", 0, 1).with(|c| c.live.setup = Setup::None).deleting().plans(expect!["finish"]);
    // The sidecars of a finished pod are stopped.
    with_init("Never")
        .ended("init", 0, 9)
        .ended("init2", 0, 9)
        .ended("app", 0, 1)
        .runs("side")
        .plans(expect!["stop side 30s: Stopping container side"]);
    // A terminal phase in the API overrides the known state.
    apps("Always", &["a"])
        .with(|c| c.pod.status = serde_json::from_value(json!({"phase": "Failed"})).unwrap())
        .with(|c| c.live.setup = Setup::None)
        .plans(expect![""]);
}

#[test]
fn volumes_that_are_recorded_are_removed_before_the_pod_is_finished() {
    let recorded = |setup: Setup| {
        let made = crate::volumes::VolumeRecord { volume: "v".into(), plugin: "kubernetes.io/empty-dir".into() };
        apps("Never", &["a"]).with(|c| (c.state.volumes, c.live.setup) = (vec![made], setup))
    };
    // An earlier process set up the volumes, or a setup or teardown failed.
    for setup in [Setup::None, Setup::Failed(ago(-9)), Setup::TeardownFailed(ago(0))] {
        recorded(setup.clone()).deleting().plans(expect!["tear down"]);
        recorded(setup.clone()).with(|c| c.live.gone = true).plans(expect!["tear down"]);
        recorded(setup).ended("a", 0, 1).plans(expect!["tear down"]);
    }
    recorded(Setup::TeardownFailed(ago(-9))).deleting().plans(expect!["wake in 9s"]);
    recorded(Setup::TearingDown).deleting().plans(expect![""]);
    recorded(Setup::None).plans(expect!["set up"]);
}

#[test]
fn a_deadline_fails_the_pod_when_it_is_over() {
    let deadline = |seconds| {
        apps("Always", &["a"]).runs("a").with(|c| c.pod.spec.as_mut().unwrap().active_deadline_seconds = Some(seconds))
    };
    deadline(100).plans(expect!["wake in 40s"]);
    deadline(60).plans(expect!["fail DeadlineExceeded"]);
    deadline(60)
        .with(|c| {
            c.state.failure = Some(Failure {
                reason: "DeadlineExceeded".into(),
                message: String::new(),
                rejected: false,
                pressure: false,
            })
        })
        .plans(expect!["stop a 30s: Stopping container a"]);
}
