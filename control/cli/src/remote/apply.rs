use super::{Resources, connect, explain, request};
use crate::{
    args::ApplyArgs,
    data_dir::DataDir,
    images,
    manifests::{self, Manifest},
};
use anyhow::Context;
use client::Client;
use http::{Method, StatusCode};
use serde_json::{Value, json};

/// The field manager of this program.
const MANAGER: &str = "sampan";

/// What applying one object came to.
pub(crate) struct Outcome {
    /// `deployment.apps/hello`.
    pub(crate) label: String,
    /// `created`, `configured` or `unchanged`.
    pub(crate) verb: &'static str,
    /// The object as the server has it now.
    pub(crate) object: Value,
}

/// `sampan apply -f`.
pub(crate) async fn run(args: &ApplyArgs) -> anyhow::Result<()> {
    let mut manifests = manifests::read(&args.filename)?;
    let dir = DataDir::open(args.target.data.data_dir.as_deref())?;
    images::package(&dir, &mut manifests).await?;
    let client = connect(&args.target).await?;
    apply_all(&client, &manifests, &args.target.namespace, |outcome| {
        crate::out::say(&format!("{} {}", outcome.label, outcome.verb));
    })
    .await
    .map(|_| ())
}

/// Applies objects in order, namespaces first, by server-side apply. One that fails does not stop the others.
pub(crate) async fn apply_all(
    client: &Client,
    manifests: &[Manifest],
    namespace: &str,
    mut done: impl FnMut(&Outcome),
) -> anyhow::Result<Vec<Outcome>> {
    let resources = Resources::discover(client).await?;
    let mut ordered: Vec<&Manifest> = manifests.iter().collect();
    ordered.sort_by_key(|m| m.object["kind"] != "Namespace");
    let (mut outcomes, mut failures) = (Vec::new(), Vec::new());
    for manifest in ordered {
        match one(client, &resources, manifest, namespace).await.with_context(|| manifest.source.clone()) {
            Ok(outcome) => {
                done(&outcome);
                outcomes.push(outcome);
            }
            Err(error) => failures.push(error),
        }
    }
    super::done_or_failed(outcomes, failures)
}

async fn one(client: &Client, resources: &Resources, manifest: &Manifest, namespace: &str) -> anyhow::Result<Outcome> {
    let mut object = manifest.object.clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resource = resources.by_kind(&text(&object["apiVersion"]), &text(&object["kind"]))?;
    let name = text(&object["metadata"]["name"]);
    anyhow::ensure!(!name.is_empty(), "a {} has no metadata.name", resource.kind);
    let mut scope = String::new();
    if resource.namespaced {
        scope =
            Some(text(&object["metadata"]["namespace"])).filter(|n| !n.is_empty()).unwrap_or_else(|| namespace.into());
        object["metadata"]["namespace"] = json!(scope);
    }
    let path = resource.path(&scope, &name);
    let before = match request(client, Method::GET, &path, None, "application/json").await {
        Ok((_, body)) => Some(super::decode(&body)?),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(explain(error)),
    };
    let url = format!("{path}?fieldManager={MANAGER}&force=true&fieldValidation=Strict");
    let body = Some(("application/apply-patch+yaml", serde_json::to_vec(&object)?));
    let (status, body) = request(client, Method::PATCH, &url, body, "application/json").await.map_err(explain)?;
    let object: Value = super::decode(&body)?;
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    let verb = match (status, before) {
        (StatusCode::CREATED, _) | (_, None) => "created",
        (_, Some(before)) if version(&before) == version(&object) => "unchanged",
        _ => "configured",
    };
    Ok(Outcome { label: resource.label(&name), verb, object })
}
