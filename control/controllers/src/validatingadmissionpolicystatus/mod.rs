//! Checks the expressions of each ValidatingAdmissionPolicy against the schemas of what it is for, and writes what is wrong into
//! `status.typeChecking`. The policy acts as it would without: these are warnings for its author.
//!
//! Follows <https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/#type-checking> and upstream's
//! `pkg/controller/validatingadmissionpolicystatus`. As there, kinds and schemas come from discovery and OpenAPI v3, so that those of
//! custom and aggregated resources are among them; a policy is checked once for each generation. Unlike there,
//! `authorizer.requestResource` is known, as it is to the policy.

mod check;
mod kinds;
mod schema;
#[cfg(test)]
mod tests;

use crate::{Context, meta};
use api::GroupVersionKind;
use cel::Type;
use check::Types;
use client::{Client, Controller, Error, Informer, Key, Next, Patch, Wakeups, discovery};
use http::Method;
use k8s_openapi::api::admissionregistration::v1::{ExpressionWarning, ValidatingAdmissionPolicy};
use serde_json::{Value, json};

/// The manager of the fields that it writes.
const MANAGER: &str = "validatingadmissionpolicy-status";

/// Checks policies. Upstream's `validatingadmissionpolicy-status-controller`.
pub(crate) struct ValidatingAdmissionPolicyStatusController {
    client: Client,
    policies: Informer<ValidatingAdmissionPolicy>,
}

impl ValidatingAdmissionPolicyStatusController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self { client: cx.client.clone(), policies: cx.informers.of() }
    }

    /// The type of a kind. None: it has no schema, its group version is not served, or it does not answer.
    async fn find_type(&self, kind: &GroupVersionKind) -> Option<Option<Type>> {
        let (group, version) = (&kind.group, &kind.version);
        let url = match group.as_str() {
            "" => format!("/openapi/v3/api/{version}"),
            _ => format!("/openapi/v3/apis/{group}/{version}"),
        };
        let document = match self.client.raw(Method::GET, &url, None).await {
            Ok(document) => document,
            Err(error) => {
                if !error.is_not_found() {
                    tracing::debug!(%kind, "cannot read the schema: {error}");
                }
                return None;
            }
        };
        // Documents have megabytes, and each node of a schema is looked at.
        let wanted = kind.clone();
        let read = tokio::task::spawn_blocking(move || schema::find_type(&document, &wanted)).await;
        match read {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(%kind, "cannot read the schema: {error}");
                None
            }
            Err(error) => {
                tracing::warn!(%kind, "reading the schema failed: {error}");
                None
            }
        }
    }

    /// The types of the objects and of the parameters of a policy.
    async fn types(&self, policy: &ValidatingAdmissionPolicy) -> Result<Types, Error> {
        let mut types = Types::default();
        if !kinds::names_any(policy) {
            return Ok(types);
        }
        let served = discovery::resources(&self.client).await?.resources;
        for kind in kinds::to_check(policy, &served) {
            if let Some(of) = self.find_type(&kind).await {
                types.objects.push((kind, of.unwrap_or(Type::Dyn)));
            }
        }
        if let Some(kind) = kinds::of_parameters(policy).filter(|_| !types.objects.is_empty()) {
            types.parameters = self.find_type(&kind).await.flatten();
        }
        Ok(types)
    }
}

/// Whether a policy has not been checked in this generation.
fn is_due(policy: &ValidatingAdmissionPolicy) -> bool {
    let seen = policy.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    policy.metadata.generation.unwrap_or(0) > seen
}

/// What is applied. `typeChecking` is there without warnings too: it says that the check is done.
fn configuration(policy: &ValidatingAdmissionPolicy, warnings: &[ExpressionWarning]) -> Value {
    let checking = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": meta::name(&policy.metadata)},
        "status": {"observedGeneration": policy.metadata.generation.unwrap_or(0), "typeChecking": checking},
    })
}

#[async_trait::async_trait]
impl Controller for ValidatingAdmissionPolicyStatusController {
    const NAME: &'static str = "validatingadmissionpolicy-status-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.policies);
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(policy) = self.policies.find(key).filter(|policy| is_due(policy)) else { return Ok(Next::Done) };
        let types = self.types(&policy).await?;
        let checked = policy.clone();
        let warnings = tokio::task::spawn_blocking(move || check::warnings(&checked, &types)).await?;
        let patch =
            Patch::Apply { config: configuration(&policy, &warnings), manager: MANAGER.to_owned(), force: true };
        match self.client.submit_status::<ValidatingAdmissionPolicy>("", &key.name, patch).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(Next::Done),
        }
    }
}
