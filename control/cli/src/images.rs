//! `sampan image`, and the packaging of image files. The node agent has the same store. It consists of plain files with a lock for garbage
//! collection, so that everything works while the cluster runs or is stopped.

use crate::{
    data_dir::DataDir,
    env, image_advice,
    image_use::{self, Removed},
    manifests::{self, Manifest},
    out, remote,
};
use anyhow::{Context, bail};
use client::{Client, Kind, ListOptions};
use image::{Images, Keyring, Listed, Options, Proxies, Pulled, Reference};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::{Pod, PodTemplateSpec},
};
use std::{
    cmp::Reverse,
    path::Path,
    time::{Duration, SystemTime},
};

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

/// `sampan image load`.
pub(crate) async fn load(dir: DataDir, file: &Path, tag: &str) -> anyhow::Result<()> {
    manifests::check_name(tag)?;
    let loaded = open(&dir)?.load(file, Some(tag)).await.map_err(unloadable)?;
    warn_of_what_never_runs(&loaded, &file.display().to_string());
    out::say(&format!(
        "loaded {} {} ({} bytes, {}){}",
        loaded.name,
        loaded.digest,
        loaded.size,
        loaded.layout,
        into(&dir)
    ));
    if Reference::parse(&loaded.name)?.is_latest() {
        eprintln!(
            "note: Kubernetes gives containers of an image tagged latest imagePullPolicy: Always, which asks a registry and not \
             this store; write imagePullPolicy: IfNotPresent in the pod, or load it with another tag, such as -t {}:1",
            tag.strip_suffix(":latest").unwrap_or(tag)
        );
    }
    Ok(())
}

/// Reports where an image was stored if that is unexpected.
fn into(dir: &DataDir) -> String {
    if dir.is_default() { String::new() } else { format!(" into {}", dir.path().display()) }
}

/// Warns of what its pods would report.
fn warn_of_what_never_runs(loaded: &Pulled, what: &str) {
    let image::Artifact::Wasm { path, .. } = &loaded.artifact else { return };
    if let Some(why) = image_advice::never_runs(path) {
        eprintln!("warning: {what} cannot run on this node: {why}");
    }
}

/// The image of the store that a name or digest means. As usual, a name without a registry is one of Docker Hub, or else the one that a
/// file got: `localhost/` and the file's name.
pub(crate) fn named(dir: &DataDir, list: &[Listed], name: &str) -> anyhow::Result<String> {
    let has = |full: &str| list.iter().any(|one| one.names.iter().any(|there| there == full));
    if list.iter().any(|one| one.digest.to_string() == name) {
        return Ok(name.to_owned());
    }
    manifests::check_name(name)?;
    let full = Reference::parse(name)?.to_string();
    if has(&full) {
        return Ok(full);
    }
    let local = Reference::parse(&format!("localhost/{name}")).map(|local| local.to_string()).ok();
    match local.filter(|local| has(local)) {
        Some(local) => Ok(local),
        None => bail!("{name}: no such image in the store; `{}` lists them", dir.client_command("image ls")),
    }
}

/// Why a file could not be loaded, in one line. The archive reader's error about other files is not helpful.
fn unloadable(error: image::Error) -> anyhow::Error {
    match error {
        image::Error::Refused(text) if text.contains(": it is none of: ") && !text.contains(".tar: ") => {
            anyhow::anyhow!("{}", brief(text.rsplit_once(" (the archive").map_or(text.as_str(), |(what, _)| what)))
        }
        image::Error::Refused(text) => anyhow::anyhow!("{}", brief(&text)),
        error => error.into(),
    }
}

/// The maximum length of an error, in bytes.
const MAX_ERROR: usize = 300;

/// The name in errors of the WebAssembly text parser for input without a file name.
const ANONYMOUS: &str = "<anon>:";

/// The error of a file in one bounded line: the excerpt of a parser error is replaced by its line and column.
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
    let (images, users) = match &dir {
        // Without a running cluster the column is empty.
        Some(dir) => (open(dir)?.list().await?, running_pods(dir).await.ok().flatten()),
        None => (Vec::new(), None),
    };
    for line in lines(images, users.as_deref(), env::system_clock().now()) {
        out::line(&line)?;
    }
    if dir.is_none() {
        eprintln!("there is no data directory {} yet", DataDir::locate(path)?.path().display());
    }
    Ok(())
}

/// `sampan image tag`.
pub(crate) async fn tag(path: Option<&Path>, image: &str, name: &str) -> anyhow::Result<()> {
    manifests::check_name(name)?;
    let dir = existing(path)?;
    let images = open(&dir)?;
    let image = &named(&dir, &images.list().await?, image)?;
    images.tag(image, name).await?;
    out::say(&format!("tagged {image} as {name}"));
    Ok(())
}

