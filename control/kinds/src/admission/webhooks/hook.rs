//! A webhook of a configuration, ready to be matched.

use super::{conditions::Conditions, failure::Failure, version::ReviewVersion};
use crate::{
    admission::matching::{Criteria, Request, Served},
    at::At,
};
use api::{Object, Status};
use server::webhook::{Endpoint, Target};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// A match condition: a CEL expression, and its name for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The name.
    pub name: String,
    /// The expression.
    pub expression: String,
}

/// A webhook.
#[derive(Clone, Debug)]
pub struct Hook {
    /// The name of the configuration that it is of.
    pub configuration: String,
    /// Its name: `policy.example.com`.
    pub name: String,
    /// What tells it apart from all others, also from those of the same name.
    pub id: String,
    /// It may change the object.
    pub mutating: bool,
    /// It is called again after a later one has changed the object.
    pub reinvoked: bool,
    /// A failure to call it is no reason to refuse the request.
    pub ignores_failures: bool,
    /// How long a call may take.
    pub timeout: Duration,
    /// How it is reached.
    pub endpoint: Endpoint,
    /// What must hold for a request, besides all other matches.
    pub conditions: Vec<Condition>,
    /// The same, compiled.
    pub(super) compiled: Conditions,
    criteria: Criteria,
    side_effects: Option<String>,
    reviews: Vec<String>,
}

/// The webhooks of configurations, which are in the order of their names, as upstream calls them.
pub fn hooks(configurations: &[Arc<Object>], mutating: bool) -> Vec<Hook> {
    let mut sorted: Vec<&Object> = configurations.iter().map(|configuration| &**configuration).collect();
    sorted.sort_by_key(|configuration| configuration.name());
    let mut all = Vec::new();
    for configuration in sorted {
        let mut counts = HashMap::<&str, usize>::new();
        for webhook in At::of(configuration, "webhooks").items() {
            let count = counts.entry(webhook.get("name").str()).or_default();
            all.push(Hook::of(configuration.name(), webhook, *count, mutating));
            *count += 1;
        }
    }
    all
}

impl Hook {
    fn of(configuration: &str, webhook: At<'_>, count: usize, mutating: bool) -> Self {
        let text = |name: &'static str| webhook.get(name).str();
        let texts = |at: At<'_>| at.items().map(|one| one.str().to_owned()).collect();
        // A stored configuration names an address or a Service; of anything else the call tells that there is no such address.
        let nowhere = || Endpoint { target: Target::Url(String::new()), authorities: Vec::new() };
        let endpoint = Endpoint::parse(webhook.get("clientConfig").value()).unwrap_or_else(nowhere);
        let condition = |at: At<'_>| Condition {
            name: at.get("name").str().to_owned(),
            expression: at.get("expression").str().trim().to_owned(),
        };
        let conditions: Vec<Condition> = webhook.get("matchConditions").items().map(condition).collect();
        let seconds = webhook.get("timeoutSeconds").int().unwrap_or(10).clamp(1, 30);
        Self {
            configuration: configuration.to_owned(),
            name: text("name").to_owned(),
            id: format!("{configuration}/{}/{count}", text("name")),
            mutating,
            reinvoked: text("reinvocationPolicy") == "IfNeeded",
            ignores_failures: text("failurePolicy") == "Ignore",
            timeout: Duration::from_secs(seconds.unsigned_abs()),
            endpoint,
            compiled: Conditions::new(conditions.iter().map(|condition| condition.expression.as_str())),
            conditions,
            criteria: Criteria::of_webhook(webhook),
            side_effects: webhook.get("sideEffects").value().as_str().map(str::to_owned),
            reviews: texts(webhook.get("admissionReviewVersions")),
        }
    }

    /// Whether the webhook is to be called for a request, and with which version of the object; match conditions are asked after that.
    /// `others` are the other versions in which the objects are served, in the order of discovery.
    ///
    /// # Errors
    /// The request is for the webhook by its rules, and a selector cannot be asked.
    pub fn invocation(&self, request: &Request<'_>, others: &[Served]) -> Result<Option<Served>, Status> {
        Ok(self.criteria.matched(request, others)?.cloned())
    }

    /// The refusal of a dry run by a webhook that may have side effects then.
    pub fn refuses_dry_run(&self) -> Option<Failure> {
        match self.side_effects.as_deref() {
            Some("None" | "NoneOnDryRun") => None,
            // Upstream's text.
            None => Some(self.uncallable("Webhook SideEffects is nil")),
            Some(_) => {
                let text = format!("admission webhook {:?} does not support dry run", self.name);
                Some(Failure::Refused(Status::bad_request(text)))
            }
        }
    }

    /// The first version of the review that both sides know.
    ///
    /// # Errors
    /// There is none.
    pub fn review_version(&self) -> Result<ReviewVersion, Failure> {
        self.reviews.iter().find_map(|version| ReviewVersion::parse(version)).ok_or_else(|| {
            self.uncallable(
                "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)",
            )
        })
    }

    /// A failure of the call: no connection, no answer in time, or one that cannot be read.
    pub fn call_failed(&self, error: &str) -> Failure {
        self.uncallable(&format!("failed to call webhook: {error}"))
    }

    /// A failure that the webhook's policy may ignore.
    pub(super) fn uncallable(&self, reason: &str) -> Failure {
        Failure::Calling(format!("failed calling webhook {:?}: {reason}", self.name))
    }

    /// What a failure means for the request: its refusal, or nothing where the webhook's policy ignores it.
    ///
    /// # Errors
    /// The request is refused.
    pub fn outcome(&self, failure: Failure) -> Result<(), Status> {
        match failure {
            Failure::Calling(_) if self.ignores_failures => Ok(()),
            Failure::Calling(text) => Err(Status::internal(text)),
            Failure::Refused(status) => Err(status),
        }
    }
}
