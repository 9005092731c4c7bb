//! The kubeconfig of the cluster's administrator, and merging it into other kubeconfigs on request.

use crate::{
    data_dir::{DataDir, write_private},
    exit::io,
    known::Clusters,
};
use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// How a client accesses the cluster as its administrator.
pub(crate) struct Access<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: &'a str,
    pub(crate) certificate_pem: &'a str,
    pub(crate) key_pem: &'a str,
}

/// A kubeconfig with this name for cluster, user and context.
pub(crate) fn document(access: &Access<'_>, name: &str) -> Value {
    let host = crate::port::reachable(access.address);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": format!("https://{host}"),
            "certificate-authority-data": STANDARD.encode(access.ca_pem),
        }}],
        "users": [{"name": name, "user": {
            "client-certificate-data": STANDARD.encode(access.certificate_pem),
            "client-key-data": STANDARD.encode(access.key_pem),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
        "preferences": {},
    })
}

/// Writes a private kubeconfig. Follows a symbolic link, which users have whose settings are elsewhere.
pub(crate) fn write(path: &Path, document: &Value) -> anyhow::Result<()> {
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    make_folder_of(path)?;
    write_private(path, api::yaml::to_string(document).as_bytes())
}

fn make_folder_of(path: &Path) -> anyhow::Result<()> {
    let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) else { return Ok(()) };
    fs::create_dir_all(parent).map_err(|error| anyhow::anyhow!("cannot make {}: {}", parent.display(), io(&error)))
}

/// Whether a kubeconfig of an earlier start has the same server and authority, so that its certificate may still be valid.
pub(crate) fn leads_to(path: &Path, document: &Value) -> bool {
    let there = fs::read(path).ok().and_then(|text| api::yaml::parse(&text).ok());
    there.is_some_and(|(there, _)| there["clusters"] == document["clusters"] && there["users"][0]["user"].is_object())
}

/// Writes the kubeconfigs that `up` was asked for in addition to the cluster's own, and records them: later starts renew them. Replaces
/// entries of an earlier cluster of the same data directory, but not those of other clusters.
pub(crate) fn copy(dir: &DataDir, ours: &Value, file: Option<&Path>, personal: bool) -> anyhow::Result<()> {
    let clusters = Clusters::of_user();
    let before = clusters.get(dir);
    clusters.note(dir, name_of(ours), authority_of(ours), None);
    let named = file.filter(|file| *file != dir.join("kubeconfig")).map(Path::to_owned);
    let personal = personal.then(|| Ok::<_, anyhow::Error>(std::path::absolute(personal_path()?)?)).transpose()?;
    for path in named.into_iter().chain(personal) {
        let replaced = before.as_ref().is_some_and(|before| names(&path, name_of(ours), &before.authority));
        eprintln!("{}", merge(&path, ours, replaced)?);
        clusters.note(dir, name_of(ours), authority_of(ours), Some(&path));
    }
    Ok(())
}

/// Renews the copies of a cluster's kubeconfig that still name the cluster. Failures are not fatal.
pub(crate) fn renew_copies(dir: &DataDir, ours: &Value) {
    let clusters = Clusters::of_user();
    let mut left = Vec::new();
    for copy in clusters.get(dir).into_iter().flat_map(|known| known.copies) {
        match renew(&copy, ours) {
            Ok(Renewed::NotOurs) => left.push(copy),
            Ok(Renewed::Written) if !crate::out::is_quiet() => {
                let server = ours["clusters"][0]["cluster"]["server"].as_str().unwrap_or_default();
                eprintln!("renewed {:?} ({server}) in {}", name_of(ours), copy.display());
            }
            Ok(_) => {}
            Err(error) => eprintln!("warning: the copy of the kubeconfig is old: {error:#}"),
        }
    }
    clusters.retain_copies(dir, |copy| !left.iter().any(|left| left == copy));
}

