//! `sampan up`: start, say how to reach it, apply, wait for the end, drain.

mod report;

use crate::{
    Start,
    args::{Report as Form, UpArgs},
    check,
    cluster::{Chosen, Cluster, Config},
    credentials,
    data_dir::{DataDir, Holder, Lock},
    down, env, images,
    known::Clusters,
    kubeconfig,
    manifests::{self, Manifest},
    out,
    progress::Progress,
    remote, settings,
    settle::{self, Node, Patience, Unsettled},
};
use anyhow::Context;
use report::{Filled, Report};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often a cluster looks whether its directory is still there.
const LOOK: Duration = Duration::from_secs(1);

/// Runs until Ctrl-C, SIGTERM or SIGHUP; `Ok` after a drain. With `--detach` and where the cluster runs already, returns when all is done.
pub(crate) fn run(mut args: UpArgs, start: Start) -> anyhow::Result<()> {
    let started = env::now();
    let asked = settings::asked(&args);
    let recalled = Chosen::recall(&DataDir::locate(args.data.data_dir.as_deref())?, &mut args)?;
    check::together(&args)?;
    if args.detach && args.filename.iter().any(|path| path.as_os_str() == "-") {
        return Err(crate::exit::usage("with --detach, -f takes files and folders; standard input stays the caller's"));
    }
    let mut manifests = match args.filename.is_empty() {
        true => Vec::new(),
        false => manifests::read(&args.filename, args.recursive)?,
    };
    manifests::image_files(&mut manifests)?;
    let dir = DataDir::open(args.data.data_dir.as_deref())?;
    if let Some(path) = &mut args.kubeconfig {
        *path = std::path::absolute(&path).context("--kubeconfig names no file")?;
    }
    check_kubeconfigs(&args, &dir)?;
    if !manifests.is_empty()
        && let Some(holder) = dir.holder()?.filter(|holder| !holder.address.is_empty())
    {
        settings::check(&asked, &dir, &holder)?;
        return crate::block(join(&args, &dir, &holder, &mut manifests, started));
    }
    if args.detach {
        return down::detach(&dir, start.arguments);
    }
    check::warnings(&args).iter().for_each(|warning| eprintln!("{warning}"));
    let config = Config::check(&args, &dir)?;
    let mut lock = dir.lock()?;
    let listener = crate::port::listen(args.listen())?;
    let address = crate::port::reachable(listener.local_addr().context("the listener has no address")?);
    let flags = settings::of(&args, config.node(), &credentials::names(&dir, &args.tls_san)?);
    lock.announce(&address.to_string(), args.drain(), flags)?;
    if start.background {
        std::env::set_current_dir("/").context("cannot leave the folder of the caller")?;
    }
    env::raise_file_limit().iter().for_each(|warning| eprintln!("{warning}"));
    let runtime = crate::control_runtime()?;
    let result = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let cluster = tokio::select! {
            cluster = Cluster::start(config, listener) => cluster?,
            () = signals.next() => return Ok(()),
        };
        if let Err(error) = cluster.give_access(kubeconfigs(&args, &dir)) {
            cluster.stop().await;
            return Err(error);
        }
        let mut report = Report {
            form: args.output,
            background: start.background,
            api: format!("https://{address}"),
            node_address: args.node_address(),
            dir: dir.clone(),
            kubeconfig: args.kubeconfig.clone().unwrap_or_else(|| dir.join("kubeconfig")),
            recalled,
            started,
            filled: None,
        };
        report.ready();
        cluster.warm();
        let work = async {
            if !manifests.is_empty() {
                let node = Node { address: args.node_address(), pid: std::process::id() };
                // What is wrong with manifests does not take the cluster down: it can be fixed and applied again.
                report.filled = Some(fill(&args, &dir, cluster.client(), node, &mut manifests).await);
            }
            report.end(&args.filename);
        };
        let forever = async {
            work.await;
            std::future::pending::<()>().await;
        };
        let applied = tokio::select! {
            () = forever => Ok(()),
            () = signals.next() => Ok(()),
            error = cluster.failed() => Err(error),
            error = removed(&lock, &dir) => Err(error),
        };
        if !out::is_quiet() {
            eprintln!("stopping (again to stop at once)");
        }
        tokio::select! {
            cut = cluster.stop() => {
                if cut > 0 {
                    let what = if cut == 1 { "container" } else { "containers" };
                    let within = args.drain();
                    eprintln!("cut {cut} {what} that did not end within {within} s; --drain gives more time");
                }
            }
            () = signals.next() => eprintln!("stopped without draining"),
        }
        applied
    });
    runtime.shutdown_background();
    result
}

