//! `sampan dump`: writes what is needed to analyse a failure into a folder. Secrets are listed without their data.

use super::{Resources, connect, explain, fetch, get::escape, resources::Resource};
use crate::{args::DumpArgs, out};
use anyhow::{Context, bail};
use client::Client;
use serde_json::{Value, json};
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// Bytes of a log to keep, from its end.
const MAX_LOG: usize = 1 << 20;

/// `sampan dump DIR`.
pub(crate) async fn run(args: &DumpArgs) -> anyhow::Result<()> {
    if !args.force && !is_free(&args.dir)? {
        bail!("{} is not empty; name another folder, or give --force to write over its files", args.dir.display());
    }
    let reached = connect(&args.target).await?;
    let dump = Dump { client: &reached.client, dir: &args.dir };
    dump.write("version.txt", crate::version::text(crate::args::Report::Text).as_bytes())?;
    let resources = Resources::discover(dump.client).await?;
    let mut failures = Vec::new();
    for resource in resources.listed() {
        if let Err(error) = dump.objects(resource).await {
            failures.push(error.context(format!("{}.{}", resource.plural, resource.group)));
        }
    }
    for (url, name) in [("/readyz?verbose", "readyz.txt"), ("/metrics", "metrics.txt")] {
        match dump.get(url, "*/*").await {
            Ok(body) => dump.write(name, &body)?,
            Err(error) => failures.push(error.context(url)),
        }
    }
    if let Some(dir) = &reached.dir
        && let Ok(log) = fs::read(dir.join("sampan.log"))
    {
        dump.write("sampan.log", &log[log.len().saturating_sub(MAX_LOG)..])?;
    }
    out::say(&format!("wrote {}", args.dir.display()));
    super::done_or_failed((), failures)
}

/// Whether a folder is empty or absent.
fn is_free(folder: &Path) -> anyhow::Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(anyhow::anyhow!("{}: {}", folder.display(), crate::exit::io(&error))),
    }
}

/// One run of the command.
struct Dump<'a> {
    client: &'a Client,
    dir: &'a Path,
}

impl Dump<'_> {
    /// All objects of a kind: `NAMESPACE/PLURAL.yaml` or `_cluster/PLURAL.yaml`. For pods, also their logs.
    async fn objects(&self, resource: &Resource) -> anyhow::Result<()> {
        let list: Value = super::decode(&self.get(&resource.path("", ""), "application/json").await?)?;
        let mut items = super::get::items(list, resource);
        items.iter_mut().for_each(hide);
        let namespace = |item: &Value| item["metadata"]["namespace"].as_str().unwrap_or("_cluster").to_owned();
        items.sort_by_key(namespace);
        for same in items.chunk_by(|a, b| namespace(a) == namespace(b)) {
            let name = match resource.group.as_str() {
                "" => resource.plural.clone(),
                group => format!("{}.{group}", resource.plural),
            };
            let list = json!({"apiVersion": "v1", "kind": "List", "items": same});
            self.write(&format!("{}/{name}.yaml", namespace(&same[0])), api::yaml::to_string(&list).as_bytes())?;
        }
        if resource.kind == "Pod" {
            for pod in &items {
                self.logs(pod, &namespace(pod)).await?;
            }
        }
        Ok(())
    }

    /// `NAMESPACE/logs/POD/CONTAINER.log`, and `CONTAINER.previous.log` of a restarted container.
    async fn logs(&self, pod: &Value, namespace: &str) -> anyhow::Result<()> {
        let name = super::pods::name(pod);
        for container in super::pods::containers(pod) {
            for (query, end) in [("", "log"), ("&previous=true", "previous.log")] {
                let url = format!(
                    "/api/v1/namespaces/{namespace}/pods/{name}/log?container={}&limitBytes={MAX_LOG}{query}",
                    escape(&container)
                );
                // The log may not exist: the container has not run, or had no earlier run.
                if let Ok(body) = self.get(&url, "*/*").await {
                    self.write(&format!("{namespace}/logs/{name}/{container}.{end}"), &body)?;
                }
            }
        }
        Ok(())
    }

    async fn get(&self, url: &str, accept: &str) -> anyhow::Result<bytes::Bytes> {
        fetch(self.client, url, accept).await.map_err(explain)
    }

    fn write(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let path: PathBuf = self.dir.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Removes secrets and bookkeeping from an object.
fn hide(object: &mut Value) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    if object["kind"] == "Secret" {
        for field in ["data", "stringData"] {
            for value in object[field].as_object_mut().into_iter().flat_map(|data| data.values_mut()) {
                *value = json!("hidden");
            }
        }
        if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_folder_is_seen_before_it_is_written_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("precious");
        assert!(is_free(folder.path()).expect("read") && is_free(&file).expect("absent"));
        fs::write(&file, "x").expect("written");
        assert!(!is_free(folder.path()).expect("read"));
        assert!(is_free(&file).expect_err("a file").to_string().starts_with(&file.display().to_string()));
    }

    #[test]
    fn the_values_of_secrets_are_in_no_bug_report() {
        let mut secret = json!({"kind": "Secret", "data": {"password": "c2VjcmV0"}, "metadata": {"name": "s",
            "managedFields": [], "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "c2VjcmV0", "a": "b"}}});
        hide(&mut secret);
        assert!(!secret.to_string().contains("c2VjcmV0"), "{secret}");
        assert_eq!(
            (&secret["data"]["password"], &secret["metadata"]["annotations"]["a"]),
            (&json!("hidden"), &json!("b"))
        );
        let mut config = json!({"kind": "ConfigMap", "data": {"a": "b"}});
        hide(&mut config);
        assert_eq!(config["data"]["a"], "b");
    }
}