/// `sampan image prune`: removes images that no object of the cluster can start.
pub(crate) async fn prune(path: Option<&Path>, all: bool) -> anyhow::Result<()> {
    let dir = existing(path)?;
    let users = match users(&dir).await? {
        Some(users) => users,
        None if dir.join(crate::data_dir::STORE).exists() => bail!(
            "the cluster of {} does not run, so which images its pods use is not known; start it first: {}",
            dir.path().display(),
            dir.command("up")
        ),
        None => Vec::new(),
    };
    let images = open(&dir)?;
    let (mut count, mut freed) = (0_usize, 0);
    for one in images.list().await? {
        if (all || one.names.is_empty()) && image_use::users_of(&users, &one).is_empty() {
            freed += images.remove(&one.digest.to_string()).await?;
            let name = one.names.first().map_or_else(|| "<none>".to_owned(), |name| short(name).to_owned());
            out::say(&format!("removed {name} {}", one.digest));
            count += 1;
        }
    }
    let what = if count == 1 { "image" } else { "images" };
    out::say(&format!("removed {count} {what}, {}", bytes(freed)));
    Ok(())
}

/// The data directory of commands that need existing images.
pub(crate) fn existing(path: Option<&Path>) -> anyhow::Result<DataDir> {
    match DataDir::open_existing(path)? {
        Some(dir) => Ok(dir),
        None => bail!("there is no data directory {} yet", DataDir::locate(path)?.path().display()),
    }
}

/// A header, and a line per name, the newest image first. `users` are the images in use, if known.
fn lines(mut list: Vec<Listed>, users: Option<&[Pod]>, now: SystemTime) -> Vec<String> {
    let mut rows = vec![["NAME", "CREATED", "SIZE", "USED BY", "LAYOUT", "DIGEST"].map(str::to_owned).to_vec()];
    list.sort_by_key(|one| Reverse(one.added));
    for one in list {
        let used = users.map_or_else(|| "-".to_owned(), |users| count(image_use::users_of(users, &one).len()));
        let age = one.added.and_then(|added| now.duration_since(added).ok()).map_or_else(|| "-".to_owned(), ago);
        let names = if one.names.is_empty() { vec!["<none>".to_owned()] } else { one.names };
        for name in names {
            let (layout, digest) = (one.layout.to_owned(), one.digest.to_string());
            rows.push(vec![short(&name).to_owned(), age.clone(), bytes(one.size), used.clone(), layout, digest]);
        }
    }
    out::columns(&rows)
}

/// A name as users type it, without the default registry.
fn short(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

fn count(pods: usize) -> String {
    match pods {
        0 => "none".to_owned(),
        1 => "1 pod".to_owned(),
        pods => format!("{pods} pods"),
    }
}

/// `5m ago`: one unit, like kubectl's ages.
fn ago(age: Duration) -> String {
    let seconds = age.as_secs();
    let (number, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7200 => (seconds / 60, "m"),
        7200..172_800 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "d"),
    };
    format!("{number}{unit} ago")
}