/// `up -f` where the cluster runs already: applies to it.
async fn join(
    args: &UpArgs,
    dir: &DataDir,
    holder: &Holder,
    manifests: &mut [Manifest],
    started: std::time::Instant,
) -> anyhow::Result<()> {
    if !out::is_quiet() {
        eprintln!("the cluster of {} runs already (process {}): applying to it", dir.path().display(), holder.pid);
    }
    let client = remote::connect_in(dir).await?;
    let ours = kubeconfig::of(dir).ok_or_else(|| kubeconfig::absent(dir))?;
    kubeconfig::copy(dir, &ours, args.kubeconfig.as_deref(), args.merge_kubeconfig)?;
    let node = Node { address: args.node_address(), pid: holder.pid };
    let filled = fill(args, dir, &client, node, manifests).await;
    let report = Report {
        form: args.output,
        background: false,
        api: format!("https://{}", holder.address),
        node_address: args.node_address(),
        dir: dir.clone(),
        kubeconfig: args.kubeconfig.clone().unwrap_or_else(|| dir.join("kubeconfig")),
        recalled: Vec::new(),
        started,
        filled: Some(filled),
    };
    report.joined()
}

/// Applies what was given and waits until it is there.
async fn fill(args: &UpArgs, dir: &DataDir, client: &client::Client, node: Node, manifests: &mut [Manifest]) -> Filled {
    let mut progress = Progress::new();
    let since = env::clock().now();
    let apply = async {
        images::package(dir, manifests).await?;
        remote::apply_all(client, manifests, "default", |outcome| {
            progress.line(&format!("{} {}", outcome.label, outcome.verb));
        })
        .await
    };
    let outcomes = match apply.await {
        Ok(outcomes) => outcomes,
        Err(error) => {
            progress.done();
            return Filled::NotApplied(error);
        }
    };
    remote::notes(client, &outcomes).await.iter().for_each(|note| progress.line(&format!("note: {note}")));
    let patience = Patience { timeout: args.timeout, since, node: Some(node), dir: Some(dir) };
    let settled = settle::wait(client, &outcomes, &patience, &mut progress).await;
    progress.done();
    match settled {
        Ok(()) => Filled::Ready(outcomes),
        Err(error) => Filled::NotReady(outcomes, error),
    }
}

/// Refuses what [`kubeconfigs`] could not write for this call, while nothing runs yet.
fn check_kubeconfigs(args: &UpArgs, dir: &DataDir) -> anyhow::Result<()> {
    let authority = credentials::authority_in(dir).unwrap_or_default();
    let check = |path: &Path| kubeconfig::check(path, dir, &authority);
    if let Some(path) = args.kubeconfig.as_ref().filter(|path| **path != dir.join("kubeconfig")) {
        check(path).map_err(|error| anyhow::anyhow!("--kubeconfig: {error:#}; nothing was started"))?;
    }
    if args.merge_kubeconfig {
        check(&std::path::absolute(kubeconfig::personal_path()?)?).map_err(|error| {
            anyhow::anyhow!(
                "--merge-kubeconfig: {error:#}; nothing was started: leave the flag out, or set KUBECONFIG to a file that you may write"
            )
        })?;
    }
    Ok(())
}

/// Writes the kubeconfigs: the cluster's own at each call, at the first one what was asked for besides, and the copies of before.
fn kubeconfigs(
    args: &UpArgs,
    dir: &DataDir,
) -> impl FnMut(&kubeconfig::Access<'_>) -> anyhow::Result<()> + Send + 'static {
    let (dir, name, own) = (dir.clone(), kubeconfig::name(dir), dir.join("kubeconfig"));
    let mut asked = Some((args.kubeconfig.clone(), args.merge_kubeconfig));
    move |access| {
        let document = kubeconfig::document(access, &name);
        if let Err(error) = kubeconfig::write(&own, &document) {
            // As on a full disk, which shall not keep a cluster from starting.
            if !kubeconfig::leads_to(&own, &document) {
                return Err(error);
            }
            eprintln!("warning: {error}; that of an earlier start stays, which leads to this cluster too");
        }
        if let Some((file, personal)) = asked.take() {
            Clusters::of_user().tidy(|copy, gone| kubeconfig::names(copy, &gone.name, &gone.authority));
            kubeconfig::copy(&dir, &document, file.as_deref(), personal)?;
        }
        kubeconfig::renew_copies(&dir, &document);
        Ok(())
    }
}

/// Resolves when somebody has removed the directory of the cluster: `down` could not find it any more, and what it writes is lost.
async fn removed(lock: &Lock, dir: &DataDir) -> anyhow::Error {
    while lock.is_there(dir) {
        tokio::time::sleep(LOOK).await;
    }
    anyhow::anyhow!("the data directory {} was removed while the cluster ran", dir.path().display())
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// The terminal is gone; `None` where the caller chose to outlive it (`nohup`).
    hangup: Option<Signal>,
    /// Without a handler the signal for a file above `ulimit -f` ends the process; with one the write fails, as on a full disk.
    _file_size: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let hangup = SignalKind::hangup();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: if env::is_ignored(hangup.as_raw_value()) { None } else { Some(signal(hangup)?) },
            _file_size: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }

    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! { _ = self.interrupt.recv() => {}, _ = self.terminate.recv() => {}, () = hangup => {} }
    }
}