/// Adds the cluster to an existing or new kubeconfig and makes it the current context. Replaces its own older entries, and those of other
/// clusters only with force. Returns a message.
pub(crate) fn merge(path: &Path, ours: &Value, force: bool) -> anyhow::Result<String> {
    let name = name_of(ours);
    edit(path, |whole| {
        if !force {
            refuse_another(path, whole, authority_of(ours), name)?;
        }
        for list in LISTS {
            let mut entries = whole[list].as_array().cloned().unwrap_or_default();
            entries.retain(|entry| entry["name"] != name);
            entries.extend(ours[list].as_array().cloned().unwrap_or_default());
            whole[list] = Value::Array(entries);
        }
        whole["current-context"] = ours["current-context"].clone();
        Ok(())
    })?;
    let server = ours["clusters"][0]["cluster"]["server"].as_str().unwrap_or_default();
    Ok(format!(
        "wrote cluster, user and context {name:?} ({server}) to {}, and made it the current context",
        path.display()
    ))
}

/// Checks in advance whether [`merge`] can write the entries of a cluster. Creates the folder and nothing else. `authority` is that of the
/// data directory, empty if it has none yet.
///
/// # Errors
/// It cannot. The remedy depends on who chose the file.
pub(crate) fn check(path: &Path, dir: &DataDir, authority: &str) -> anyhow::Result<()> {
    let (whole, name) = (read_or_new(path)?, dir.name());
    let before = Clusters::of_user().get(dir);
    if !before.is_some_and(|before| is_named(&whole, &name, &before.authority)) {
        refuse_another(path, &whole, authority, &name)?;
    }
    let _lock = FileLock::take(path, LOCK_TIMEOUT)?;
    // A temporary file is written beside it and renamed.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let beside = path.with_extension(format!("tmp{}", std::process::id()));
    let tried = fs::File::create(&beside).and_then(|_| fs::remove_file(&beside));
    tried.map_err(|error| anyhow::anyhow!("cannot write {}: {}", path.display(), io(&error)))
}

/// Removes the entries of a cluster from another kubeconfig. Returns a message about the change.
pub(crate) fn forget(path: &Path, name: &str, authority: &str) -> anyhow::Result<Option<String>> {
    if read(path).is_none() {
        return Ok(None);
    }
    edit(path, |whole| {
        let has = |list: &str| whole[list].as_array().into_iter().flatten().any(|entry| entry["name"] == name);
        if !LISTS.iter().any(|list| has(list)) || of_another(whole, authority, name).is_some() {
            return Ok(None);
        }
        for list in LISTS {
            if let Some(entries) = whole[list].as_array_mut() {
                entries.retain(|entry| entry["name"] != name);
            }
        }
        let was_current = whole["current-context"] == name;
        if was_current {
            whole["current-context"] = json!("");
        }
        let current = if was_current { ", and no context is current there now" } else { "" };
        Ok(Some(format!("removed cluster, user and context {name:?} from {}{current}", path.display())))
    })
}

/// The result of renewing a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewed {
    /// Address and credentials were updated.
    Written,
    /// They were up to date.
    Right,
    /// The file was removed, or has no entry of this cluster any more.
    NotOurs,
}

/// Updates the entries of a cluster in another kubeconfig. Everything else is kept, including the current context.
pub(crate) fn renew(path: &Path, ours: &Value) -> anyhow::Result<Renewed> {
    let (name, authority) = (name_of(ours), authority_of(ours));
    if let Err(error) = fs::File::open(path)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("cannot read {}", path.display()));
    }
    if read(path).is_none() {
        return Ok(Renewed::NotOurs);
    }
    edit(path, |whole| {
        if !is_named(whole, name, authority) {
            return Ok(Renewed::NotOurs);
        }
        let before = whole.clone();
        for (list, field) in [("clusters", "cluster"), ("users", "user")] {
            for entry in whole[list].as_array_mut().into_iter().flatten().filter(|entry| entry["name"] == name) {
                entry[field] = ours[list][0][field].clone();
            }
        }
        Ok(if *whole == before { Renewed::Right } else { Renewed::Written })
    })
}