/// A size in decimal units, like docker's.
fn bytes(size: u64) -> String {
    match size {
        0..1000 => format!("{size} B"),
        1000..1_000_000 => format!("{:.1} kB", size as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", size as f64 / 1e6),
        _ => format!("{:.1} GB", size as f64 / 1e9),
    }
}

/// `sampan image rm`. An image that a pod of the running cluster uses is removed only with --force.
pub(crate) async fn remove(path: Option<&Path>, names: &[String], force: bool) -> anyhow::Result<()> {
    let dir = existing(path)?;
    let images = open(&dir)?;
    let pods = if force { Vec::new() } else { pods(&dir).await? };
    let mut failures = Vec::new();
    for name in names {
        match remove_one(&dir, &images, name, &pods).await {
            Ok(()) => out::say(&format!("removed {name}")),
            Err(error) => failures.push(error),
        }
    }
    remote::done_or_failed((), failures)
}

async fn remove_one(dir: &DataDir, images: &Images, name: &str, pods: &[Pod]) -> anyhow::Result<()> {
    let list = images.list().await?;
    let meant = &named(dir, &list, name)?;
    let using = image_use::users(pods, &removed(&list, meant)?);
    if let Some(first) = using.first() {
        let (who, what) = match using.len() - 1 {
            0 => (format!("pod {first} uses it"), "the pod"),
            others => (format!("pod {first} and {others} more use it"), "the pods"),
        };
        bail!("conflict: unable to remove {name} (must force): {who}; delete {what}, or give --force");
    }
    images.remove(meant).await?;
    Ok(())
}

/// What the removal of a name or digest removes.
fn removed(list: &[Listed], name: &str) -> anyhow::Result<Removed> {
    if list.iter().any(|one| one.digest.to_string() == name) {
        return Ok(Removed { name: None, digest: Some(name.to_owned()) });
    }
    let full = Reference::parse(name)?.to_string();
    let last = list.iter().find(|one| one.names == [full.as_str()]);
    Ok(Removed { digest: last.map(|one| one.digest.to_string()), name: Some(full) })
}

/// The pods of the running cluster of this directory. Empty if none runs.
async fn pods(dir: &DataDir) -> anyhow::Result<Vec<Pod>> {
    let ask = "cannot ask the cluster which images are used; --force removes without asking";
    Ok(running_pods(dir).await.context(ask)?.unwrap_or_default())
}

async fn running_pods(dir: &DataDir) -> anyhow::Result<Option<Vec<Pod>>> {
    if dir.holder()?.is_none_or(|holder| holder.address.is_empty()) {
        return Ok(None);
    }
    let client = remote::connect_in(dir).await?;
    Ok(Some(client.list::<Pod>("", &ListOptions::default()).await.map_err(remote::explain)?.items))
}

/// The pods and the pod templates of the cluster, each as a pod: a Deployment without replicas, or a revision for rollback, can create pods
/// at any time. `None` if no cluster runs.
async fn users(dir: &DataDir) -> anyhow::Result<Option<Vec<Pod>>> {
    let Some(mut users) = running_pods(dir).await? else { return Ok(None) };
    let client = remote::connect_in(dir).await?;
    let of = |metadata, template: PodTemplateSpec| Some(Pod { metadata, spec: Some(template.spec?), status: None });
    users.extend(listed(&client, |set: ReplicaSet| of(set.metadata, set.spec?.template?)).await?);
    users.extend(listed(&client, |set: StatefulSet| of(set.metadata, set.spec?.template)).await?);
    users.extend(listed(&client, |set: DaemonSet| of(set.metadata, set.spec?.template)).await?);
    users.extend(listed(&client, |job: Job| of(job.metadata, job.spec?.template)).await?);
    let scheduled = |cron: CronJob| of(cron.metadata, cron.spec.job_template.spec?.template);
    users.extend(listed(&client, scheduled).await?);
    let older = |revision: ControllerRevision| {
        let template = revision.data?.0.pointer("/spec/template")?.clone();
        of(revision.metadata, serde_json::from_value(template).ok()?)
    };
    users.extend(listed(&client, older).await?);
    Ok(Some(users))
}

/// What all objects of a kind are used for.
async fn listed<K: Kind>(client: &Client, user: impl Fn(K) -> Option<Pod>) -> anyhow::Result<Vec<Pod>> {
    let all = client.list::<K>("", &ListOptions::default()).await.map_err(remote::explain)?;
    Ok(all.items.into_iter().filter_map(user).collect())
}

/// `sampan image push`, with the credentials of ~/.docker/config.json, if any.
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

/// Packages and loads all images of manifests that are files, and replaces them by their digests. Of those that never run the API server warns.
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
    fn images_are_listed_with_the_newest_first_and_who_uses_them() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let digest = |c: &str| format!("sha256:{}", c.repeat(64));
        let one = |name: &str, c: &str, age: u64| Listed {
            names: vec![name.into()],
            digest: digest(c).parse().expect("a digest"),
            size: 1_234_567,
            layout: "x",
            added: Some(now - Duration::from_secs(age)),
        };
        let list = vec![one("docker.io/library/old:1", "a", 86_400 * 3), one("localhost/new:1", "b", 5)];
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [{"name": "c", "image": "old:1"}]}}))
        .expect("a pod");
        let shown = lines(list.clone(), Some(&[pod]), now);
        let cells = |line: &str| {
            line.split("  ").map(str::trim).filter(|c| !c.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(cells(&shown[0]), ["NAME", "CREATED", "SIZE", "USED BY", "LAYOUT", "DIGEST"]);
        assert_eq!(cells(&shown[1]), ["localhost/new:1", "5s ago", "1.2 MB", "none", "x", &digest("b")]);
        assert_eq!(cells(&shown[2]), ["old:1", "3d ago", "1.2 MB", "1 pod", "x", &digest("a")]);
        assert_eq!(cells(&lines(list, None, now)[1])[3], "-", "nobody was asked");
        assert_eq!(lines(Vec::new(), None, now).len(), 1, "the header is there also for none");
    }

    #[test]
    fn a_name_is_docker_hubs_or_that_of_a_file() {
        let digest = |c: &str| format!("sha256:{}", c.repeat(64));
        let one = |names: &[&str], c: &str| Listed {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            digest: digest(c).parse().expect("a digest"),
            size: 1,
            layout: "x",
            added: None,
        };
        let dir = DataDir::locate(Some(Path::new("/d"))).expect("a path");
        let list = [
            one(&["localhost/hello:latest", "localhost/both:1"], "a"),
            one(&["docker.io/library/both:1", "localhost:5000/r:1"], "b"),
        ];
        for (name, want) in [
            ("hello", "localhost/hello:latest"),
            ("hello:latest", "localhost/hello:latest"),
            ("localhost/hello", "localhost/hello:latest"),
            ("both:1", "docker.io/library/both:1"),
            ("localhost:5000/r:1", "localhost:5000/r:1"),
            (&digest("b"), &digest("b")),
        ] {
            assert_eq!(named(&dir, &list, name).expect(name), want);
        }
        let refused = |name: &str| named(&dir, &list, name).expect_err(name).to_string();
        assert_eq!(
            refused("absent:1"),
            "absent:1: no such image in the store; `sampan image ls --data-dir /d` lists them"
        );
        assert!(refused("Hello").contains("such as hello"));
    }
}
