//! What every [`Runtime`] must do, as tests: `wasm`, `runc` and the fake run the same ones. [`network`] does the same for networks.
//!
//! A crate that implements a runtime writes a [`Fixture`] and one line in its tests:
//! `container::runtime_contract!(make_fixture);` where `make_fixture` is an async function without arguments.

pub mod network;

use crate::{
    Artifact, ContainerId, ContainerSpec, ContainerState, Error, Exec, Exit, ExitReason, HttpPolicy, Limits, Runtime,
    SandboxId, SandboxSpec, Stdin, Streams,
    net::{Sandbox, Sockets},
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Far beyond what any of this takes.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A program that a runtime can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Ends with this code, 0 to 9.
    Exit(u8),
    /// Prints its arguments, one per line, and ends with code 0.
    PrintArguments,
    /// Waits for ever without using CPU, and leaves signals alone.
    Wait,
    /// Uses all the CPU it gets, for ever.
    Spin,
    /// Uses more and more memory.
    Grow,
}

/// A runtime to test and what it needs.
pub trait Fixture: Send + Sync {
    /// The runtime.
    fn runtime(&self) -> Arc<dyn Runtime>;
    /// A pod's network; nothing is asked of it.
    fn sockets(&self) -> Arc<dyn Sockets>;
    /// A program and the arguments to give it, its name first.
    fn program(&self, program: Program) -> (Artifact, Vec<String>);
    /// A folder of the test's own.
    fn folder(&self) -> &Path;
    /// A command that can be run beside [`Program::Wait`], copies its standard input to its output and ends with this code; `None` where no
    /// second program can be run in a container.
    fn copies(&self, _code: i32) -> Option<Vec<String>> {
        None
    }
    /// Whether a running container's own streams can be joined; [`Program::Wait`] copies its standard input to its output then.
    fn attaches(&self) -> bool {
        false
    }
}

/// Makes one test per promise of [`Runtime`]; `$fixture` is an async function that gives a [`Fixture`].
#[macro_export]
macro_rules! runtime_contract {
    ($fixture:path) => {
        $crate::runtime_contract!(@ $fixture:
            exit_codes_are_reported,
            output_goes_to_the_log,
            a_stop_ends_within_the_grace_period,
            a_kill_ends_what_spins,
            memory_above_the_limit_is_an_oom_kill,
            states_are_announced_in_order,
            undoing_what_is_not_there_is_fine,
            removing_a_sandbox_ends_its_containers,
            attempts_do_not_mix,
            a_command_runs_beside_the_program_or_is_refused,
            streams_are_joined_or_it_is_refused,
        );
    };
    (@ $fixture:path: $($name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                $crate::contract::$name(&$fixture().await).await;
            }
        )*
    };
}

struct Pod<'a> {
    fixture: &'a dyn Fixture,
    runtime: Arc<dyn Runtime>,
    sandbox: SandboxId,
}

impl<'a> Pod<'a> {
    async fn new(fixture: &'a dyn Fixture) -> Self {
        let (runtime, sandbox): (_, SandboxId) = (fixture.runtime(), "pod-uid".into());
        let pod = Self { fixture, runtime, sandbox };
        // Twice: it is idempotent.
        pod.make().await;
        pod.make().await;
        pod
    }

    async fn make(&self) {
        let (hostname, labels) = ("pod".into(), Default::default());
        let spec = SandboxSpec {
            id: self.sandbox.clone(),
            hostname,
            labels,
            limits: Limits::default(),
            network: Sandbox::Virtual,
        };
        self.runtime.sandbox(spec, self.fixture.sockets()).await.expect("a sandbox can be made");
    }

