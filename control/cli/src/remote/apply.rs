//! `sampan apply`: sends manifests by server-side apply.

use super::{Reached, Resources, connect, explain, request};
use crate::{
    args::ApplyArgs,
    cluster::Chosen,
    data_dir::DataDir,
    env, images,
    manifests::{self, Manifest},
    progress::Progress,
    settle::{self, WaitOptions},
};
use anyhow::{Context, bail};
use client::{Client, Error};
use http::{Method, StatusCode};
use serde_json::{Value, json};

/// The field manager of this program.
const MANAGER: &str = "sampan";

/// The result of applying an object.
pub(crate) struct Outcome {
    /// `deployment.apps/hello`.
    pub(crate) label: String,
    /// `created`, `configured`, `unchanged`, or `replaced` for a finished Job whose change was not possible.
    pub(crate) verb: &'static str,
    /// The object as the server returned it.
    pub(crate) object: Value,
}

/// `sampan apply -f`.
pub(crate) async fn run(args: &ApplyArgs) -> anyhow::Result<()> {
    let started = env::now();
    let mut manifests = manifests::read(&args.filename, args.recursive)?;
    let files = manifests::image_files(&mut manifests)?;
    let reached = connect(&args.target).await?;
    match (&reached.dir, files.first()) {
        (_, None) => {}
        (Some(dir), _) => images::package(&DataDir::open(Some(dir.path()))?, &mut manifests).await?,
        (None, Some(file)) => bail!(
            "the image {} is a file, and the cluster is not one of this machine; push it to a registry and name it there",
            file.display()
        ),
    }
    let since = env::clock().now();
    let outcomes = apply_all(&reached, &manifests, |outcome| {
        crate::out::say(&format!("{} {}", outcome.label, outcome.verb));
    })
    .await?;
    super::notes(&reached, &outcomes).await.iter().for_each(|note| eprintln!("note: {note}"));
    if !args.wait {
        return Ok(());
    }
    let node = reached.dir.as_ref().and_then(node);
    let options = WaitOptions { timeout: args.timeout, since, node, dir: reached.dir.as_ref() };
    let mut progress = Progress::new();
    let settled = settle::wait(&reached.client, &outcomes, &options, &mut progress).await;
    progress.done();
    settled?;
    let objects = if outcomes.len() == 1 { "object" } else { "objects" };
    crate::out::say(&format!("ready: {} {objects} in {:.3} s", outcomes.len(), started.elapsed().as_secs_f64()));
    for (_, name, url) in settle::urls(&outcomes, options.node.map(|node| node.address)) {
        crate::out::say(&format!("  {name}  {url}"));
    }
    Ok(())
}

/// The node of a cluster on this machine, for its node ports.
fn node(dir: &DataDir) -> Option<settle::Node> {
    let holder = dir.holder().ok()??;
    let address = Chosen::node_address(dir).ok()??;
    Some(settle::Node { address, pid: holder.pid })
}

/// Applies objects in order, namespaces first, by server-side apply. A failure does not stop the others.
pub(crate) async fn apply_all(
    reached: &Reached,
    manifests: &[Manifest],
    mut done: impl FnMut(&Outcome),
) -> anyhow::Result<Vec<Outcome>> {
    let resources = Resources::discover(&reached.client).await?;
    let mut ordered: Vec<&Manifest> = manifests.iter().collect();
    ordered.sort_by_key(|m| m.object["kind"] != "Namespace");
    let (mut outcomes, mut failures) = (Vec::new(), Vec::new());
    for manifest in ordered {
        match one(reached, &resources, manifest).await.with_context(|| manifest.source.clone()) {
            Ok(outcome) => {
                done(&outcome);
                outcomes.push(outcome);
            }
            Err(error) => failures.push(error),
        }
    }
    super::done_or_failed(outcomes, failures)
}

async fn one(reached: &Reached, resources: &Resources, manifest: &Manifest) -> anyhow::Result<Outcome> {
    let (client, namespace) = (&reached.client, reached.namespace.as_str());
    let mut object = manifest.object.clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resource = resources.by_kind(&text(&object["apiVersion"]), &text(&object["kind"]))?;
    let name = text(&object["metadata"]["name"]);
    if name.is_empty() {
        let hint = match object["metadata"]["generateName"].is_string() {
            true => "; apply needs the name of what it changes, kubectl create takes a generateName",
            false => "",
        };
        bail!("a {} has no metadata.name{hint}", resource.kind);
    }
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
    let label = resource.label(&name);
    let body = serde_json::to_vec(&object)?;
    let (answer, replaced) = match patch(client, &url, body.clone()).await {
        Err(error) if resource.kind == "Job" && is_immutable(&error) && before.is_some() => {
            let before = before.as_ref().unwrap_or(&Value::Null);
            if !is_finished(before) {
                bail!(
                    "{label} is still running, and its template cannot change; delete it first: {} -n {scope} job {name}",
                    reached.command("delete")
                );
            }
            super::delete::one(client, &path, &label, |_| {}).await?;
            (patch(client, &url, body).await, true)
        }
        answer => (answer, false),
    };
    let (status, object) = answer.map_err(|error| explain(brief(error)))?;
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    let verb = match (status, before) {
        _ if replaced => "replaced",
        (StatusCode::CREATED, _) | (_, None) => "created",
        (_, Some(before)) if version(&before) == version(&object) => "unchanged",
        _ => "configured",
    };
    Ok(Outcome { label, verb, object })
}

