//! Pods in child processes: the contract of runtimes, and what is special about them.

// Helpers outside `#[test]` functions are not exempt by clippy.toml; tests run on the real clock.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod ends;
mod figures;
mod guests;
mod http;
mod mounts;
mod sockets;
mod support;

use container::{
    Artifact, Clock, Runtime,
    contract::{Fixture, Program},
    net::{Sandbox, Sockets},
};
use std::{path::Path, sync::Arc, time::SystemTime};
use support::Node;

/// Not a test: the compiler that the tests start. Run without an order it does nothing.
#[test]
#[ignore = "started by other tests as their compiler"]
fn compile_child() {
    let _ = wasm::compile::child_main();
}

/// Not a test: the process of a pod that the tests start.
#[test]
#[ignore = "started by other tests as the process of a pod"]
fn isolated_child() {
    let _ = isolated::child_main(Clock::new(SystemTime::now));
}

impl Fixture for Node {
    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(self.runtime.clone())
    }

    fn sockets(&self) -> Arc<dyn Sockets> {
        self.unused.sockets.clone()
    }

    fn program(&self, program: Program) -> (Artifact, Vec<String>) {
        let argument = match program {
            Program::Exit(code) => format!("e{code}"),
            Program::PrintArguments => "p".into(),
            Program::Wait => "w".into(),
            Program::Spin => "s".into(),
            Program::Grow => "g".into(),
        };
        (self.artifact(&support::core_guest()), vec!["main".into(), argument])
    }

    fn folder(&self) -> &Path {
        assert_eq!(self.unused.sandbox, Sandbox::Virtual);
        self.folder.path()
    }

    fn copy_command(&self, code: i32) -> Option<Vec<String>> {
        Some(vec!["main".into(), format!("c{code}")])
    }

    fn supports_attach(&self) -> bool {
        true
    }
}

mod contract {
    container::runtime_contract!(super::support::Node::new);
}
