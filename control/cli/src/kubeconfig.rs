//! The kubeconfig: written for the cluster's administrator, merged elsewhere only when asked to.

use crate::data_dir::{DataDir, write_private};
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

/// The name of the cluster, user and context.
const NAME: &str = "sampan";

/// A whole kubeconfig.
pub(crate) fn document(access: &Access<'_>) -> Value {
    let host = match access.address {
        any if any.ip().is_unspecified() => format!("127.0.0.1:{}", any.port()),
        one => one.to_string(),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": {
            "server": format!("https://{host}"),
            "certificate-authority-data": STANDARD.encode(access.ca_pem),
        }}],
        "users": [{"name": NAME, "user": {
            "client-certificate-data": STANDARD.encode(access.certificate_pem),
            "client-key-data": STANDARD.encode(access.key_pem),
        }}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
        "current-context": NAME,
        "preferences": {},
    })
}

/// Writes a kubeconfig, private.
pub(crate) fn write(path: &Path, document: &Value) -> anyhow::Result<()> {
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    write_private(path, api::yaml::to_string(document).as_bytes())
}

/// Adds the cluster to an existing kubeconfig (or a new one), replacing entries of the same name, and makes it current.
pub(crate) fn merge(path: &Path, ours: &Value) -> anyhow::Result<()> {
    let mut whole = match fs::read(path) {
        Ok(text) => match api::yaml::parse(&text) {
            Ok((Value::Object(map), _)) => Value::Object(map),
            Ok((Value::Null, _)) => json!({}),
            _ => bail!("{} is not a kubeconfig; it was left as it is", path.display()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => json!({"apiVersion": "v1", "kind": "Config"}),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    for list in ["clusters", "users", "contexts"] {
        let mut entries = whole[list].as_array().cloned().unwrap_or_default();
        entries.retain(|entry| entry["name"] != NAME);
        entries.extend(ours[list].as_array().cloned().unwrap_or_default());
        whole[list] = Value::Array(entries);
    }
    whole["current-context"] = ours["current-context"].clone();
    write(path, &whole)
}

/// Where people's kubeconfig is: the first file of $KUBECONFIG, else ~/.kube/config.
pub(crate) fn personal_path() -> anyhow::Result<PathBuf> {
    if let Some(paths) = crate::env::var_os("KUBECONFIG").filter(|v| !v.is_empty())
        && let Some(first) = std::env::split_paths(&paths).next()
    {
        return Ok(first);
    }
    match crate::env::var_os("HOME").filter(|v| !v.is_empty()) {
        Some(home) => Ok(PathBuf::from(home).join(".kube/config")),
        None => bail!("no kubeconfig to merge into: neither KUBECONFIG nor HOME is set"),
    }
}

/// `sampan kubeconfig`: prints or merges the one of the data directory.
pub(crate) fn run(args: &crate::args::KubeconfigArgs) -> anyhow::Result<()> {
    let dir = DataDir::locate(args.data.data_dir.as_deref())?;
    let path = dir.join("kubeconfig");
    let text = match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("no kubeconfig at {}: start a cluster first with `sampan up`", path.display())
        }
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    if !args.merge {
        return crate::out::print(&text);
    }
    let (document, _) = api::yaml::parse(&text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    let target = personal_path()?;
    merge(&target, &document)?;
    eprintln!("merged into {} as the current context {NAME:?}", target.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Value {
        let access = Access {
            address: "127.0.0.1:6443".parse().expect("an address"),
            ca_pem: "ca",
            certificate_pem: "cert",
            key_pem: "key",
        };
        document(&access)
    }

    #[test]
    fn merging_keeps_what_others_wrote_and_replaces_our_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config");
        let theirs = "apiVersion: v1\nkind: Config\ncurrent-context: other\nclusters:\n- name: other\n  cluster: {server: https://o}\n- name: sampan\n  cluster: {server: https://old}\n";
        fs::write(&path, theirs).expect("written");
        merge(&path, &ours()).expect("merged");
        let (merged, _) = api::yaml::parse(&fs::read(&path).expect("read")).expect("YAML");
        assert_eq!(merged["current-context"], "sampan");
        let names: Vec<_> = merged["clusters"].as_array().expect("a list").iter().map(|c| &c["name"]).collect();
        assert_eq!(names, ["other", "sampan"]);
        assert_eq!(merged["clusters"][1]["cluster"]["server"], "https://127.0.0.1:6443");
    }

    #[test]
    fn something_else_is_left_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config");
        fs::write(&path, "- just a list\n").expect("written");
        assert!(merge(&path, &ours()).is_err());
        assert_eq!(fs::read_to_string(&path).expect("read"), "- just a list\n");
    }
}
