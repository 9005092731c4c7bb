//! `sampan image precompile`, and the compile cache that it shares with the node.

use crate::{args::COMPILE_CHILD, data_dir::DataDir, env, images, out, remote};
use anyhow::{Context, bail};
use image::{Artifact, Images, Listed, Reference};
use std::path::Path;

/// The options of the Wasm runtime whose compile cache is in a data directory.
pub(crate) fn wasm_options(dir: &DataDir) -> anyhow::Result<wasm::Options> {
    let key = wasm::key::load_or_create(&dir.join("compile.key"), |key| key.copy_from_slice(&env::random()))
        .context("cannot read the key of the compile cache")?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let compiler = wasm::Compiler::new(program, vec![COMPILE_CHILD.into()]);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(wasm::Options::new(dir.join("compiled"), key, compiler, threads, env::system_clock()))
}

/// `sampan image precompile`: compiles images that are in the store, with the cluster up or down.
pub(crate) async fn run(path: Option<&Path>, names: &[String], namespace: &str) -> anyhow::Result<()> {
    let dir = images::existing(path)?;
    let store = images::open(&dir)?;
    let list = store.list().await?;
    let options = wasm_options(&dir)?;
    let mut failures = Vec::new();
    for name in names {
        match one(&dir, &store, &list, &options, name, namespace).await {
            Ok(true) => out::say(&format!("compiled {name}")),
            Ok(false) => out::say(&format!("{name} is compiled already")),
            Err(error) => failures.push(error),
        }
    }
    remote::done_or_failed((), failures)
}

async fn one(
    dir: &DataDir,
    store: &Images,
    list: &[Listed],
    options: &wasm::Options,
    name: &str,
    namespace: &str,
) -> anyhow::Result<bool> {
    let meant = images::named(dir, list, name)?;
    let of_digest = list.iter().find(|one| one.digest.to_string() == meant);
    let full = of_digest.map_or(Some(&meant), |one| one.names.first());
    let Some(full) = full else { bail!("{name} has no name; give it one: {}", dir.client_command("image tag")) };
    let pulled = store.get(full)?.with_context(|| format!("{name}: the store does not have all of it"))?;
    let artifact = match pulled.artifact {
        Artifact::Wasm { path, digest } => container::Artifact::Wasm { path, digest: digest.to_string(), files: None },
        Artifact::Linux { platform } => bail!("{name} is a Linux image ({platform}): there is nothing to compile"),
    };
    let scope = agent::preparation_scope(namespace, &Reference::parse(full)?.to_string());
    wasm::compile::precompile(options, &artifact, &scope).await.map_err(|error| anyhow::anyhow!("{name}: {error}"))
}
