//! The kubeconfig: written for the cluster's administrator, merged elsewhere only when asked to.

use crate::{
    data_dir::{DataDir, write_private},
    known::Clusters,
};
use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// What a client needs to reach the cluster as its administrator.
pub(crate) struct Access<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: &'a str,
    pub(crate) certificate_pem: &'a str,
    pub(crate) key_pem: &'a str,
}

/// The name of cluster, user and context: `sampan` for the default data directory, and of its own for each other one, so that
/// clusters are beside each other in one kubeconfig.
pub(crate) fn name(dir: &DataDir) -> String {
    if dir.is_default() {
        return "sampan".to_owned();
    }
    let folder = dir.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    format!("sampan-{}", folder.chars().map(plain).collect::<String>())
}

/// A whole kubeconfig, with this name for cluster, user and context.
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

/// Writes a kubeconfig, private; through a link, which people have who keep their settings elsewhere.
pub(crate) fn write(path: &Path, document: &Value) -> anyhow::Result<()> {
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    write_private(path, api::yaml::to_string(document).as_bytes())
}

/// Whether a kubeconfig of an earlier start has the same server and authority: its certificate is good for a year.
pub(crate) fn leads_to(path: &Path, document: &Value) -> bool {
    let there = fs::read(path).ok().and_then(|text| api::yaml::parse(&text).ok());
    there.is_some_and(|(there, _)| there["clusters"] == document["clusters"] && there["users"][0]["user"].is_object())
}

/// Writes what `up` was asked for besides the cluster's own kubeconfig, and remembers where: later starts renew it there.
pub(crate) fn copy(dir: &DataDir, ours: &Value, file: Option<&Path>, personal: bool) -> anyhow::Result<()> {
    let clusters = Clusters::of_user();
    clusters.note(dir, name_of(ours), authority_of(ours), None);
    if let Some(file) = file.filter(|file| *file != dir.join("kubeconfig")) {
        // Who names the file means it: entries of a cluster that was there before are replaced.
        merge(file, ours, true)?;
        clusters.note(dir, name_of(ours), authority_of(ours), Some(file));
    }
    if personal {
        let path = std::path::absolute(personal_path()?)?;
        eprintln!("{}", merge(&path, ours, false)?);
        clusters.note(dir, name_of(ours), authority_of(ours), Some(&path));
    }
    Ok(())
}

/// Brings the copies of a cluster's kubeconfig up to date, wherever they still name it. One that cannot be written stops nobody.
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
    clusters.keep_copies(dir, |copy| !left.iter().any(|left| left == copy));
}

