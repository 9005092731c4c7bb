//! The fakes pass the contract tests.

use super::*;
use crate::contract::{Fixture, Program, network::Node};
use std::path::Path;

struct Fake {
    runtime: FakeRuntime,
    sockets: Arc<dyn Sockets>,
    folder: tempfile::TempDir,
}

async fn runtime() -> Fake {
    let clock = Clock::new(|| std::time::UNIX_EPOCH);
    Fake {
        runtime: FakeRuntime::new("fake", clock, |_, _| Script::Run),
        sockets: attached().await,
        folder: tempfile::tempdir().expect("a folder"),
    }
}

async fn attached() -> Arc<dyn Sockets> {
    let pod = crate::net::PodNetwork {
        id: "pod-uid".into(),
        name: "pod".into(),
        namespace: "default".into(),
        hostname: "pod".into(),
        address: None,
        host_aliases: Vec::new(),
        host_ports: Vec::new(),
        kernel: false,
    };
    crate::net::Network::attach(&FakeNetwork::default(), pod).await.expect("attached").sockets
}

impl Fixture for Fake {
    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(self.runtime.clone())
    }

    fn sockets(&self) -> Arc<dyn Sockets> {
        self.sockets.clone()
    }

    /// Sets the script of the next container.
    fn program(&self, program: Program) -> (Artifact, Vec<String>) {
        let script = match program {
            Program::Exit(code) => Script::Exit(Duration::ZERO, code.into()),
            Program::PrintArguments => Script::Print,
            Program::Wait => Script::Run,
            Program::Spin => Script::SlowStop(Duration::MAX),
            Program::Grow => Script::OomKill,
        };
        self.runtime.script(move |_, _| script.clone());
        (
            Artifact::Wasm { path: "/fake.wasm".into(), digest: "sha256:0".into(), files: None },
            vec!["main".into(), "one".into()],
        )
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn copy_command(&self, code: i32) -> Option<Vec<String>> {
        Some(vec!["copy".into(), code.to_string()])
    }

    fn supports_attach(&self) -> bool {
        true
    }
}

crate::runtime_contract!(runtime);

async fn network() -> Node {
    let network = Arc::new(FakeNetwork::default());
    Node { network: network.clone(), dialer: network }
}

crate::network_contract!(network);
