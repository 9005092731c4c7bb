//! Contract tests of [`Runtime`], which `wasm`, `runc` and the fake must pass. [`network`] has those of networks.
//!
//! A crate that implements a runtime provides a [`Fixture`] and one line in its tests: `container::runtime_contract!(make_fixture);`, where
//! `make_fixture` is an async function without arguments.

pub mod network;

use crate::{
    Artifact, ContainerId, ContainerSpec, ContainerState, Error, Exec, Exit, ExitReason, Folder, HttpPolicy, Limits,
    Runtime, SandboxId, SandboxSpec, Stdin, Streams,
    net::{Sandbox, Sockets},
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Much longer than any test takes.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A program that a runtime can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Exits with this code, 0 to 9.
    Exit(u8),
    /// Prints its arguments, one per line, and exits with 0.
    PrintArguments,
    /// Waits forever without using CPU, and ignores signals.
    Wait,
    /// Uses all available CPU time forever.
    Spin,
    /// Allocates more and more memory.
    Grow,
}

/// The runtime under test and what it needs.
pub trait Fixture: Send + Sync {
    /// The runtime.
    fn runtime(&self) -> Arc<dyn Runtime>;
    /// The network of a pod. The tests do not use it.
    fn sockets(&self) -> Arc<dyn Sockets>;
    /// A program and its arguments, including its name.
    fn program(&self, program: Program) -> (Artifact, Vec<String>);
    /// A folder of the test.
    fn folder(&self) -> &Path;
    /// A command for exec beside [`Program::Wait`]: it copies its standard input to its output and exits with this code. `None` if the
    /// runtime does not support exec.
    fn copy_command(&self, _code: i32) -> Option<Vec<String>> {
        None
    }
    /// Whether the runtime supports attach. If so, [`Program::Wait`] copies its standard input to its output.
    fn supports_attach(&self) -> bool {
        false
    }
}

/// Creates one test per guarantee of [`Runtime`]. `$fixture` is an async function that returns a [`Fixture`]. Where the function `$can_run` returns
/// false, after it has told why, the tests are skipped.
#[macro_export]
macro_rules! runtime_contract {
    ($fixture:path) => {
        $crate::runtime_contract!($fixture, if $crate::contract::everywhere);
    };
    ($fixture:path, if $can_run:path) => {
        $crate::runtime_contract!(@ $fixture, $can_run:
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
    (@ $fixture:path, $can_run:path: $($name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                if $can_run() {
                    $crate::contract::$name(&$fixture().await).await;
                }
            }
        )*
    };
}

/// The condition of a runtime that runs on every machine.
pub fn everywhere() -> bool {
    true
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
        // Called twice, because it is idempotent.
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
            folders: vec![Folder { path: self.fixture.folder().to_owned(), read_only: false, links: false }],
            linux: Default::default(),
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
            root: Default::default(),
            mounts: vec![],
            ports: vec![],
            limits: Limits::default(),
            log: self.fixture.folder().join(format!("logs/{id}.log")),
            core_dump: false,
            http: HttpPolicy { request_timeout: Some(TEST_TIMEOUT), ..HttpPolicy::default() },
            stdin: Stdin::Open,
            tty: false,
            linux: None,
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

/// Exit code and reason are those of the program.
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

/// When the exit is reported, the log contains the standard output in CRI format.
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

/// A stop ends the container within the grace period.
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

/// A stop without a grace period ends a program that never yields.
pub async fn a_kill_ends_what_spins(fixture: &dyn Fixture) {
    let pod = Pod::new(fixture).await;
    let id = pod.start(pod.spec("spin", Program::Spin)).await;
    pod.runtime.stop(&id, Duration::ZERO).await.expect("it can be killed");
    assert_eq!(pod.exit(&id).await.code, 137);
}

/// Memory is limited, and exceeding the limit is an OOM kill.
pub async fn memory_above_the_limit_is_an_oom_kill(fixture: &dyn Fixture) {
    let pod = Pod::new(fixture).await;
    let mut spec = pod.spec("grow", Program::Grow);
    spec.limits.memory_bytes = Some(32 << 20);
    let id = pod.start(spec).await;
    let exit = pod.exit(&id).await;
    assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled), "{}", exit.message);
}

/// Created, Running and Exited are sent once each, in this order, and match the list.
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

/// Removing or stopping something that does not exist succeeds. Other calls report that it does not exist.
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

/// Removing a sandbox ends and removes its containers.
pub async fn removing_a_sandbox_ends_its_containers(fixture: &dyn Fixture) {
    let pod = Pod::new(fixture).await;
    pod.start(pod.spec("one", Program::Spin)).await;
    pod.create(pod.spec("two", Program::Wait)).await;
    pod.runtime.remove_sandbox(&pod.sandbox).await.expect("it can be removed");
    assert!(pod.runtime.list().await.expect("a list").is_empty());
    pod.runtime.remove_sandbox(&pod.sandbox).await.expect("removing twice is fine");
}

/// A container id is used once. The next attempt has its own.
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

/// Streams for a program, with their other ends: a writer to its input and a reader of its output.
fn streams() -> (Streams, impl AsyncWriteExt + Unpin, impl AsyncReadExt + Unpin) {
    let ((stdin, input), (stdout, output)) = (tokio::io::duplex(1 << 10), tokio::io::duplex(1 << 10));
    (Streams { stdin: Some(Box::new(stdin)), stdout: Some(Box::new(stdout)), ..Streams::default() }, input, output)
}

/// A command gets its streams and returns its exit code, unless exec is unsupported. Exec in a container that does not run is an error.
pub async fn a_command_runs_beside_the_program_or_is_refused(fixture: &dyn Fixture) {
    let pod = Pod::new(fixture).await;
    let command = fixture.copy_command(3);
    let exec = Exec { command: command.clone().unwrap_or_else(|| vec!["copy".into()]), tty: false };
    let nobody = pod.runtime.exec(&"nobody".into(), exec.clone(), Streams::default()).await;
    assert!(matches!(nobody, Err(Error::NotFound(_))), "{nobody:?}");
    let created = pod.create(pod.spec("created", Program::Wait)).await;
    let early = pod.runtime.exec(&created, exec.clone(), Streams::default()).await;
    assert!(matches!(early, Err(Error::NotFound(_))), "{early:?}");
    let id = pod.start(pod.spec("wait", Program::Wait)).await;
    let (streams, mut input, mut output) = streams();
    let run = tokio::time::timeout(TEST_TIMEOUT, pod.runtime.exec(&id, exec, streams));
    let talk = async {
        // If exec is unsupported, nobody reads.
        let _ = input.write_all(b"ask").await;
        drop(input);
        let mut text = String::new();
        output.read_to_string(&mut text).await.expect("read");
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

/// An attached client gets the program's streams, unless attach is unsupported. Attaching to a container that does not run is an error.
pub async fn streams_are_joined_or_it_is_refused(fixture: &dyn Fixture) {
    let pod = Pod::new(fixture).await;
    let nobody = pod.runtime.attach(&"nobody".into(), Streams::default()).await;
    assert!(matches!(nobody, Err(Error::NotFound(_))), "{nobody:?}");
    let id = pod.start(pod.spec("wait", Program::Wait)).await;
    let (streams, mut input, mut output) = streams();
    let attach = async {
        if fixture.supports_attach() {
            let mut answer = [0; 3];
            let talk = async {
                input.write_all(b"ask").await.expect("written");
                output.read_exact(&mut answer).await.expect("read");
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
