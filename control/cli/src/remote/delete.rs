//! `sampan delete`: deletes objects by name or by manifest.

use super::{Resources, connect, explain, get::escape, names, request};
use crate::{args::DeleteArgs, exit::usage, manifests};
use anyhow::bail;
use client::Client;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// How long to wait until an object is gone.
const DELETE_TIMEOUT: Duration = Duration::from_secs(60);

/// `sampan delete`: deletes with background propagation, then waits until the objects are gone.
pub(crate) async fn run(args: &DeleteArgs) -> anyhow::Result<()> {
    let asked = names::parse(&args.what).map_err(usage)?;
    let by_type = args.all || args.selector.is_some();
    match asked.iter().any(|one| one.name.is_some()) {
        true if args.selector.is_some() => return Err(usage("name cannot be provided when a selector is specified")),
        true if args.all => return Err(usage("name cannot be provided when --all is specified")),
        false if !by_type && args.filename.is_empty() => {
            return Err(usage("resource(s) were provided, but no name was specified"));
        }
        _ => {}
    }
    let reached = connect(&args.target).await?;
    let (client, resources) = (&reached.client, Resources::discover(&reached.client).await?);
    let mut targets: Vec<(String, String)> = Vec::new();
    if !args.filename.is_empty() {
        for manifest in manifests::read(&args.filename, args.recursive)? {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let object = &manifest.object;
            let resource = resources.by_kind(&text(&object["apiVersion"]), &text(&object["kind"]))?;
            let name = text(&object["metadata"]["name"]);
            let namespace = Some(text(&object["metadata"]["namespace"])).filter(|n| !n.is_empty());
            let namespace = namespace.unwrap_or_else(|| reached.namespace.clone());
            targets.push((resource.path(&namespace, &name), resource.label(&name)));
        }
    }
    for one in asked {
        if let Some(name) = one.name {
            let resource = resources.by_name(&one.kind)?;
            targets.push((resource.path(&reached.namespace, &escape(&name)), resource.label(&name)));
            continue;
        }
        for resource in resources.expand(&one.kind)? {
            let selector = escape(args.selector.as_deref().unwrap_or_default());
            let url = format!("{}?labelSelector={selector}", resource.path(&reached.namespace, ""));
            let (_, body) = request(client, Method::GET, &url, None, "application/json").await.map_err(explain)?;
            let list: Value = super::decode(&body)?;
            let names = list["items"].as_array().into_iter().flatten();
            for name in names.filter_map(|item| item["metadata"]["name"].as_str()) {
                targets.push((resource.path(&reached.namespace, &escape(name)), resource.label(name)));
            }
        }
    }
    if targets.is_empty() {
        eprintln!("No resources found");
    }
    let mut failures = Vec::new();
    for (path, label) in &targets {
        match one(client, path, label, crate::out::say).await {
            // Deleted together with its owner.
            Err(error) if by_type && error.downcast_ref::<Gone>().is_some() => {}
            Err(error) => failures.push(error),
            Ok(()) => {}
        }
    }
    super::done_or_failed((), failures)
}

/// The object did not exist.
#[derive(Debug)]
struct Gone(String);

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Gone {}

/// Deletes one object and waits until it is gone.
pub(super) async fn one(client: &Client, path: &str, label: &str, say: impl Fn(&str)) -> anyhow::Result<()> {
    let body = serde_json::to_vec(&json!({"propagationPolicy": "Background"}))?;
    let answer = request(client, Method::DELETE, path, Some(("application/json", body)), "application/json").await;
    let (_, answer) = answer.map_err(|error| match error.is_not_found() {
        true => Gone(explain(error).to_string()).into(),
        false => explain(error),
    })?;
    say(&format!("{label} deleted"));
    let answer: Value = super::decode(&answer)?;
    let uid =
        [&answer["details"]["uid"], &answer["metadata"]["uid"]].into_iter().find_map(Value::as_str).map(str::to_owned);
    let gone = async {
        loop {
            match request(client, Method::GET, path, None, "application/json").await {
                Ok((_, body)) => {
                    let object: Value = super::decode(&body)?;
                    if uid.is_some() && object["metadata"]["uid"].as_str() != uid.as_deref() {
                        return Ok(());
                    }
                }
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) => return Err(explain(error)),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    match tokio::time::timeout(DELETE_TIMEOUT, gone).await {
        Ok(result) => result,
        Err(_) => bail!("{label} is still there after {DELETE_TIMEOUT:?}: finalizers or running containers hold it"),
    }
}
