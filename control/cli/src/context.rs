//! Selects the cluster of a command about an existing cluster, such as `down`: the one that kubectl uses in the same shell. Otherwise `down
//! --purge` could remove another cluster.
//!
//! The files of `$KUBECONFIG` are merged as kubectl does: the first definition wins. A cluster is identified by its certificate authority.
//! See <https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/>.

use crate::{
    credentials,
    data_dir::{DataDir, canonical},
    env,
    known::Clusters,
    kubeconfig, out,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The directory that the user named, or that of `$KUBECONFIG`. `None` means the default directory.
///
/// # Errors
/// `$KUBECONFIG` names a cluster of this user, but kubectl uses another cluster with it.
pub(crate) fn data_dir(named: Option<PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    match files() {
        Some(files) if named.is_none() => of_files(&files, &elsewhere()),
        _ => Ok(named),
    }
}

/// The files of `$KUBECONFIG`, if it is set.
fn files() -> Option<Vec<PathBuf>> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let paths = set("KUBECONFIG").filter(|_| set("SAMPAN_DATA_DIR").is_none())?;
    Some(std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).collect())
}

/// Data directory and certificate authority of all clusters of this user.
fn elsewhere() -> Vec<(PathBuf, String)> {
    let default = DataDir::locate(None).ok().and_then(of_dir);
    let known = Clusters::of_user().all().into_iter().map(|known| (known.dir, known.authority));
    default.into_iter().chain(known).collect()
}

/// A data directory and its authority.
fn of_dir(dir: DataDir) -> Option<(PathBuf, String)> {
    let authority = credentials::authority_in(&dir)?;
    Some((dir.path().to_owned(), authority))
}

/// The user's clusters that have entries in a kubeconfig, as `up --kubeconfig` and `kubeconfig --merge` write them.
fn copied(file: &Path, elsewhere: &[(PathBuf, String)]) -> Vec<PathBuf> {
    let Some(whole) = kubeconfig::read(file) else { return Vec::new() };
    let clusters = whole["clusters"].as_array().into_iter().flatten();
    let authorities: Vec<String> = clusters.filter_map(|entry| authority(file, &entry["cluster"])).collect();
    let ours = elsewhere.iter().filter(|(_, theirs)| authorities.contains(theirs));
    ours.map(|(dir, _)| dir.clone()).collect()
}

/// The certificate authority of a cluster entry, in base64, if it has one.
fn authority(file: &Path, cluster: &Value) -> Option<String> {
    match cluster["certificate-authority-data"].as_str().filter(|data| !data.is_empty()) {
        Some(data) => Some(data.to_owned()),
        // Relative to the file that names it.
        None => fs::read(file.parent()?.join(cluster["certificate-authority"].as_str()?))
            .ok()
            .map(|certificate| STANDARD.encode(certificate)),
    }
}

/// The data directory of kubectl's cluster. `None` if it is not of this user and the files have no cluster of this user.
fn of_files(files: &[PathBuf], elsewhere: &[(PathBuf, String)]) -> anyhow::Result<Option<PathBuf>> {
    // Includes clusters whose directory was removed: no other cluster may be used instead.
    let gone =
        |file: &PathBuf| elsewhere.iter().map(|(dir, _)| dir).find(|dir| dir.join("kubeconfig") == *file).cloned();
    let mut holding: Vec<PathBuf> = Vec::new();
    for file in files {
        let own = DataDir::of_kubeconfig(file).or_else(|| gone(file));
        for dir in own.into_iter().chain(copied(file, elsewhere)) {
            let is = |there: &PathBuf| canonical(there) == canonical(&dir);
            if !holding.iter().any(is) {
                holding.push(dir);
            }
        }
    }
    let current = Current::of(files);
    if let Some(authority) = current.as_ref().and_then(|current| current.authority.as_deref()) {
        let held = holding.iter().filter_map(|dir| of_dir(DataDir::locate(Some(dir)).ok()?));
        if let Some((dir, _)) = held.chain(elsewhere.iter().cloned()).find(|(_, theirs)| theirs == authority) {
            return Ok(Some(dir));
        }
    }
    let named = |sign: &str| {
        let all: Vec<_> = holding.iter().map(|dir| format!("{sign}{}", out::shell(dir))).collect();
        all.join(" or ")
    };
    match (current, holding.as_slice()) {
        (_, []) => Ok(None),
        // kubectl has no current cluster, and this cluster is named.
        (None, [one]) => Ok(Some(one.clone())),
        (None, _) => anyhow::bail!(
            "by $KUBECONFIG no context is current, so it may be the cluster of {}: say which with {}",
            named(""),
            named("--data-dir ")
        ),
        (Some(Current { context, .. }), _) => anyhow::bail!(
            "by $KUBECONFIG kubectl speaks to another cluster, context {context:?}, than that of {}: say which is meant with --data-dir, \
             such as {}",
            named(""),
            named("--data-dir ")
        ),
    }
}