    fn spec(&self, id: &str, program: Program) -> ContainerSpec {
        let (artifact, args) = self.fixture.program(program);
        ContainerSpec {
            id: id.into(),
            name: "main".into(),
            artifact,
            args,
            env: vec![("HOME".into(), "/".into())],
            cwd: None,
            mounts: vec![],
            ports: vec![],
            limits: Limits::default(),
            log: self.fixture.folder().join(format!("logs/{id}.log")),
            http: HttpPolicy { request_timeout: Some(TEST_TIMEOUT), ..HttpPolicy::default() },
            stdin: Stdin::Open,
            tty: false,
        }
    }

    async fn create(&self, spec: ContainerSpec) -> ContainerId {
        let id = spec.id.clone();
        let _prepared = self.runtime.prepare(&spec.artifact, "", &|_| ()).await.expect("it can be prepared");
        self.runtime.create(&self.sandbox, spec).await.expect("it can be created");
        id
    }

    async fn start(&self, spec: ContainerSpec) -> ContainerId {
        let id = self.create(spec).await;
        self.runtime.start(&id).await.expect("it can be started");
        id
    }

    async fn state(&self, id: &ContainerId) -> Option<ContainerState> {
        let all = self.runtime.list().await.expect("containers can be listed");
        all.into_iter().find(|status| status.id == *id).map(|status| status.state)
    }

    async fn exit(&self, id: &ContainerId) -> Exit {
        let wait = async {
            let mut events = self.runtime.events();
            loop {
                if let Some(ContainerState::Exited(exit)) = self.state(id).await {
                    return exit;
                }
                let _ = events.recv().await;
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, wait).await.expect("it ends")
    }
}

/// A program's exit code and reason are what it gave.
pub async fn exit_codes_are_reported(fixture: &dyn Fixture) {
    let pod = Pod::new(fixture).await;
    for code in [0, 1, 7] {
        let id = pod.start(pod.spec(&format!("exit-{code}"), Program::Exit(code))).await;
        let exit = pod.exit(&id).await;
        let reason = if code == 0 { ExitReason::Completed } else { ExitReason::Error };
        assert_eq!((exit.code, exit.reason), (i32::from(code), reason));
        assert!(exit.started_at.is_some_and(|started| started <= exit.finished_at));
    }
}

/// Standard output is in the log, in CRI format, when the end is known.
pub async fn output_goes_to_the_log(fixture: &dyn Fixture) {
    let pod = Pod::new(fixture).await;
    let spec = pod.spec("print", Program::PrintArguments);
    let (path, args) = (spec.log.clone(), spec.args.clone());
    let id = pod.start(spec).await;
    pod.exit(&id).await;
    let text = std::fs::read_to_string(path).expect("there is a log");
    let lines: Vec<&str> =
        text.lines().filter_map(|line| line.split_once(" stdout F ").map(|(_, text)| text)).collect();
    assert!(args.iter().all(|arg| lines.contains(&arg.as_str())), "{args:?} in {text}");
}

/// Nobody outlives a stop's grace period.
pub async fn a_stop_ends_within_the_grace_period(fixture: &dyn Fixture) {
    let pod = Pod::new(fixture).await;
    let id = pod.start(pod.spec("wait", Program::Wait)).await;
    assert!(matches!(pod.state(&id).await, Some(ContainerState::Running { .. })));
    let stop = pod.runtime.stop(&id, Duration::from_millis(500));
    tokio::time::timeout(TEST_TIMEOUT, stop).await.expect("it returns").expect("it can be stopped");
    let Some(ContainerState::Exited(exit)) = pod.state(&id).await else { panic!("a stop returns when it has ended") };
    assert!([0, 137, 143].contains(&exit.code), "{exit:?}");
    pod.runtime.stop(&id, Duration::ZERO).await.expect("stopping twice is fine");
}

/// A stop without grace ends a program that never looks up.
pub async fn a_kill_ends_what_spins(fixture: &dyn Fixture) {
    let pod = Pod::new(fixture).await;
    let id = pod.start(pod.spec("spin", Program::Spin)).await;
    pod.runtime.stop(&id, Duration::ZERO).await.expect("it can be killed");
    assert_eq!(pod.exit(&id).await.code, 137);
}

/// Memory is bounded, and the reason says so.
pub async fn memory_above_the_limit_is_an_oom_kill(fixture: &dyn Fixture) {
    let pod = Pod::new(fixture).await;
    let mut spec = pod.spec("grow", Program::Grow);
    spec.limits.memory_bytes = Some(32 << 20);
    let id = pod.start(spec).await;
    let exit = pod.exit(&id).await;
    assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled), "{}", exit.message);
}

