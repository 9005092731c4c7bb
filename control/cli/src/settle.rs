//! Waiting until what was applied is there: Deployments available, Jobs finished.

use crate::{progress::Progress, remote::Outcome};
use client::Client;
use k8s_openapi::api::{apps::v1::Deployment, batch::v1::Job, core::v1::Pod};
use std::time::Duration;

/// How long before the user gets the prompt back; the cluster goes on trying.
const PATIENCE: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_millis(20);

/// Shows progress until everything is settled, or says what is not.
pub(crate) async fn wait(client: &Client, outcomes: &[Outcome], progress: &mut Progress) {
    let settle = async {
        for outcome in outcomes {
            let text = |path: &str| outcome.object["metadata"][path].as_str().unwrap_or_default().to_owned();
            let (namespace, name) = (text("namespace"), text("name"));
            loop {
                let state = match outcome.object["kind"].as_str() {
                    Some("Deployment") => deployment(client, &namespace, &name).await,
                    Some("Job") => job(client, &namespace, &name).await,
                    _ => None,
                };
                let Some(state) = state else { break };
                progress.step(format!("{} {state}", outcome.label));
                tokio::time::sleep(STEP).await;
            }
        }
    };
    if tokio::time::timeout(PATIENCE, settle).await.is_err() {
        progress.line("not everything is ready yet; look with: sampan get pods");
        for line in troubles(client).await {
            progress.line(&line);
        }
    }
}

/// What is still missing, or `None` when settled (or unreadable).
async fn deployment(client: &Client, namespace: &str, name: &str) -> Option<String> {
    let found: Deployment = client.get(namespace, name).await.ok()?;
    let wanted = found.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let status = found.status.unwrap_or_default();
    let ready = status.available_replicas.unwrap_or(0);
    let seen = status.observed_generation.unwrap_or(0) >= found.metadata.generation.unwrap_or(0);
    let updated = status.updated_replicas.unwrap_or(0) >= wanted;
    (!seen || !updated || ready < wanted).then(|| format!("{ready}/{wanted} ready"))
}

async fn job(client: &Client, namespace: &str, name: &str) -> Option<String> {
    let found: Job = client.get(namespace, name).await.ok()?;
    let status = found.status.unwrap_or_default();
    let over = |kind: &str| status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True");
    (!over("Complete") && !over("Failed")).then(|| format!("{} running", status.active.unwrap_or(0)))
}

async fn troubles(client: &Client) -> Vec<String> {
    let Ok(pods) = client.list::<Pod>("", &client::ListOptions::default()).await else { return Vec::new() };
    let mut lines = Vec::new();
    for pod in pods.items {
        let name = pod.metadata.name.unwrap_or_default();
        for status in pod.status.and_then(|s| s.container_statuses).into_iter().flatten() {
            if let Some(waiting) = status.state.and_then(|s| s.waiting) {
                let message = waiting.message.unwrap_or_default();
                lines.push(format!("  pod/{name}: {} {message}", waiting.reason.unwrap_or_default()));
            }
        }
    }
    lines
}