/// The current context of merged kubeconfigs.
#[derive(Debug, PartialEq, Eq)]
struct Current {
    context: String,
    /// The certificate authority of its cluster, in base64, if it has one.
    authority: Option<String>,
}

impl Current {
    fn of(files: &[PathBuf]) -> Option<Self> {
        let read: Vec<(&Path, Value)> =
            files.iter().filter_map(|file| Some((file.as_path(), kubeconfig::read(file)?))).collect();
        let context =
            read.iter().find_map(|(_, one)| one["current-context"].as_str().filter(|name| !name.is_empty()))?;
        let entry = |list: &str, field: &str, name: &str| {
            read.iter().find_map(|(file, one)| {
                let found = one[list].as_array()?.iter().find(|entry| entry["name"] == name)?;
                Some((*file, found[field].clone()))
            })
        };
        let found = || {
            let (_, context) = entry("contexts", "context", context)?;
            let (file, cluster) = entry("clusters", "cluster", context["cluster"].as_str()?)?;
            authority(file, &cluster)
        };
        Some(Self { context: context.to_owned(), authority: found() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kubeconfig with one context and the base64 of its authority, with or without a current context.
    fn config(name: &str, authority: &str, current: bool) -> String {
        let current = if current { format!("current-context: {name}\n") } else { String::new() };
        let authority = STANDARD.encode(authority);
        format!(
            "{current}clusters: [{{name: {name}, cluster: {{server: 'https://x', certificate-authority-data: {authority}}}}}]\n\
             contexts: [{{name: {name}, context: {{cluster: {name}, user: {name}}}}}]\n"
        )
    }

    #[test]
    fn the_cluster_that_kubectl_speaks_to_is_meant() {
        let place = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = place.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(&path, text).expect("written");
        };
        for name in ["a", "b", "lost"] {
            write(&format!("{name}/lock"), "{}");
            write(&format!("{name}/pki/ca.crt"), name);
        }
        for name in ["a", "b"] {
            write(&format!("{name}/kubeconfig"), &config(name, name, true));
        }
        let both = config("a", "a", true) + "users: []\n";
        write("merged", &both);
        write("of-b", &config("b", "b", true));
        write("not-current", &config("a", "a", false));
        write("work", &config("work", "work's", true));
        write("namesake", &config("b", "another's", true));
        write(
            "by-file",
            "current-context: b\nclusters: [{name: b, cluster: {certificate-authority: b/pki/ca.crt}}]\n\
               contexts: [{name: b, context: {cluster: b}}]\n",
        );
        let with_work = "current-context: eks\ncontexts: [{name: eks, context: {cluster: eks}}]\n".to_owned();
        let data = STANDARD.encode("b");
        write(
            "with-work",
            &format!("{with_work}clusters: [{{name: b, cluster: {{certificate-authority-data: {data}}}}}]\n"),
        );
        write(
            "with-work-by-file",
            &(with_work + "clusters: [{name: b, cluster: {certificate-authority: b/pki/ca.crt}}]\n"),
        );
        write("of-b-not-current", &config("b", "b", false));
        write("damaged", "- list\n");
        let elsewhere = ["b", "removed"].map(|name| (place.path().join(name), STANDARD.encode(name)));
        for (files, expected) in [
            (&["a/kubeconfig"][..], "a"),
            (&["b/kubeconfig", "a/kubeconfig"], "b"),
            (&["not-current", "b/kubeconfig"], "b"),
            (&["b/kubeconfig", "work"], "b"),
            (&["absent", "damaged", "b/kubeconfig"], "b"),
            (&["of-b"], "b"),
            (&["of-b", "a/kubeconfig"], "b"),
            // Its entries in a file that another cluster wrote.
            (&["with-work"], "refused"),
            (&["work", "of-b"], "refused"),
            (&["merged", "of-b"], "refused"),
            (&["with-work-by-file"], "refused"),
            (&["of-b-not-current"], "b"),
            (&["by-file", "a/kubeconfig"], "b"),
            (&["merged", "b/kubeconfig"], "refused"),
            (&["work", "b/kubeconfig"], "refused"),
            (&["namesake", "b/kubeconfig"], "refused"),
            (&["work"], "default"),
            (&["merged"], "default"),
            (&["absent"], "default"),
            (&["lost/kubeconfig"], "lost"),
            (&["removed/kubeconfig"], "removed"),
        ] {
            let files: Vec<PathBuf> = files.iter().map(|file| place.path().join(file)).collect();
            let got = match of_files(&files, &elsewhere) {
                Ok(Some(dir)) => dir.strip_prefix(place.path()).expect("inside").display().to_string(),
                Ok(None) => "default".to_owned(),
                Err(error) => {
                    let told = error.to_string();
                    assert!(told.contains(&format!("--data-dir {}", place.path().join("b").display())), "{told}");
                    "refused".to_owned()
                }
            };
            assert_eq!(got, expected, "{files:?}");
        }
    }
}
