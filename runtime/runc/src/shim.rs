//! The shim: a process for each pod, which is the parent of its containers and outlives the node's. It has one thread beside that of its logs.

mod bundle;
mod clients;
mod containers;
mod devices;
mod init;
mod life;
mod namespaces;
mod output;
mod owner;
mod reap;
mod signal;
pub(crate) mod tool;

use crate::{
    cgroup::Cgroups,
    config::Pod,
    disk,
    protocol::{CallError, ORDERS, Orders, RUNTIME_STATE, Reply, Request},
    wire,
};
use container::{Clock, log::Disk};
use containers::Shim;
use namespaces::Made;
use reap::Reaper;
use rustix::{
    fs::{FileType, Mode, fstat},
    net::sockopt::socket_peercred,
    process::{Resource, geteuid, getrlimit, set_child_subreaper, setsid, umask},
};
use std::{
    cell::{Cell, RefCell},
    fs, io,
    os::{fd::AsFd, unix::net::UnixListener as StdListener},
    path::Path,
    process::ExitCode,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    sync::{Notify, Semaphore},
    task::LocalSet,
    time::timeout,
};
use tool::Runner;

/// Most connections at a time.
const MAX_CONNECTIONS: usize = 256;
/// How long a caller may take to say what it wants.
const ASK: Duration = Duration::from_secs(10);
/// How much the kernel prefers other processes when the node's memory is used up, as of containerd's shims.
const OOM_SCORE_ADJ: &str = "-998";

/// The main function of a shim, for a hidden subcommand. Its standard input is its socket, its folder that of the pod. It must be called first in
/// `main`, while the process has one thread.
pub fn main(clock: Clock) -> ExitCode {
    let is_init = fstat(io::stdin()).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    let result = if is_init { init::run() } else { run(clock) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(clock: Clock) -> io::Result<()> {
    let orders: Orders = disk::read(Path::new(ORDERS))?;
    // the terminal and the signals of who started the node are not this process's
    let _ = setsid();
    umask(Mode::WGRP | Mode::WOTH);
    set_child_subreaper(Some(rustix::process::getpid()))?;
    if geteuid().is_root() {
        let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    }
    let listener = StdListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    // again, since callers are told the process that did it last
    rustix::net::listen(&listener, 128)?;
    listener.set_nonblocking(true)?;
    let made = namespaces::enter(&orders)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build()?;
    LocalSet::new().block_on(&runtime, serve(orders, made, listener, clock))
}

async fn serve(orders: Orders, made: Made, listener: StdListener, clock: Clock) -> io::Result<()> {
    // a stop of the machine's services, or the end of a terminal, does not end pods
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()] {
        drop(signal(kind)?);
    }
    let listener = UnixListener::from_std(listener)?;
    let reaper = Reaper::start()?;
    let (state, tool) = (orders.folder.join(RUNTIME_STATE), orders.tool.clone());
    fs::create_dir_all(&state)?;
    fs::write(orders.folder.join("hostname"), format!("{}\n", orders.sandbox.hostname))?;
    let cgroups = orders.cgroup.is_some().then(|| Cgroups::at(&orders.cgroups));
    let init = made.init;
    let shim = Rc::new(Shim {
        pod: Pod {
            rootless: made.rootless,
            cgroup_v2: cgroups.as_ref().is_some_and(Cgroups::is_v2),
            bounding: bounding(),
            oom_score_adj: fs::read_to_string("/proc/self/oom_score_adj")
                .ok()
                .and_then(|it| it.trim().parse().ok())
                .unwrap_or(0),
            max_open_files: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
            namespaces: made.namespaces,
            shm: Some(made.shm),
            cgroup: orders.cgroup.clone(),
        },
        orders,
        runner: Runner { tool, state, reaper: reaper.clone() },
        reaper,
        cgroups,
        clock,
        disk: Disk::new(),
        containers: RefCell::default(),
        watchers: RefCell::default(),
        seq: Cell::new(0),
        execs: Cell::new(0),
        end: Notify::new(),
    });
    shim.find();
    accept(&shim, &listener).await;
    drop(init);
    Ok(())
}

/// The capabilities that this process may give, as bits.
fn bounding() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok());
    bits.unwrap_or(0)
}

async fn accept(shim: &Rc<Shim>, listener: &UnixListener) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let connection = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shim.end.notified() => return,
        };
        let Ok((connection, _)) = connection else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let own = |uid: rustix::process::Uid| uid == geteuid() || uid.is_root();
        if !socket_peercred(&connection).is_ok_and(|peer| own(peer.uid)) {
            continue;
        }
        // dropped where there are too many: the caller sees the end
        let Ok(permit) = connections.clone().try_acquire_owned() else { continue };
        let shim = shim.clone();
        tokio::task::spawn_local(async move {
            serve_one(&shim, &connection).await;
            drop(permit);
        });
    }
}

async fn serve_one(shim: &Rc<Shim>, connection: &UnixStream) {
    let Ok(Ok(Some((request, descriptors)))) = timeout(ASK, wire::read::<Request>(connection)).await else { return };
    let is_end = matches!(request, Request::End);
    let plain = |result: Result<(), CallError>| result.map(|()| 0);
    let result = match request {
        Request::Watch => return watch(shim, connection).await,
        Request::Create(spec) => plain(shim.create(*spec)),
        Request::Start(id) => plain(shim.start(&id).await),
        Request::Stop(id, grace) => plain(shim.stop(&id, grace).await),
        Request::Remove(id) => plain(shim.remove(&id).await),
        Request::Exec(id, exec, present) => shim.exec(&id, exec, (present, descriptors), connection).await,
        Request::Attach(id, present) => shim.attach(&id, (present, descriptors), connection).await,
        Request::End => plain(end(shim).await),
    };
    let ok = result.is_ok();
    let _ = wire::write(connection, &Reply::Done { result, seq: shim.seq.get() }, &[]).await;
    if is_end && ok {
        shim.end.notify_one();
    }
}

/// Ends and removes all containers.
async fn end(shim: &Rc<Shim>) -> Result<(), CallError> {
    let ids: Vec<_> = shim.containers.borrow().keys().cloned().collect();
    for result in futures::future::join_all(ids.iter().map(|id| shim.remove(id))).await {
        result?;
    }
    if shim.orders.sandbox.linux.mounts_on_host {
        crate::rootfs::unmount_all(&shim.orders.folder.join("shm"));
    }
    Ok(())
}

async fn watch(shim: &Shim, connection: &UnixStream) {
    let mut changes = shim.watch();
    let tell = async {
        while let Some(change) = changes.recv().await {
            if wire::write(connection, &change, &[]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = tell => {}
        () = clients::closed(connection) => {}
    }
}
