//! Commands, configuration and the composition root. It is the only crate that reads clock, environment and randomness, and the only one
//! that depends on all others.

#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

#[macro_use]
mod logging;

mod args;
mod check;
mod cluster;
mod context;
mod credentials;
mod data_dir;
mod descriptors;
mod down;
mod env;
mod exit;
mod image_advice;
mod image_use;
mod images;
mod known;
mod kubeconfig;
mod machine;
mod manifests;
mod out;
mod parse;
mod port;
mod precompile;
mod progress;
mod remote;
mod running;
mod settings;
mod settle;
mod snapshot;
mod suggestion;
mod up;
mod version;

use anyhow::Context;
use args::{Cli, Command, ImageCommand, SnapshotCommand};
use clap::{CommandFactory, Parser};
use data_dir::DataDir;
use std::{ffi::OsString, future::Future, process::ExitCode};

/// Runs the command line. Exit codes: 0 ok, 1 failed, 2 usage.
pub fn main() -> ExitCode {
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == args::COMPILE_CHILD) {
        let _ = wasm::descriptors::close_inherited();
        return wasm::compile::child_main();
    }
    if arguments.first().is_some_and(|first| first == args::ISOLATED_CHILD) {
        let _ = wasm::descriptors::close_inherited();
        return isolated::child_main(env::system_clock());
    }
    if arguments.first().is_some_and(|first| first == args::RUNC_SHIM) {
        let _ = wasm::descriptors::close_inherited();
        return runc::shim_main(env::system_clock());
    }
    if arguments.first().is_some_and(|first| first == args::NETWORK_HELPER) {
        let _ = wasm::descriptors::close_inherited();
        return netns::helper::main();
    }
    let background = arguments.first().is_some_and(|first| first == args::BACKGROUND);
    if background {
        arguments.remove(0);
        down::detach_from_caller();
    }
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    out::be_quiet(cli.quiet);
    data_dir::private_umask();
    let filter = env::var_os("SAMPAN_LOG").and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
    logging::start(cli.verbose, filter.as_deref());
    rustls::crypto::ring::default_provider().install_default().expect("the first and only provider");
    match dispatch(cli.command, Start { background, arguments }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            exit::print(&error);
            if background && !exit::is_printed(&error) {
                down::report_failure(&error);
            }
            ExitCode::from(exit::code(&error))
        }
    }
}

/// How this process was started.
pub(crate) struct Start {
    /// Whether `up --detach` started it.
    pub(crate) background: bool,
    /// The other arguments.
    pub(crate) arguments: Vec<OsString>,
}

fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let own = std::iter::once(OsString::from("sampan"));
    Cli::try_parse_from(own.chain(arguments.iter().cloned()))
        .map_err(|error| suggestion::with_suggestion(error, arguments))
}

fn dispatch(command: Command, start: Start) -> anyhow::Result<()> {
    match command {
        Command::Up(args) => up::run(*args, start),
        Command::Down(mut args) => {
            args.data.data_dir = context::data_dir(args.data.data_dir)?;
            down::run(&args)
        }
        Command::Snapshot(command) => block(snapshots(command)),
        Command::Ls(args) => running::run(&args),
        Command::Image(command) => block(image(command)),
        Command::Images(data) => block(image(ImageCommand::Ls(data))),
        Command::Kubeconfig(mut args) => {
            args.data.data_dir = context::data_dir(args.data.data_dir)?;
            kubeconfig::run(&args)
        }
        Command::Apply(args) => block(async move { remote::apply(&args).await }),
        Command::Get(args) => block(async move { remote::get(&args).await }),
        Command::Logs(args) => block(async move { remote::logs(&args).await }),
        Command::PortForward(args) => block(async move { remote::port_forward(&args).await }),
        Command::Url(args) => block(async move { remote::url(&args).await }),
        Command::Delete(args) => block(async move { remote::delete(&args).await }),
        Command::Dump(args) => block(async move { remote::dump(&args).await }),
        Command::Version { output } => out::line(&version::text(output)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sampan", &mut script);
            out::print(&script)
        }
    }
}

async fn snapshots(command: SnapshotCommand) -> anyhow::Result<()> {
    match command {
        SnapshotCommand::Save { file, salvage, force, data } => {
            let dir = DataDir::locate(context::data_dir(data.data_dir)?.as_deref())?;
            snapshot::save(&dir, &file, snapshot::Options { salvage, force }).await
        }
        SnapshotCommand::Restore { file, data } => {
            snapshot::restore(&DataDir::open(data.data_dir.as_deref())?, &file).await
        }
    }
}

async fn image(command: ImageCommand) -> anyhow::Result<()> {
    let dir = |data: args::DataDir| context::data_dir(data.data_dir);
    match command {
        ImageCommand::Load { file, tag, data } => {
            images::load(DataDir::open(dir(data)?.as_deref())?, &file, &tag).await
        }
        ImageCommand::Ls(data) => images::list(dir(data)?.as_deref()).await,
        ImageCommand::Tag { image, name, data } => images::tag(dir(data)?.as_deref(), &image, &name).await,
        ImageCommand::Prune { all, data } => images::prune(dir(data)?.as_deref(), all).await,
        ImageCommand::Precompile { images, namespace, data } => {
            precompile::run(dir(data)?.as_deref(), &images, &namespace).await
        }
        ImageCommand::Rm { images, force, data } => images::remove(dir(data)?.as_deref(), &images, force).await,
        ImageCommand::Push { image, data } => images::push(dir(data)?.as_deref(), &image).await,
    }
}

/// The tokio runtime of the control plane, which serves before others compute. Guests have threads of their own.
pub(crate) fn control_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("control")
        .on_thread_start(wasm::priority::serve)
        .build()
        .context("cannot start threads")
}

fn block<F: Future<Output = anyhow::Result<()>>>(future: F) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(future)
}