/// Created, running, exited: each once, in this order, with the same story as the list.
pub async fn states_are_announced_in_order(fixture: &dyn Fixture) {
    let pod = Pod::new(fixture).await;
    let mut events = pod.runtime.events();
    let id = pod.create(pod.spec("events", Program::Exit(3))).await;
    assert_eq!(pod.state(&id).await, Some(ContainerState::Created));
    pod.runtime.start(&id).await.expect("it can be started");
    let mut seen = Vec::new();
    while !matches!(seen.last(), Some(ContainerState::Exited(_))) {
        let event = tokio::time::timeout(TEST_TIMEOUT, events.recv()).await.expect("in time").expect("no lag");
        assert_eq!((&event.id, &event.sandbox), (&id, &pod.sandbox));
        seen.push(event.state);
    }
    assert!(
        matches!(seen[..], [ContainerState::Created, ContainerState::Running { .. }, ContainerState::Exited(_)]),
        "{seen:?}"
    );
    assert_eq!(pod.state(&id).await.as_ref(), seen.last());
}

/// Removing and stopping what is not there succeeds; asking about it does not.
pub async fn undoing_what_is_not_there_is_fine(fixture: &dyn Fixture) {
    let pod = Pod::new(fixture).await;
    let nobody: ContainerId = "nobody".into();
    pod.runtime.stop(&nobody, Duration::from_secs(1)).await.expect("stop");
    pod.runtime.remove(&nobody).await.expect("remove");
    pod.runtime.remove_sandbox(&"nowhere".into()).await.expect("remove_sandbox");
    assert!(matches!(pod.runtime.start(&nobody).await, Err(Error::NotFound(_))));
    assert!(matches!(pod.runtime.stats(&nobody).await, Err(Error::NotFound(_))));
    let spec = pod.spec("homeless", Program::Exit(0));
    assert!(matches!(pod.runtime.create(&"nowhere".into(), spec).await, Err(Error::NotFound(_))));
    let id = pod.create(pod.spec("unstarted", Program::Exit(0))).await;
    pod.runtime.remove(&id).await.expect("what was never started can be removed");
    assert_eq!(pod.state(&id).await, None);
}

/// With the sandbox go its containers, running or not.
pub async fn removing_a_sandbox_ends_its_containers(fixture: &dyn Fixture) {
    let pod = Pod::new(fixture).await;
    pod.start(pod.spec("one", Program::Spin)).await;
    pod.create(pod.spec("two", Program::Wait)).await;
    pod.runtime.remove_sandbox(&pod.sandbox).await.expect("it can be removed");
    assert!(pod.runtime.list().await.expect("a list").is_empty());
    pod.runtime.remove_sandbox(&pod.sandbox).await.expect("removing twice is fine");
}

/// An identity is used once; the next attempt has its own.
pub async fn attempts_do_not_mix(fixture: &dyn Fixture) {
    let pod = Pod::new(fixture).await;
    let first = pod.start(pod.spec("attempt-0", Program::Exit(1))).await;
    pod.exit(&first).await;
    assert!(pod.runtime.create(&pod.sandbox, pod.spec("attempt-0", Program::Exit(0))).await.is_err());
    pod.runtime.start(&first).await.expect("starting what has ended changes nothing");
    assert_eq!(pod.exit(&first).await.code, 1);
    let second = pod.start(pod.spec("attempt-1", Program::Exit(2))).await;
    assert_eq!((pod.exit(&first).await.code, pod.exit(&second).await.code), (1, 2));
    pod.runtime.remove(&first).await.expect("it can be removed");
    assert_eq!(pod.runtime.list().await.expect("a list").len(), 1);
}

