//! `sampan image`, the packaging of images that are files; the node agent has the same store. It is plain files with a lock
//! for collection, so all of it works with the cluster up or down.

use crate::{
    data_dir::DataDir,
    env,
    image_use::{self, Removed},
    manifests::{self, Manifest},
    out, remote,
};
use anyhow::{Context, bail};
use image::{Images, Keyring, Listed, Options, Proxies, Reference};
use k8s_openapi::api::core::v1::Pod;
use std::{path::Path, sync::Arc};

/// Opens the content store of a data directory.
pub(crate) fn open(dir: &DataDir) -> anyhow::Result<Images> {
    let text = |names: [&str; 2]| names.iter().find_map(|n| env::var_os(n)).and_then(|v| v.into_string().ok());
    let proxies = Proxies {
        https: text(["HTTPS_PROXY", "https_proxy"]),
        http: text(["HTTP_PROXY", "http_proxy"]),
        no_proxy: text(["NO_PROXY", "no_proxy"]),
    };
    let roots = match env::var_os("SSL_CERT_FILE") {
        Some(path) => {
            vec![std::fs::read(&path).with_context(|| format!("cannot read {}", Path::new(&path).display()))?]
        }
        None => Vec::new(),
    };
    Ok(Images::open(dir.join("images"), Options { roots, proxies, ..Options::default() })?)
}

/// What the API server may tell who applies a manifest: that an image of the store is a Linux image.
pub(crate) fn advice(images: &Images) -> server::ImageAdvice {
    let images = images.clone();
    Arc::new(move |name| match images.get(name).ok().flatten()?.artifact {
        image::Artifact::Wasm { .. } => None,
        image::Artifact::Linux { platform } => {
            Some(format!("{name:?} is a Linux image ({platform}), which this node cannot run yet; its pods will wait"))
        }
    })
}

/// `sampan image load`.
pub(crate) async fn load(dir: DataDir, file: &Path, tag: &str) -> anyhow::Result<()> {
    let loaded = open(&dir)?.load(file, Some(tag)).await.map_err(unloadable)?;
    out::say(&format!("loaded {} {} ({} bytes, {})", loaded.name, loaded.digest, loaded.size, loaded.layout));
    if Reference::parse(&loaded.name)?.is_latest() {
        eprintln!(
            "note: Kubernetes gives containers of an image tagged latest imagePullPolicy: Always, which asks a registry and not \
             this store; write imagePullPolicy: IfNotPresent in the pod, or load it with another tag, such as -t {}:1",
            tag.strip_suffix(":latest").unwrap_or(tag)
        );
    }
    Ok(())
}

/// Why a file could not be loaded, in one line. What an archive's reader says of a file that is none is no help.
fn unloadable(error: image::Error) -> anyhow::Error {
    match error {
        image::Error::Refused(text) if text.contains(": it is none of: ") && !text.contains(".tar: ") => {
            anyhow::anyhow!("{}", brief(text.rsplit_once(" (the archive").map_or(text.as_str(), |(what, _)| what)))
        }
        image::Error::Refused(text) => anyhow::anyhow!("{}", brief(&text)),
        error => error.into(),
    }
}

/// Bytes of an error that are shown.
const MAX_ERROR: usize = 300;

/// How the parser of WebAssembly text names a file that it got as bytes.
const ANONYMOUS: &str = "<anon>:";

/// What is wrong with a file, in one bounded line: a parser's picture of the place becomes its line and column.
fn brief(text: &str) -> String {
    let place = text.find(ANONYMOUS).and_then(|at| {
        let number = |text: &str| -> String { text.chars().take_while(char::is_ascii_digit).collect() };
        let rest = &text[at + ANONYMOUS.len()..];
        let line = number(rest);
        let column = number(rest[line.len()..].strip_prefix(':')?);
        Some(format!(" (line {line}, column {column})"))
    });
    let first = text.lines().next().unwrap_or_default();
    let first = first.split(&format!(" at {ANONYMOUS}")).next().unwrap_or_default();
    let mut shown: String = first.chars().take(MAX_ERROR).map(|c| if c.is_control() { '?' } else { c }).collect();
    if shown.len() < first.len() {
        shown.push('…');
    }
    shown + &place.unwrap_or_default()
}

/// `sampan image ls`.
pub(crate) async fn list(path: Option<&Path>) -> anyhow::Result<()> {
    let dir = DataDir::open_existing(path)?;
    let images = match &dir {
        Some(dir) => open(dir)?.list().await?,
        None => Vec::new(),
    };
    for line in lines(images) {
        out::line(&line)?;
    }
    if dir.is_none() {
        eprintln!("there is no data directory {} yet", DataDir::locate(path)?.path().display());
    }
    Ok(())
}

/// The data directory of commands that need images in it.
fn existing(path: Option<&Path>) -> anyhow::Result<DataDir> {
    match DataDir::open_existing(path)? {
        Some(dir) => Ok(dir),
        None => bail!("there is no data directory {} yet", DataDir::locate(path)?.path().display()),
    }
}

