//! `sampan up`: starts the cluster, shows how to access it, applies manifests, waits for a signal, and drains.

mod report;

use crate::{
    Start,
    args::{Report as Form, UpArgs},
    check,
    cluster::{Chosen, Cluster, Config},
    credentials,
    data_dir::{DataDir, Holder, Lock},
    down, env, exit, images,
    known::Clusters,
    kubeconfig,
    manifests::{self, Manifest},
    out,
    progress::Progress,
    remote,
    settings::{self, Settings},
    settle::{self, Node, NotReady, WaitOptions},
};
use anyhow::Context;
use report::{Filled, Report};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often a cluster checks that its directory still exists.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A call of `up`.
struct Up {
    /// The arguments. The settings are separate, see below.
    args: UpArgs,
    /// The merged settings of flags, file and earlier starts.
    settings: Settings,
    /// Settings of the last start, as flags.
    remembered: Vec<String>,
    dir: DataDir,
    /// Whether `--detach` started this process.
    background: bool,
    started: Instant,
}

/// Runs until Ctrl-C, SIGTERM or SIGHUP, and returns `Ok` after a drain. With `--detach`, and if the cluster already runs, returns when
/// everything is done.
pub(crate) fn run(args: UpArgs, start: Start) -> anyhow::Result<()> {
    check_input(&args)?;
    let Some(path) = args.config.clone() else { return begin(args, Settings::default(), start) };
    let (file, asked) = (settings::read(&path)?, args.settings.clone());
    begin(args, file.clone(), start).map_err(|error| settings::name_fields(error, &path, &file, &asked))
}

/// Rejects reading standard input twice, or where it belongs to the caller.
fn check_input(args: &UpArgs) -> anyhow::Result<()> {
    let (manifests, settings) = (
        args.filename.iter().any(|path| settings::is_input(path)),
        args.config.as_deref().is_some_and(settings::is_input),
    );
    match () {
        () if args.detach && manifests => {
            Err(exit::usage("with --detach, -f takes files and folders; standard input stays the caller's"))
        }
        () if args.detach && settings => {
            Err(exit::usage("with --detach, --config takes a file; standard input stays the caller's"))
        }
        () if manifests && settings => {
            Err(exit::usage("-f - and --config - both read standard input; write one of them to a file"))
        }
        () => Ok(()),
    }
}

/// Adds the settings of the file. Flags override them.
fn begin(mut args: UpArgs, file: Settings, start: Start) -> anyhow::Result<()> {
    let started = env::now();
    let asked = std::mem::take(&mut args.settings).or(file);
    let dir = DataDir::locate(args.data.data_dir.as_deref())?;
    let (settings, remembered) = Chosen::fill_in(&dir, asked.clone())?;
    check::together(&settings)?;
    let mut manifests = manifests(&args)?;
    let dir = DataDir::open(args.data.data_dir.as_deref())?;
    if let Some(path) = &mut args.kubeconfig {
        *path = std::path::absolute(&path).context("--kubeconfig names no file")?;
    }
    check_kubeconfigs(&args, &dir)?;
    let up = Up { args, settings, remembered, dir, background: start.background, started };
    if !manifests.is_empty()
        && let Some(holder) = up.dir.holder()?.filter(|holder| !holder.address.is_empty())
    {
        asked.check_running(&up.dir, &holder)?;
        return crate::block(up.join(&holder, &mut manifests));
    }
    if up.args.detach {
        return down::detach(&up.dir, start.arguments);
    }
    up.start(manifests)
}

/// The manifests of `-f`.
fn manifests(args: &UpArgs) -> anyhow::Result<Vec<Manifest>> {
    let mut manifests = match args.filename.is_empty() {
        true => Vec::new(),
        false => manifests::read(&args.filename, args.recursive)?,
    };
    manifests::image_files(&mut manifests)?;
    Ok(manifests)
}

