use super::{Resources, connect, explain, get::escape, names, request};
use crate::{args::DeleteArgs, exit::usage, manifests};
use anyhow::bail;
use client::Client;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// How long to wait for an object to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// `sampan delete`: in the background, then waits until the objects are gone.
pub(crate) async fn run(args: &DeleteArgs) -> anyhow::Result<()> {
    let asked = names::parse(&args.what).map_err(usage)?;
    if asked.iter().any(|one| one.name.is_none()) {
        return Err(usage("resource(s) were provided, but no name was specified"));
    }
    let client = connect(&args.target).await?;
    let resources = Resources::discover(&client).await?;
    let mut targets: Vec<(String, String)> = Vec::new();
    if args.filename.is_empty() {
        for one in asked {
            let resource = resources.by_name(&one.kind)?;
            let name = one.name.unwrap_or_default();
            targets.push((resource.path(&args.target.namespace, &escape(&name)), resource.label(&name)));
        }
    } else {
        for manifest in manifests::read(&args.filename)? {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let object = &manifest.object;
            let resource = resources.by_kind(&text(&object["apiVersion"]), &text(&object["kind"]))?;
            let name = text(&object["metadata"]["name"]);
            let namespace = Some(text(&object["metadata"]["namespace"])).filter(|n| !n.is_empty());
            let namespace = namespace.unwrap_or_else(|| args.target.namespace.clone());
            targets.push((resource.path(&namespace, &name), resource.label(&name)));
        }
    }
    let mut failures = Vec::new();
    for (path, label) in &targets {
        if let Err(error) = one(&client, path, label).await {
            failures.push(error);
        }
    }
    super::done_or_failed((), failures)
}

async fn one(client: &Client, path: &str, label: &str) -> anyhow::Result<()> {
    let body = serde_json::to_vec(&json!({"propagationPolicy": "Background"}))?;
    let answer = request(client, Method::DELETE, path, Some(("application/json", body)), "application/json").await;
    let (_, answer) = answer.map_err(explain)?;
    crate::out::say(&format!("{label} deleted"));
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
    match tokio::time::timeout(PATIENCE, gone).await {
        Ok(result) => result,
        Err(_) => bail!("{label} is still there after {PATIENCE:?}: finalizers or running containers hold it"),
    }
}
