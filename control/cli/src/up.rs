//! `sampan up`: start, say how to reach it, apply, wait for the end, drain.

use crate::{
    args::UpArgs,
    check,
    cluster::{Cluster, Config},
    data_dir::DataDir,
    down, env, images, kubeconfig,
    manifests::{self, Manifest},
    out::{self, say},
    progress::Progress,
    remote::{self, Outcome},
    settle::{self, Unsettled},
};
use anyhow::Context;
use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::Path,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs until Ctrl-C or SIGTERM; `Ok` after a drain. `arguments` are this process's own, for `--detach`.
pub(crate) fn run(args: &UpArgs, arguments: Vec<OsString>) -> anyhow::Result<()> {
    let started = env::now();
    check::together(args)?;
    let mut manifests = if args.filename.is_empty() { Vec::new() } else { manifests::read(&args.filename)? };
    manifests::image_files(&mut manifests)?;
    let dir = DataDir::open(args.data.data_dir.as_deref())?;
    if args.detach {
        return down::detach(&dir, arguments);
    }
    check::warnings(args).iter().for_each(|warning| eprintln!("{warning}"));
    let config = Config::check(args, &dir)?;
    let mut lock = dir.lock()?;
    let listener = crate::port::listen(args.listen)?;
    let address = crate::port::reachable(listener.local_addr().context("the listener has no address")?);
    lock.announce(&address.to_string(), args.drain)?;
    env::raise_file_limit();
    let runtime = crate::control_runtime()?;
    let result = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let cluster = tokio::select! {
            cluster = Cluster::start(config, listener) => cluster?,
            () = signals.next() => return Ok(()),
        };
        let path = args.kubeconfig.clone().unwrap_or_else(|| dir.join("kubeconfig"));
        if let Err(error) = cluster.give_access(kubeconfigs(args, &dir, &path)) {
            cluster.stop().await;
            return Err(error);
        }
        say(&format!("ready https://{address} {:.3}s", started.elapsed().as_secs_f64()));
        let work = async {
            if !manifests.is_empty() {
                // What is wrong with manifests does not take the cluster down: it can be mended and applied again.
                match fill(args, &dir, &cluster, &mut manifests, started).await {
                    Ok(()) => {}
                    Err(error) if error.is::<Unsettled>() => {
                        eprintln!("{}\nthe cluster is running and goes on trying", crate::exit::told(&error));
                        say(down::NOT_READY);
                    }
                    Err(error) => {
                        eprintln!(
                            "{}\nthe cluster is running; mend the manifest and run `sampan apply -f`",
                            crate::exit::told(&error)
                        );
                        say(down::NOT_APPLIED);
                    }
                }
            }
            say(&format!("  export KUBECONFIG={}", out::shell(&path)));
        };
        let applied = tokio::select! {
            () = work => tokio::select! { () = signals.next() => Ok(()), error = cluster.failed() => Err(error) },
            () = signals.next() => Ok(()),
        };
        eprintln!("stopping (again to stop at once)");
        tokio::select! {
            cut = cluster.stop() => {
                if cut > 0 {
                    let what = if cut == 1 { "container" } else { "containers" };
                    let within = args.drain;
                    eprintln!("cut {cut} {what} that did not end within {within} s; --drain SECONDS gives more time");
                }
            }
            () = signals.next() => eprintln!("stopped without draining"),
        }
        applied
    });
    runtime.shutdown_background();
    result
}

/// Applies what was given, waits until it is there, and says how to reach it.
async fn fill(
    args: &UpArgs,
    dir: &DataDir,
    cluster: &Cluster,
    manifests: &mut [Manifest],
    started: std::time::Instant,
) -> anyhow::Result<()> {
    let mut progress = Progress::new();
    images::package(dir, manifests).await?;
    let outcomes = remote::apply_all(cluster.client(), manifests, "default", |outcome| {
        progress.line(&format!("{} {}", outcome.label, outcome.verb));
    })
    .await?;
    let settled = settle::wait(cluster.client(), &outcomes, args.node_address, &mut progress).await;
    progress.done();
    settled?;
    let objects = if outcomes.len() == 1 { "object" } else { "objects" };
    say(&format!("applied {} {objects} {:.3}s", outcomes.len(), started.elapsed().as_secs_f64()));
    ways(&outcomes, args.node_address).iter().for_each(|line| say(line));
    Ok(())
}

/// Writes the kubeconfigs that were asked for, and merges the personal one.
fn kubeconfigs(
    args: &UpArgs,
    dir: &DataDir,
    path: &Path,
) -> impl FnMut(&kubeconfig::Access<'_>) -> anyhow::Result<()> + Send + 'static {
    let (name, own, merge) = (kubeconfig::name(dir), dir.join("kubeconfig"), args.merge_kubeconfig);
    // Written again later, when this process may work in another folder.
    let other = args.kubeconfig.is_some().then(|| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    move |access| {
        let document = kubeconfig::document(access, &name);
        kubeconfig::write(&own, &document)?;
        if let Some(other) = &other {
            kubeconfig::write(other, &document)?;
        }
        if merge {
            eprintln!("{}", kubeconfig::merge(&kubeconfig::personal_path()?, &document, false)?);
        }
        Ok(())
    }
}

/// The URLs of what was applied. Only for what is settled: this process listens on every node port.
fn ways(outcomes: &[Outcome], node: IpAddr) -> Vec<String> {
    let mut lines = Vec::new();
    for service in outcomes.iter().filter(|o| o.object["kind"] == "Service") {
        let name = service.object["metadata"]["name"].as_str().unwrap_or_default();
        for number in settle::tcp_node_ports(&service.object) {
            lines.push(format!("  {name}  http://{}", crate::port::reachable(SocketAddr::new(node, number))));
        }
    }
    lines
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! { _ = self.interrupt.recv() => {}, _ = self.terminate.recv() => {} }
    }
}