/// A header, then a line for each name.
fn lines(list: Vec<Listed>) -> Vec<String> {
    let mut rows = vec![["NAME", "DIGEST", "BYTES", "LAYOUT"].map(str::to_owned)];
    for one in list {
        let names = if one.names.is_empty() { vec!["<none>".to_owned()] } else { one.names };
        for name in names {
            rows.push([name, one.digest.to_string(), one.size.to_string(), one.layout.to_owned()]);
        }
    }
    let widths = [0, 1, 2, 3].map(|i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    let line = |row: &[String; 4]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// `sampan image rm`. What a pod of the running cluster uses is removed by force alone.
pub(crate) async fn remove(path: Option<&Path>, names: &[String], force: bool) -> anyhow::Result<()> {
    let dir = existing(path)?;
    let images = open(&dir)?;
    let pods = if force { Vec::new() } else { pods(&dir).await? };
    let mut failures = Vec::new();
    for name in names {
        match remove_one(&images, name, &pods).await {
            Ok(()) => out::say(&format!("removed {name}")),
            Err(error) => failures.push(error),
        }
    }
    remote::done_or_failed((), failures)
}

async fn remove_one(images: &Images, name: &str, pods: &[Pod]) -> anyhow::Result<()> {
    let using = image_use::users(pods, &removed(&images.list().await?, name)?);
    if let Some(first) = using.first() {
        let (who, what) = match using.len() - 1 {
            0 => (format!("pod {first} uses it"), "the pod"),
            others => (format!("pod {first} and {others} more use it"), "the pods"),
        };
        bail!("conflict: unable to remove {name} (must force): {who}; delete {what}, or give --force");
    }
    Ok(images.remove(name).await?)
}

/// What goes with a name or digest.
fn removed(list: &[Listed], name: &str) -> anyhow::Result<Removed> {
    if list.iter().any(|one| one.digest.to_string() == name) {
        return Ok(Removed { name: None, digest: Some(name.to_owned()) });
    }
    let full = Reference::parse(name)?.to_string();
    let last = list.iter().find(|one| one.names == [full.as_str()]);
    Ok(Removed { digest: last.map(|one| one.digest.to_string()), name: Some(full) })
}

/// The pods of the cluster that runs in this directory; none if none runs.
async fn pods(dir: &DataDir) -> anyhow::Result<Vec<Pod>> {
    if dir.holder()?.is_none_or(|holder| holder.address.is_empty()) {
        return Ok(Vec::new());
    }
    let ask = async {
        let client = remote::connect_in(dir).await?;
        client.list::<Pod>("", &client::ListOptions::default()).await.map_err(remote::explain)
    };
    Ok(ask.await.context("cannot ask the cluster which images are used; --force removes without asking")?.items)
}

/// `sampan image push`, with the credentials of ~/.docker/config.json if there are any.
pub(crate) async fn push(path: Option<&Path>, name: &str) -> anyhow::Result<()> {
    let dir = existing(path)?;
    let mut keyring = Keyring::new();
    let config = env::var_os("HOME").map(|home| Path::new(&home).join(".docker/config.json"));
    if let Some(path) = config.filter(|path| path.exists()) {
        let add = keyring.add_docker_config_json(&std::fs::read(&path)?);
        add.map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    }
    let digest = open(&dir)?.push(name, None, &keyring).await?;
    out::say(&format!("pushed {name} {digest}"));
    Ok(())
}

/// Packages and loads every image of the manifests that is a file, and names it there by its digest.
pub(crate) async fn package(dir: &DataDir, manifests: &mut [Manifest]) -> anyhow::Result<()> {
    let images = open(dir)?;
    for path in manifests::image_files(manifests)? {
        let loaded = images.load(&path, None).await.map_err(unloadable)?;
        manifests::replace_image(manifests, &path, &loaded.id());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parsers_picture_becomes_one_bounded_line_with_its_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("bad.wat");
        let dir = DataDir::open(Some(&folder.path().join("data"))).expect("a directory");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        for filler in [10, 5000] {
            let text = format!("(module\n  (func ${} nonsense))", "x".repeat(filler));
            std::fs::write(&file, text).expect("written");
            let error = runtime.block_on(load(dir.clone(), &file, "bad:1")).expect_err("refused").to_string();
            assert!(error.starts_with(&file.display().to_string()), "{error}");
            assert!(error.contains(&format!("(line 2, column {})", filler + 11)), "{error}");
            assert!(error.len() < 600 && !error.contains('\n') && !error.contains("<anon>"), "{error}");
        }
        let long = brief(&format!("x: {}\x1b", "y".repeat(1000)));
        assert!(long.chars().count() <= MAX_ERROR + 1 && long.ends_with('…'), "{long}");
    }

    #[test]
    fn a_file_that_is_no_image_is_told_what_one_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("notes.txt");
        std::fs::write(&file, "no image").expect("written");
        let dir = DataDir::open(Some(&folder.path().join("data"))).expect("a directory");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let error = runtime.block_on(load(dir, &file, "n:1")).expect_err("refused").to_string();
        let want = "it is none of: .wasm, .wat, an OCI layout folder, an OCI archive, a docker-save archive";
        assert_eq!(error, format!("{}: {want}", file.display()));
    }

    #[test]
    fn images_are_listed_under_a_header() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let one = Listed { names: vec!["b:1".into()], digest: digest.parse().expect("a digest"), size: 7, layout: "x" };
        let shown = lines(vec![one]);
        assert_eq!(shown[0].split_whitespace().collect::<Vec<_>>(), ["NAME", "DIGEST", "BYTES", "LAYOUT"]);
        assert_eq!(shown[1].split_whitespace().collect::<Vec<_>>(), ["b:1", &digest, "7", "x"]);
        assert_eq!(shown[0].find("BYTES"), shown[1].find(" 7 ").map(|at| at + 1), "{shown:#?}");
        assert_eq!(lines(Vec::new()).len(), 1, "the header is there also for none");
    }
}