/// Reads or creates a kubeconfig, changes it, and writes it if it differs, under its lock.
fn edit<T>(path: &Path, change: impl Fn(&mut Value) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let changed = || {
        let before = read_or_new(path)?;
        let mut whole = before.clone();
        change(&mut whole).map(|told| (whole != before, whole, told))
    };
    // If nothing changed, nothing is written, as on a full disk.
    if let (false, _, told) = changed()? {
        return Ok(told);
    }
    let _lock = FileLock::take(path, LOCK_TIMEOUT)?;
    let (_, whole, told) = changed()?;
    write(path, &whole)?;
    Ok(told)
}

fn read_or_new(path: &Path) -> anyhow::Result<Value> {
    match fs::read(path) {
        Ok(text) => match api::yaml::parse(&text) {
            Ok((Value::Object(map), _)) => Ok(Value::Object(map)),
            Ok((Value::Null, _)) => Ok(json!({})),
            _ => bail!("{} is not a kubeconfig; it was left as it is", path.display()),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(json!({"apiVersion": "v1", "kind": "Config"})),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// How long to wait for the lock of a kubeconfig.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// The lock of a kubeconfig: the lock file that kubectl uses too.
struct FileLock(PathBuf);

impl FileLock {
    fn take(path: &Path, patience: Duration) -> anyhow::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let lock = PathBuf::from(name);
        make_folder_of(&lock)?;
        let mut waited = Duration::ZERO;
        loop {
            match fs::OpenOptions::new().write(true).create_new(true).open(&lock) {
                Ok(_) => return Ok(Self(lock)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists && waited < patience => {
                    std::thread::sleep(LOCK_RETRY);
                    waited += LOCK_RETRY;
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!(
                    "cannot write {}: {} is there, so another program writes it; if none does, remove that file",
                    path.display(),
                    lock.display()
                ),
                Err(error) => bail!("cannot write {}: {}", lock.display(), io(&error)),
            }
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Whether a kubeconfig has a cluster with this name and authority.
pub(crate) fn names(path: &Path, name: &str, authority: &str) -> bool {
    read(path).is_some_and(|whole| is_named(&whole, name, authority))
}

/// Whether the cluster is the current one of this kubeconfig.
pub(crate) fn is_current(path: &Path, name: &str, authority: &str) -> bool {
    read(path).is_some_and(|whole| whole["current-context"] == name && is_named(&whole, name, authority))
}

fn is_named(whole: &Value, name: &str, authority: &str) -> bool {
    let mut clusters = whole["clusters"].as_array().into_iter().flatten();
    clusters.any(|it| it["name"] == name && it["cluster"]["certificate-authority-data"] == authority)
}

/// The name of cluster, user and context in a cluster's own kubeconfig.
pub(crate) fn name_of(ours: &Value) -> &str {
    ours["current-context"].as_str().unwrap_or_default()
}

/// The certificate authority in it.
pub(crate) fn authority_of(ours: &Value) -> &str {
    ours["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap_or_default()
}

/// The kubeconfig of a data directory, if it exists.
pub(crate) fn of(dir: &DataDir) -> Option<Value> {
    read(&dir.join("kubeconfig"))
}

/// `None` if it is unreadable or invalid.
pub(crate) fn read(path: &Path) -> Option<Value> {
    let (whole, _) = api::yaml::parse(&fs::read(path).ok()?).ok()?;
    Some(whole).filter(Value::is_object)
}

const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

/// The kinds of entries with this name that belong to another cluster. A cluster is identified by its certificate authority, which never
/// changes, and not by its address.
fn of_another(whole: &Value, authority: &str, name: &str) -> Option<&'static str> {
    let entry = |of: &Value, list: &str| {
        let found = of[list].as_array().into_iter().flatten().find(|entry| entry["name"] == name);
        found.cloned()
    };
    match entry(whole, "clusters").map(|it| it["cluster"]["certificate-authority-data"].clone()) {
        Some(theirs) if theirs != authority => return Some("cluster"),
        None if entry(whole, "users").is_some() => return Some("user"),
        _ => {}
    }
    let context = entry(whole, "contexts")?;
    (context["context"]["cluster"] != name).then_some("context")
}

fn refuse_another(path: &Path, whole: &Value, authority: &str, name: &str) -> anyhow::Result<()> {
    let Some(what) = of_another(whole, authority, name) else { return Ok(()) };
    bail!(
        "{} was left as it is: its {what} {name:?} is of another cluster; name another file, or replace it with kubeconfig --merge --force",
        path.display()
    )
}

/// The user's kubeconfig: the first file of $KUBECONFIG, or ~/.kube/config. Kubeconfigs in data directories are excluded: entries of
/// another cluster there would mislead users of that cluster.
pub(crate) fn personal_path() -> anyhow::Result<PathBuf> {
    let set = |name: &str| crate::env::var_os(name).filter(|value| !value.is_empty());
    let named = set("KUBECONFIG").and_then(|paths| std::env::split_paths(&paths).find(|path| is_personal(path)));
    match (named, set("HOME")) {
        (Some(path), _) => Ok(path),
        (None, Some(home)) => Ok(PathBuf::from(home).join(".kube/config")),
        (None, None) => bail!("no kubeconfig to merge into: neither KUBECONFIG nor HOME names one"),
    }
}

fn is_personal(path: &Path) -> bool {
    !path.as_os_str().is_empty() && DataDir::of_kubeconfig(path).is_none()
}

/// The error about a data directory without a kubeconfig.
pub(crate) fn absent(dir: &DataDir) -> anyhow::Error {
    let path = dir.join("kubeconfig");
    match dir.holder() {
        Ok(Some(holder)) if !holder.address.is_empty() => anyhow::anyhow!(
            "{} is gone, but the cluster runs (process {}); `{}` and then `{}` write it again",
            path.display(),
            holder.pid,
            dir.client_command("down"),
            dir.command("up")
        ),
        Ok(Some(holder)) => {
            anyhow::anyhow!("no kubeconfig at {} yet: the cluster is starting (process {})", path.display(), holder.pid)
        }
        _ => none_ever(dir, &crate::running::others(dir)),
    }
}

/// The error if no cluster has run in the directory. `running` are other running clusters.
fn none_ever(dir: &DataDir, running: &[PathBuf]) -> anyhow::Error {
    let path = dir.join("kubeconfig");
    let named: Vec<String> = running.iter().map(|dir| format!("--data-dir {}", crate::out::shell(dir))).collect();
    let meant = match named.as_slice() {
        [] => String::new(),
        [one] => format!(", or name the one that runs: {one}"),
        several => format!(", or name one of those that run: {}", several.join(", ")),
    };
    anyhow::anyhow!("no kubeconfig at {}: start a cluster first with `{}`{meant}", path.display(), dir.command("up"))
}

/// `sampan kubeconfig`: prints or merges the kubeconfig of the data directory.
pub(crate) fn run(args: &crate::args::KubeconfigArgs) -> anyhow::Result<()> {
    let dir = DataDir::locate(args.data.data_dir.as_deref())?;
    let path = dir.join("kubeconfig");
    let text = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(absent(&dir)),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    if !args.merge {
        return crate::out::print(&text);
    }
    let (document, _) = api::yaml::parse(&text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    let target = std::path::absolute(personal_path()?)?;
    eprintln!("{}", merge(&target, &document, args.force)?);
    Clusters::of_user().note(&dir, name_of(&document), authority_of(&document), Some(&target));
    Ok(())
}

#[cfg(test)]
mod tests;