/// Streams of which the other ends are ours: one to write to the program, one to read what it says.
fn streams() -> (Streams, impl AsyncWriteExt + Unpin, impl AsyncReadExt + Unpin) {
    let ((stdin, ours), (theirs, stdout)) = (tokio::io::duplex(1 << 10), tokio::io::duplex(1 << 10));
    (Streams { stdin: Some(Box::new(stdin)), stdout: Some(Box::new(theirs)), ..Streams::default() }, ours, stdout)
}

/// A command has its streams and its exit code; or the runtime says that it does not do that. What does not run is not found.
pub async fn a_command_runs_beside_the_program_or_is_refused(fixture: &dyn Fixture) {
    let pod = Pod::new(fixture).await;
    let command = fixture.copies(3);
    let exec = Exec { command: command.clone().unwrap_or_else(|| vec!["copy".into()]), tty: false };
    let nobody = pod.runtime.exec(&"nobody".into(), exec.clone(), Streams::default()).await;
    assert!(matches!(nobody, Err(Error::NotFound(_))), "{nobody:?}");
    let created = pod.create(pod.spec("created", Program::Wait)).await;
    let early = pod.runtime.exec(&created, exec.clone(), Streams::default()).await;
    assert!(matches!(early, Err(Error::NotFound(_))), "{early:?}");
    let id = pod.start(pod.spec("wait", Program::Wait)).await;
    let (streams, mut ours, mut said) = streams();
    let run = tokio::time::timeout(TEST_TIMEOUT, pod.runtime.exec(&id, exec, streams));
    let talk = async {
        // nobody listens where it is refused
        let _ = ours.write_all(b"ask").await;
        drop(ours);
        let mut text = String::new();
        said.read_to_string(&mut text).await.expect("read");
        text
    };
    let (result, text) = tokio::join!(run, talk);
    match (command, result.expect("it ends")) {
        (Some(_), result) => assert_eq!((result.expect("it ran"), text.as_str()), (3, "ask")),
        (None, Err(Error::Unsupported(why))) => assert!(why.contains(pod.runtime.name()), "{why}"),
        (None, other) => panic!("{other:?}"),
    }
    assert!(matches!(pod.state(&id).await, Some(ContainerState::Running { .. })), "the program itself goes on");
}

/// Who attaches has the program's streams; or the runtime says that it does not do that. What does not run is not found.
pub async fn streams_are_joined_or_it_is_refused(fixture: &dyn Fixture) {
    let pod = Pod::new(fixture).await;
    let nobody = pod.runtime.attach(&"nobody".into(), Streams::default()).await;
    assert!(matches!(nobody, Err(Error::NotFound(_))), "{nobody:?}");
    let id = pod.start(pod.spec("wait", Program::Wait)).await;
    let (streams, mut ours, mut said) = streams();
    let attach = async {
        if fixture.attaches() {
            let mut answer = [0; 3];
            let talk = async {
                ours.write_all(b"ask").await.expect("written");
                said.read_exact(&mut answer).await.expect("read");
            };
            tokio::select! {
                result = pod.runtime.attach(&id, streams) => panic!("it ended: {result:?}"),
                () = talk => {}
            }
            assert_eq!(&answer, b"ask");
        } else {
            let refused = pod.runtime.attach(&id, streams).await;
            assert!(
                matches!(&refused, Err(Error::Unsupported(why)) if why.contains(pod.runtime.name())),
                "{refused:?}"
            );
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, attach).await.expect("it does not hang");
    assert!(matches!(pod.state(&id).await, Some(ContainerState::Running { .. })), "the program itself goes on");
}
