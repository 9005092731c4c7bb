//! Commands, configuration and the composition root: the only place that reads clock, environment and randomness, and the only
//! one that knows every other crate.

#[macro_use]
mod logging;

mod args;
mod check;
mod cluster;
mod credentials;
mod data_dir;
mod down;
mod env;
mod exit;
mod image_use;
mod images;
mod kubeconfig;
mod machine;
mod manifests;
mod out;
mod port;
mod progress;
mod remote;
mod settle;
mod up;
mod version;

use anyhow::Context;
use args::{Cli, Command, ImageCommand};
use clap::{CommandFactory, Parser};
use data_dir::DataDir;
use std::{future::Future, process::ExitCode};

/// Runs the command line. Exit codes: 0 ok, 1 failed, 2 usage.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == args::COMPILE_CHILD) {
        return wasm::compile::child_main();
    }
    let cli = Cli::parse();
    data_dir::private_umask();
    let filter = env::var_os("SAMPAN_LOG").and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
    logging::start(cli.verbose, filter.as_deref());
    rustls::crypto::ring::default_provider().install_default().expect("the first and only provider");
    match dispatch(cli.command, arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = exit::code(&error);
            if code != 0 {
                eprintln!("{}", exit::told(&error));
            }
            ExitCode::from(code)
        }
    }
}

fn dispatch(command: Command, arguments: Vec<std::ffi::OsString>) -> anyhow::Result<()> {
    match command {
        Command::Up(args) => up::run(&args, arguments),
        Command::Down(data) => down::down(&DataDir::locate(data.data_dir.as_deref())?),
        Command::Image(ImageCommand::Load { file, tag, data }) => {
            block(images::load(DataDir::open(data.data_dir.as_deref())?, &file, &tag))
        }
        Command::Image(ImageCommand::Ls(data)) => block(images::list(data.data_dir.as_deref())),
        Command::Image(ImageCommand::Rm { images, force, data }) => {
            block(images::remove(data.data_dir.as_deref(), &images, force))
        }
        Command::Image(ImageCommand::Push { image, data }) => block(images::push(data.data_dir.as_deref(), &image)),
        Command::Kubeconfig(args) => kubeconfig::run(&args),
        Command::Apply(args) => block(async move { remote::apply(&args).await }),
        Command::Get(args) => block(async move { remote::get(&args).await }),
        Command::Logs(args) => block(async move { remote::logs(&args).await }),
        Command::Delete(args) => block(async move { remote::delete(&args).await }),
        Command::Version => {
            out::line(&format!("sampan {} (Kubernetes {})", version::VERSION, server::version::KUBERNETES))
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sampan", &mut script);
            out::print(&script)
        }
    }
}

/// The runtime of the control plane: guests have threads of their own.
pub(crate) fn control_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("control")
        .build()
        .context("cannot start threads")
}

fn block<F: Future<Output = anyhow::Result<()>>>(future: F) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(future)
}
