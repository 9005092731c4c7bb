//! The child process of a pod: it confines itself, then runs an ordinary Wasm runtime for the one pod, whose network is the node's.

mod confine;
mod filter;
mod service;
mod sockets;

use crate::{
    frame,
    link::{Link, LinkLimits},
    pipes,
    protocol::{Hello, NoticeToNode},
    requests::Requests,
};
use container::{Clock, Runtime};
use service::Pod;
use sockets::PodSockets;
use std::{
    io::{self, Write},
    os::fd::AsFd,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};
use wasm::{Compiler, MachineRoots, Options, PoolOptions, Wasmtime};

/// Bounds what the node sends, which this process trusts: a container may have a megabyte of environment.
const LIMITS: LinkLimits = LinkLimits { frame: 64 << 20, calls: 4096 };

/// Most instances, all of them allocated on demand: a container may have a quarter of them.
const INSTANCES: u32 = 2048;

/// The main function of the child of an isolated pod, for a hidden subcommand. Its standard input is the socket to the node. It must be called
/// first in `main`, while the process has one thread.
pub fn child_main(clock: Clock) -> ExitCode {
    // one thread, which all others inherit the confinement from
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    match runtime.block_on(run(clock)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn fail(text: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "{text}");
    ExitCode::FAILURE
}

async fn run(clock: Clock) -> anyhow::Result<()> {
    confine::die_with_the_node()?;
    confine::be_the_first_to_go();
    let socket = pipes::received(io::stdin().as_fd().try_clone_to_owned()?)?;
    let Some(mut first) = frame::read(&socket, LIMITS.frame).await? else { anyhow::bail!("nobody is there") };
    let hello: Hello = serde_json::from_slice(&first.bytes)?;
    let outgoing = first.descriptors.pop().ok_or_else(|| anyhow::anyhow!("a descriptor is missing"))?;
    let sandbox = hello.sandbox.clone();
    // not there afterwards
    let roots = MachineRoots::opened();
    let confined = confine::confine(&sandbox.folders, hello.user).map_err(|error| format!("{error:#}"));
    let is_confined = confined.is_ok();
    let wasm = Wasmtime::new(Options { roots, ..options(&hello, clock) });
    let requests = Requests::start(pipes::received(outgoing)?).await?;
    let pod = Pod::new(wasm.clone(), sandbox.id.clone());
    let link = Link::start(socket, LIMITS, pod.clone());
    pod.set_link(link.clone());
    if is_confined {
        let sockets = PodSockets::new(link.clone(), requests, hello.addresses);
        pod.set_sockets(sockets.clone());
        wasm.sandbox(sandbox, Arc::new(sockets)).await?;
        tokio::spawn(pod.tell_states());
    }
    link.notice(&NoticeToNode::Ready(confined)).await;
    link.ended().await;
    Ok(())
}

fn options(hello: &Hello, clock: Clock) -> Options {
    // None of what needs a cache or a compiler is used: the node sends code. The folder is for the deleted one that stands for unused mounts,
    // and its disk is that of the guests.
    let folder = hello.sandbox.folders.iter().find(|folder| !folder.read_only);
    let folder = folder.map_or_else(|| PathBuf::from("/"), |folder| folder.path.clone());
    let compiler = Compiler::new(PathBuf::new(), Vec::new());
    let mut options = Options::new(folder, hello.seed, compiler, hello.threads, clock);
    options.pool = PoolOptions { pooled: 0, unpooled: INSTANCES };
    options.memory = hello.memory;
    options.files.max_open = hello.files;
    options.http.clients.connections = hello.connections;
    options.http.clients.per_container = hello.connections;
    options.log = hello.log;
    options
}