/// Adds the cluster to an existing kubeconfig (or a new one) and makes it current. Its own older entries are replaced, those of
/// another cluster only by force. What was done, in words.
pub(crate) fn merge(path: &Path, ours: &Value, force: bool) -> anyhow::Result<String> {
    let mut whole = match fs::read(path) {
        Ok(text) => match api::yaml::parse(&text) {
            Ok((Value::Object(map), _)) => Value::Object(map),
            Ok((Value::Null, _)) => json!({}),
            _ => bail!("{} is not a kubeconfig; it was left as it is", path.display()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => json!({"apiVersion": "v1", "kind": "Config"}),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let name = name_of(ours);
    if !force && let Some(what) = of_another(&whole, authority_of(ours), name) {
        bail!(
            "{} was left as it is: its {what} {name:?} is of another cluster; replace it with kubeconfig --merge --force",
            path.display()
        );
    }
    for list in LISTS {
        let mut entries = whole[list].as_array().cloned().unwrap_or_default();
        entries.retain(|entry| entry["name"] != name);
        entries.extend(ours[list].as_array().cloned().unwrap_or_default());
        whole[list] = Value::Array(entries);
    }
    whole["current-context"] = ours["current-context"].clone();
    write(path, &whole)?;
    let server = ours["clusters"][0]["cluster"]["server"].as_str().unwrap_or_default();
    Ok(format!(
        "wrote cluster, user and context {name:?} ({server}) to {}, and made it the current context",
        path.display()
    ))
}

/// Removes the entries of a cluster from another kubeconfig, if they are there and its own. What was done, in words.
pub(crate) fn forget(path: &Path, name: &str, authority: &str) -> anyhow::Result<Option<String>> {
    let Some(mut whole) = read(path) else { return Ok(None) };
    let has = |list: &str| whole[list].as_array().into_iter().flatten().any(|entry| entry["name"] == name);
    if !LISTS.iter().any(|list| has(list)) || of_another(&whole, authority, name).is_some() {
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
    write(path, &whole)?;
    let current = if was_current { ", and no context is current there now" } else { "" };
    Ok(Some(format!("removed cluster, user and context {name:?} from {}{current}", path.display())))
}

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewed {
    /// Its address and credentials are right now.
    Written,
    /// They were.
    Right,
    /// It is gone, or has no entry of this cluster any more.
    NotOurs,
}

/// Brings the entries of a cluster in another kubeconfig up to date; whatever else is there stays, the current context too.
pub(crate) fn renew(path: &Path, ours: &Value) -> anyhow::Result<Renewed> {
    let (name, authority) = (name_of(ours), authority_of(ours));
    if let Err(error) = fs::File::open(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("cannot read {}", path.display()));
    }
    let Some(mut whole) = read(path).filter(|whole| is_named(whole, name, authority)) else {
        return Ok(Renewed::NotOurs);
    };
    let before = whole.clone();
    for (list, field) in [("clusters", "cluster"), ("users", "user")] {
        for entry in whole[list].as_array_mut().into_iter().flatten().filter(|entry| entry["name"] == name) {
            entry[field] = ours[list][0][field].clone();
        }
    }
    if whole == before {
        return Ok(Renewed::Right);
    }
    write(path, &whole)?;
    Ok(Renewed::Written)
}

/// Whether a kubeconfig has a cluster of this name and authority.
pub(crate) fn names(path: &Path, name: &str, authority: &str) -> bool {
    read(path).is_some_and(|whole| is_named(&whole, name, authority))
}

/// Whether a cluster is the one that kubectl speaks to by this kubeconfig.
pub(crate) fn is_current(path: &Path, name: &str, authority: &str) -> bool {
    read(path).is_some_and(|whole| whole["current-context"] == name && is_named(&whole, name, authority))
}

fn is_named(whole: &Value, name: &str, authority: &str) -> bool {
    let mut clusters = whole["clusters"].as_array().into_iter().flatten();
    clusters.any(|it| it["name"] == name && it["cluster"]["certificate-authority-data"] == authority)
}

/// The name of cluster, user and context in a kubeconfig of ours.
pub(crate) fn name_of(ours: &Value) -> &str {
    ours["current-context"].as_str().unwrap_or_default()
}

/// The certificate authority in it.
pub(crate) fn authority_of(ours: &Value) -> &str {
    ours["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap_or_default()
}

/// The kubeconfig of a data directory, if it is there.
pub(crate) fn of(dir: &DataDir) -> Option<Value> {
    read(&dir.join("kubeconfig"))
}

fn read(path: &Path) -> Option<Value> {
    let (whole, _) = api::yaml::parse(&fs::read(path).ok()?).ok()?;
    Some(whole).filter(Value::is_object)
}

const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

/// Which entry of this name is another cluster's: a cluster is known by its certificate authority, which stays, and not by its
/// address.
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

/// Where people's kubeconfig is: the first file of $KUBECONFIG, else ~/.kube/config. What a cluster keeps in its data directory is its own:
/// another's entries there would mislead whoever asks for that cluster.
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

/// Why there is no kubeconfig in a data directory, and what to do.
pub(crate) fn absent(dir: &DataDir) -> anyhow::Error {
    let path = dir.join("kubeconfig");
    match dir.holder() {
        Ok(Some(holder)) if !holder.address.is_empty() => anyhow::anyhow!(
            "{} is gone, but the cluster runs (process {}); `{}` and then `{}` write it again",
            path.display(),
            holder.pid,
            dir.command("down"),
            dir.command("up")
        ),
        Ok(Some(holder)) => {
            anyhow::anyhow!("no kubeconfig at {} yet: the cluster is starting (process {})", path.display(), holder.pid)
        }
        _ => anyhow::anyhow!("no kubeconfig at {}: start a cluster first with `{}`", path.display(), dir.command("up")),
    }
}

/// `sampan kubeconfig`: prints or merges the one of the data directory.
pub(crate) fn run(args: &crate::args::KubeconfigArgs) -> anyhow::Result<()> {
    let dir = DataDir::locate(args.data.data_dir.as_deref())?;
    let path = dir.join("kubeconfig");
    let text = match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(absent(&dir)),
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
mod tests {
    use super::*;

    fn ours(ca: &str, name: &str) -> Value {
        let access = Access {
            address: "127.0.0.1:6443".parse().expect("an address"),
            ca_pem: ca,
            certificate_pem: "cert",
            key_pem: "key",
        };
        document(&access, name)
    }

    fn names(path: &Path) -> Vec<String> {
        let (merged, _) = api::yaml::parse(&fs::read(path).expect("read")).expect("YAML");
        let clusters = merged["clusters"].as_array().expect("a list").iter();
        clusters.map(|c| c["name"].as_str().expect("a name").to_owned()).collect()
    }

    #[test]
    fn merging_keeps_what_others_wrote_and_replaces_our_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config");
        let ca = STANDARD.encode("ca");
        let theirs = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: other\nclusters:\n- name: other\n  cluster: {{server: https://o}}\n\
             - name: sampan\n  cluster: {{server: https://old, certificate-authority-data: {ca}}}\n"
        );
        fs::write(&path, theirs).expect("written");
        let told = merge(&path, &ours("ca", "sampan"), false).expect("merged");
        assert!(told.contains("\"sampan\" (https://127.0.0.1:6443)") && told.contains("config"), "{told}");
        let (merged, _) = api::yaml::parse(&fs::read(&path).expect("read")).expect("YAML");
        assert_eq!(merged["current-context"], "sampan");
        assert_eq!(names(&path), ["other", "sampan"]);
        assert_eq!(merged["clusters"][1]["cluster"]["server"], "https://127.0.0.1:6443");
    }

    #[test]
    fn entries_of_another_cluster_are_replaced_by_force_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config");
        merge(&path, &ours("first", "sampan"), false).expect("new");
        let before = fs::read(&path).expect("read");
        let error = merge(&path, &ours("second", "sampan"), false).expect_err("another's").to_string();
        assert!(error.contains("--force") && error.contains("cluster \"sampan\""), "{error}");
        assert_eq!(fs::read(&path).expect("read"), before, "left as it is");
        merge(&path, &ours("second", "sampan-two"), false).expect("beside it");
        assert_eq!(names(&path), ["sampan", "sampan-two"]);
        merge(&path, &ours("second", "sampan"), true).expect("by force");
        for others in ["users: [{name: sampan, user: {}}]", "contexts: [{name: sampan, context: {cluster: other}}]"] {
            fs::write(&path, others).expect("written");
            merge(&path, &ours("ca", "sampan"), false).expect_err(others);
        }
    }

    #[test]
    fn an_absent_kubeconfig_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(Some(&folder.path().join("data"))).expect("made");
        let up = format!("`sampan up --data-dir {}`", dir.path().display());
        assert!(absent(&dir).to_string().ends_with(&format!("start a cluster first with {up}")));
        let mut lock = dir.lock().expect("free");
        assert!(absent(&dir).to_string().contains("is starting"));
        assert!(!is_personal(&dir.join("kubeconfig")) && is_personal(&folder.path().join("kubeconfig")));
        lock.announce("127.0.0.1:6443", 10, Default::default()).expect("written");
        let running = absent(&dir).to_string();
        assert!(
            running.contains("is gone") && running.contains("`sampan down --data-dir ") && running.contains(&up),
            "{running}"
        );
    }

    #[test]
    fn our_entries_are_forgotten_and_no_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config");
        let forget = |document: &Value| forget(&path, name_of(document), authority_of(document));
        let (first, second) = (ours("first", "sampan"), ours("second", "sampan-two"));
        assert!(forget(&first).expect("no file").is_none());
        merge(&path, &second, false).expect("new");
        merge(&path, &first, false).expect("beside it");
        assert!(forget(&ours("third", "sampan")).expect("another's").is_none());
        assert_eq!(names(&path), ["sampan-two", "sampan"]);
        let told = forget(&first).expect("written").expect("it was there");
        assert!(told.contains("\"sampan\"") && told.contains("no context is current"), "{told}");
        assert_eq!(names(&path), ["sampan-two"]);
        let (left, _) = api::yaml::parse(&fs::read(&path).expect("read")).expect("YAML");
        assert_eq!(left["current-context"], "");
    }

    #[test]
    fn a_copy_is_renewed_where_it_names_the_cluster_and_nowhere_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config");
        let first = ours("first", "sampan");
        assert_eq!(renew(&path, &first).expect("no file"), Renewed::NotOurs);
        merge(&path, &first, false).expect("new");
        merge(&path, &ours("second", "sampan-two"), false).expect("beside it");
        assert_eq!(renew(&path, &first).expect("readable"), Renewed::Right);
        let mut moved = first.clone();
        moved["clusters"][0]["cluster"]["server"] = json!("https://127.0.0.1:7");
        moved["users"][0]["user"]["client-key-data"] = json!("new");
        assert_eq!(renew(&path, &moved).expect("written"), Renewed::Written);
        let whole = read(&path).expect("readable");
        assert_eq!(whole["current-context"], "sampan-two", "the choice of the user");
        assert_eq!((&whole["clusters"][0], &whole["users"][0]), (&moved["clusters"][0], &moved["users"][0]));
        assert_eq!(names(&path), ["sampan", "sampan-two"]);
        let before = fs::read(&path).expect("read");
        assert_eq!(renew(&path, &ours("third", "sampan")).expect("another's"), Renewed::NotOurs);
        assert_eq!(fs::read(&path).expect("read"), before);
        assert!(
            super::names(&path, "sampan", authority_of(&first)) && !is_current(&path, "sampan", authority_of(&first))
        );
    }

    #[test]
    fn each_data_directory_has_its_own_name() {
        let named = |path: &str| name(&DataDir::locate(Some(path.as_ref())).expect("a path"));
        assert_eq!(named("/tmp/two clusters"), "sampan-two-clusters");
        let default = crate::data_dir::default_path().expect("a home");
        assert_eq!(name(&DataDir::locate(Some(&default)).expect("a path")), "sampan");
    }

    #[test]
    fn a_link_to_a_kubeconfig_stays_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("dotfiles"), folder.path().join("config"));
        fs::write(&file, "apiVersion: v1\nkind: Config\n").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        merge(&link, &ours("ca", "sampan"), false).expect("merged");
        assert!(link.is_symlink());
        assert_eq!(names(&file), ["sampan"]);
    }

    #[test]
    fn something_else_is_left_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config");
        fs::write(&path, "- just a list\n").expect("written");
        assert!(merge(&path, &ours("ca", "sampan"), true).is_err());
        assert_eq!(fs::read_to_string(&path).expect("read"), "- just a list\n");
    }
}