/// Applies an object.
async fn patch(client: &Client, url: &str, body: Vec<u8>) -> Result<(StatusCode, Value), Error> {
    let body = Some(("application/apply-patch+yaml", body));
    let (status, body) = request(client, Method::PATCH, url, body, "application/json").await?;
    Ok((status, serde_json::from_slice(&body).map_err(|error| Error::Decode(error.to_string()))?))
}

const IMMUTABLE: &str = ": field is immutable";

/// Whether the server rejected a change of an immutable field.
fn is_immutable(error: &Error) -> bool {
    error.status().is_some_and(|status| status.message.contains(IMMUTABLE))
}

/// Whether a Job has finished, so that nothing of it runs.
fn is_finished(job: &Value) -> bool {
    let conditions = job["status"]["conditions"].as_array();
    let over = |c: &Value| (c["type"] == "Complete" || c["type"] == "Failed") && c["status"] == "True";
    conditions.into_iter().flatten().any(over)
}

/// The maximum length of a value in an error.
const MAX_VALUE: usize = 200;

/// The server's error without the value of an immutable field, because a whole template does not help, and with duplicate list entries in
/// plain words.
fn brief(error: Error) -> Error {
    let Error::Api(mut status) = error else { return error };
    status.message = doubled(&status.message).unwrap_or_else(|| without_values(&status.message));
    Error::Api(status)
}

/// Replaces the server's message about duplicate list entries.
fn doubled(message: &str) -> Option<String> {
    let (before, key) = message.split_once(": duplicate entries for key [")?;
    let path = before.rsplit(' ').next()?.trim_start_matches('.');
    Some(format!("{path} has two entries with {}; an apply takes each once", key.trim_end_matches(']')))
}

fn without_values(message: &str) -> String {
    const VALUE: &str = "Invalid value: ";
    let mut parts = message.split(VALUE);
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        whole.push_str(VALUE);
        match part.split_once(IMMUTABLE) {
            Some((value, rest)) if value.len() > MAX_VALUE => {
                whole.truncate(whole.len() - VALUE.len());
                whole.push_str(&IMMUTABLE[2..]);
                whole.push_str(rest);
            }
            _ => whole.push_str(part),
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_cannot_change_is_not_dumped() {
        let long = "x".repeat(900);
        let message =
            format!("Job.batch \"j\" is invalid: spec.template: Invalid value: {{{long}}}: field is immutable");
        assert_eq!(without_values(&message), "Job.batch \"j\" is invalid: spec.template: field is immutable");
        let short = "Service \"s\" is invalid: spec.clusterIP: Invalid value: \"10.96.0.9\": field is immutable";
        assert_eq!(without_values(short), short);
        let two = format!("[a: Invalid value: {long}: field is immutable, b: Invalid value: 3: must be 4]");
        assert_eq!(without_values(&two), "[a: field is immutable, b: Invalid value: 3: must be 4]");
    }

    #[test]
    fn an_entry_that_is_there_twice_is_told_in_plain_words() {
        let message = "failed to create typed patch object (default/s; /v1, Kind=Service): .spec.ports: duplicate entries for key \
                       [port=80,protocol=\"TCP\"]";
        let want = "spec.ports has two entries with port=80,protocol=\"TCP\"; an apply takes each once";
        assert_eq!(doubled(message).as_deref(), Some(want));
        assert_eq!(doubled("something else"), None);
    }

    #[test]
    fn a_job_is_replaced_only_when_it_is_over() {
        let job = |kind: &str, status: &str| json!({"status": {"conditions": [{"type": kind, "status": status}]}});
        assert!(is_finished(&job("Complete", "True")) && is_finished(&job("Failed", "True")));
        assert!(!is_finished(&job("Complete", "False")) && !is_finished(&job("Suspended", "True")));
        assert!(!is_finished(&json!({})));
    }
}