impl Up {
    /// Starts the cluster in this process. Returns when it ends.
    fn start(self, mut manifests: Vec<Manifest>) -> anyhow::Result<()> {
        check::warnings(&self.settings).iter().for_each(|warning| eprintln!("{warning}"));
        let config = Config::new(&self.settings, &self.dir)?;
        let mut lock = self.dir.lock()?;
        let listener = crate::port::listen(self.settings.listen())?;
        let address = crate::port::reachable(listener.local_addr().context("the listener has no address")?);
        let names = credentials::names(&self.dir, &self.settings.tls_san)?;
        let flags = self.settings.of_cluster(config.node(), names);
        lock.announce(&address.to_string(), self.settings.drain(), flags)?;
        if self.background {
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
            if let Err(error) = cluster.give_access(kubeconfigs(&self.args, &self.dir)) {
                cluster.stop().await;
                return Err(error);
            }
            let ended = tokio::select! {
                never = self.work(&cluster, address, &mut manifests) => match never {},
                () = signals.next() => Ok(()),
                error = cluster.failed() => Err(error),
                error = removed(&lock, &self.dir) => Err(error),
            };
            self.stop(cluster, &mut signals).await;
            ended
        });
        runtime.shutdown_background();
        result
    }

    /// Reports that the cluster is ready, applies the manifests, and reports the result. The cluster continues to run.
    async fn work(
        &self,
        cluster: &Cluster,
        address: SocketAddr,
        manifests: &mut [Manifest],
    ) -> std::convert::Infallible {
        let mut report = self.report(&address.to_string(), self.remembered.clone());
        report.ready();
        if !manifests.is_empty() {
            // An error in manifests does not end the cluster: the user can fix and apply them again.
            report.filled = Some(self.fill(cluster.client(), std::process::id(), manifests).await);
        }
        report.end(&self.args.filename);
        std::future::pending().await
    }

    /// Drains and stops a cluster. Stops at once at the next signal.
    async fn stop(&self, cluster: Cluster, signals: &mut Signals) {
        if !out::is_quiet() {
            eprintln!("stopping (again to stop at once)");
        }
        tokio::select! {
            cut = cluster.stop() => {
                if cut > 0 {
                    let what = if cut == 1 { "container" } else { "containers" };
                    let within = self.settings.drain();
                    eprintln!("cut {cut} {what} that did not end within {within} s; --drain gives more time");
                }
            }
            () = signals.next() => eprintln!("stopped without draining"),
        }
    }

    /// `up -f` if the cluster already runs: applies the manifests to it.
    async fn join(self, holder: &Holder, manifests: &mut [Manifest]) -> anyhow::Result<()> {
        let (dir, args) = (&self.dir, &self.args);
        if !out::is_quiet() {
            eprintln!("the cluster of {} runs already (process {}): applying to it", dir.path().display(), holder.pid);
        }
        let client = remote::connect_in(dir).await?;
        let ours = kubeconfig::of(dir).ok_or_else(|| kubeconfig::absent(dir))?;
        kubeconfig::copy(dir, &ours, args.kubeconfig.as_deref(), args.merge_kubeconfig)?;
        let filled = self.fill(&client, holder.pid, manifests).await;
        Report { background: false, filled: Some(filled), ..self.report(&holder.address, Vec::new()) }.joined()
    }

    /// The report, without manifests yet.
    fn report(&self, address: &str, remembered: Vec<String>) -> Report {
        Report {
            form: self.args.output,
            background: self.background,
            api: format!("https://{address}"),
            listen: self.settings.listen().ip(),
            node_address: self.settings.node_address(),
            dir: self.dir.clone(),
            kubeconfig: self.args.kubeconfig.clone().unwrap_or_else(|| self.dir.join("kubeconfig")),
            remembered,
            started: self.started,
            filled: None,
        }
    }

    /// Applies the manifests and waits until they are ready. `pid` is the cluster's process.
    async fn fill(&self, client: &client::Client, pid: u32, manifests: &mut [Manifest]) -> Filled {
        let mut progress = Progress::new();
        let since = env::clock().now();
        let reached =
            remote::Reached { client: client.clone(), namespace: "default".to_owned(), dir: Some(self.dir.clone()) };
        let apply = async {
            images::package(&self.dir, manifests).await?;
            remote::apply_all(&reached, manifests, |outcome| {
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
        remote::notes(&reached, &outcomes).await.iter().for_each(|note| progress.line(&format!("note: {note}")));
        let node = Some(Node { address: self.settings.node_address(), pid });
        let options = WaitOptions { timeout: self.args.timeout, since, node, dir: Some(&self.dir) };
        let settled = settle::wait(&reached.client, &outcomes, &options, &mut progress).await;
        progress.done();
        match settled {
            Ok(()) => Filled::Ready(outcomes),
            Err(error) => Filled::NotReady(outcomes, error),
        }
    }
}

/// Checks in advance that [`kubeconfigs`] can write for this call.
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

/// Writes the kubeconfigs: the cluster's own at each call, the requested ones at the first, and the copies of earlier starts.
fn kubeconfigs(
    args: &UpArgs,
    dir: &DataDir,
) -> impl FnMut(&kubeconfig::Access<'_>) -> anyhow::Result<()> + Send + 'static {
    let (dir, name, own) = (dir.clone(), dir.name(), dir.join("kubeconfig"));
    let mut asked = Some((args.kubeconfig.clone(), args.merge_kubeconfig));
    move |access| {
        let document = kubeconfig::document(access, &name);
        if let Err(error) = kubeconfig::write(&own, &document) {
            // For example on a full disk, which must not prevent a start.
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

/// Resolves when the directory of the cluster was removed: `down` could not find the cluster, and what it writes is lost.
async fn removed(lock: &Lock, dir: &DataDir) -> anyhow::Error {
    while lock.is_there(dir) {
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
    anyhow::anyhow!("the data directory {} was removed while the cluster ran", dir.path().display())
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// The terminal was closed. `None` if the caller ignores the signal (`nohup`).
    hangup: Option<Signal>,
    /// Without a handler, exceeding `ulimit -f` ends the process. With one, the write fails, as on a full disk.
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn standard_input_is_read_once_and_not_in_the_background() {
        let refused = |flags: &str| {
            let all = ["sampan", "up"].into_iter().chain(flags.split(' '));
            let crate::args::Command::Up(args) = crate::args::Cli::parse_from(all).command else { panic!("not up") };
            check_input(&args).err().map(|error| (exit::code(&error), error.to_string()))
        };
        assert_eq!((refused("-f -"), refused("--config -"), refused("--detach -f a --config b")), (None, None, None));
        for (flags, why) in [
            ("--detach -f -", "with --detach, -f takes files"),
            ("--detach --config -", "with --detach, --config takes a file"),
            ("-f - --config -", "both read standard input"),
        ] {
            let (code, text) = refused(flags).expect(flags);
            assert!(code == 2 && text.contains(why), "{flags}: {text}");
        }
    }
}
