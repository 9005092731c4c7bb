//! Guests of every kind, good and hostile, through the [`container::Runtime`] interface.

// Helpers outside `#[test]` functions are not exempt by clippy.toml; tests run on the real clock.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod async_files;
mod async_http;
mod bench;
mod clients;
mod command;
mod compile;
mod concurrent;
mod exec;
mod hostile;
mod http;
mod idle;
mod initialise;
mod instances;
mod limits;
mod mounts;
mod policy;
mod resources;
mod root;
mod samples;
mod sockets;
mod support;
mod tls;

use container::{
    Artifact, Runtime,
    contract::{Fixture, Program},
    net::Sockets,
};
use std::{path::Path, sync::Arc};
use support::Node;

/// Not a test: the compiler that the tests start. Run without an order it does nothing.
#[test]
#[ignore = "started by other tests as their compiler"]
fn compile_child() {
    let _ = wasm::compile::child_main();
}

impl Fixture for Node {
    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(self.runtime.clone())
    }

    fn sockets(&self) -> Arc<dyn Sockets> {
        self.net.clone()
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
