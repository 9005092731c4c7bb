//! `ValidatingAdmissionPolicy`: policies that may refuse a request, warn of it or tell audit of it.

use super::{
    binding::{Binding, Bindings},
    decisions::{Denial, Validations},
    policy::{Policies, Policy},
    select::select,
};
use crate::admission::{
    expressions::Input,
    matching::{About, Served, is_exempt_from_policies},
};
use api::{Object, Reason, Status};
use serde::Serialize;
use server::{
    Indexed,
    admission::{Admission, Attributes, Notes, forbidden},
    authz::Authorizer,
};
use std::{collections::BTreeMap, sync::Arc};

const GROUP: &str = "admissionregistration.k8s.io";

/// The longest value of an audit annotation, in bytes.
const MAX_ANNOTATION: usize = 10 * 1024;

/// The plugin.
pub(crate) struct ValidatingAdmissionPolicy {
    policies: Indexed<Policies<Validations>>,
    bindings: Indexed<Bindings>,
    authorizer: Arc<dyn Authorizer>,
}

impl ValidatingAdmissionPolicy {
    pub(crate) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self {
            policies: Indexed::new(GROUP, "validatingadmissionpolicies"),
            bindings: Indexed::new(GROUP, "validatingadmissionpolicybindings"),
            authorizer,
        }
    }
}

/// What audit is told of a validation that does not hold.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failure<'a> {
    message: &'a str,
    policy: &'a str,
    binding: &'a str,
    expression_index: usize,
    validation_actions: &'a [String],
}

/// What policies have found so far.
#[derive(Default)]
struct Findings {
    /// The first refusal, which counts: its whole text, and its reason.
    refusal: Option<(String, Reason)>,
    /// Audit annotations by policy and key. Different parameters can give several values.
    annotations: BTreeMap<String, Vec<String>>,
}

impl Findings {
    fn deny<R>(&mut self, policy: &Policy<R>, binding: Option<&Binding>, why: &str, reason: Reason) {
        let with = binding.map(|binding| format!(" with binding '{}'", binding.name)).unwrap_or_default();
        let text = || format!("ValidatingAdmissionPolicy '{}'{with} denied request: {why}", policy.name);
        self.refusal.get_or_insert_with(|| (text(), reason));
    }

    fn act(&mut self, policy: &Policy<Validations>, binding: &Binding, denial: &Denial, notes: &Notes) {
        for action in &binding.actions {
            match action.as_str() {
                "Deny" => self.deny(policy, Some(binding), &denial.message, denial.reason),
                "Warn" => notes.warn(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                    policy.name, binding.name, denial.message
                )),
                "Audit" => {
                    let failure = Failure {
                        message: &denial.message,
                        policy: &policy.name,
                        binding: &binding.name,
                        expression_index: denial.index,
                        validation_actions: &binding.actions,
                    };
                    let value = serde_json::to_string(&[failure]).unwrap_or_default();
                    notes.annotate("validation.policy.admission.k8s.io/validation_failure".to_owned(), value);
                }
                _ => {}
            }
        }
    }

    fn annotate(&mut self, policy: &str, key: &str, mut value: String) {
        let end = (0..=MAX_ANNOTATION.min(value.len())).rev().find(|end| value.is_char_boundary(*end));
        value.truncate(end.unwrap_or(0));
        let values = self.annotations.entry(format!("{policy}/{key}")).or_default();
        if !values.contains(&value) {
            values.push(value);
        }
    }

    fn end(self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        for (key, values) in self.annotations {
            attributes.context.notes.annotate(key, values.join(", "));
        }
        let Some((text, reason)) = self.refusal else { return Ok(()) };
        let mut status = forbidden(attributes, object, &text);
        status.code = match reason {
            Reason::Forbidden | Reason::Unauthorized | Reason::RequestEntityTooLarge => reason.code(),
            _ => Reason::Invalid.code(),
        };
        status.reason = reason;
        Err(status.with_cause("", &text, ""))
    }
}

#[async_trait::async_trait]
impl Admission for ValidatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        let cx = &attributes.context;
        !self.bindings.read(cx.objects.as_ref()).all.is_empty() && !is_exempt_from_policies(&cx.resource.gvk())
    }

    async fn validate(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        let cx = &attributes.context;
        let policies = self.policies.read(cx.objects.as_ref()).0.clone();
        let bindings = self.bindings.read(cx.objects.as_ref()).all.clone();
        let about = About::of(attributes, object);
        let (shown, old) = (about.shown(object), attributes.old.as_deref());
        let mut findings = Findings::default();
        // The objects in each wanted version, converted once.
        let mut versions = Vec::new();
        for selected in select(&policies, &bindings, &about, (shown, old)).await {
            let invocation = match selected {
                Ok(invocation) => invocation,
                Err(failed) => {
                    findings.deny(failed.policy, failed.binding, &failed.why, Reason::Invalid);
                    continue;
                }
            };
            let (policy, binding, served) = (invocation.policy, invocation.binding, &invocation.served);
            let namespace = about.namespace_of_object()?;
            if invocation.params.is_empty() {
                continue;
            }
            if !versions.iter().any(|(kind, _, _)| *kind == served.kind) {
                match (about.as_wanted(shown, served).await, about.as_wanted(old, served).await) {
                    (Ok(shown), Ok(old)) => versions.push((served.kind.clone(), shown, old)),
                    (Err(_), _) | (_, Err(_)) if policy.ignores_failures => continue,
                    (Err(status), _) | (_, Err(status)) => {
                        let why = format!(
                            "failed to configure binding: failed to convert object version: {}",
                            status.message
                        );
                        findings.deny(policy, Some(binding), &why, Reason::Invalid);
                        continue;
                    }
                }
            }
            let version = versions.iter().find(|(kind, _, _)| *kind == served.kind);
            let objects = version.map(|(_, shown, old)| (shown.as_deref(), old.as_deref())).unwrap_or_default();
            let input = |served: &Served| Input::new(cx, &self.authorizer, objects, about.shown_to_expressions(served));
            // Match conditions see the resource of the request.
            let matching = input(&Served { resource: about.served.resource.clone(), kind: served.kind.clone() });
            let input = input(served).in_namespace(namespace);
            for params in &invocation.params {
                // Expressions take time: others are let in between.
                tokio::task::yield_now().await;
                let decisions = policy.decide(&matching, &input, params.as_deref());
                for denial in &decisions.denials {
                    findings.act(policy, binding, denial, &cx.notes);
                }
                for (key, value) in decisions.annotations {
                    findings.annotate(&policy.name, &key, value);
                }
                for error in &decisions.failed_annotations {
                    findings.deny(policy, Some(binding), error, Reason::Invalid);
                }
            }
        }
        findings.end(attributes, object)
    }
}
