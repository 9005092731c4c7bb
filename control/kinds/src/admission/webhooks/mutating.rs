//! `MutatingAdmissionWebhook`: webhooks that may change an object, one after the other, each with what the one before has left.

use super::{
    audit,
    call::{ask, goes_on, note},
    failure::Failure,
    hook::{Hook, hooks},
    rounds::Rounds,
};
use crate::admission::matching::{About, Served, is_exempt};
use api::{Object, Status};
use server::{
    Derived,
    admission::{Admission, Attributes},
    authz::Authorizer,
    webhook::Webhooks,
};
use std::sync::Arc;

/// The plugin.
pub(crate) struct MutatingAdmissionWebhook {
    hooks: Derived<Vec<Hook>>,
    webhooks: Webhooks,
    authorizer: Arc<dyn Authorizer>,
}

impl MutatingAdmissionWebhook {
    pub(crate) fn new(webhooks: Webhooks, authorizer: Arc<dyn Authorizer>) -> Self {
        Self {
            hooks: Derived::new("admissionregistration.k8s.io", "mutatingwebhookconfigurations", compile),
            webhooks,
            authorizer,
        }
    }

    /// Asks one webhook. Returns the object that it made of this one, in the version that it wants; none if it changed nothing.
    async fn call(
        &self,
        hook: &Hook,
        about: &About<'_>,
        wanted: &Served,
        (object, old): (Option<&Object>, Option<&Object>),
    ) -> Result<Option<Object>, Failure> {
        let (mut answer, verdict) = ask(&self.webhooks, hook, about, wanted, (object, old)).await;
        note(&about.attributes.context.notes, &mut answer);
        verdict?;
        match (answer.patched(hook, object)?, object) {
            (Some(after), Some(before)) => about.accepted(before, after, wanted).map_err(Failure::Refused),
            _ => Ok(None),
        }
    }

    /// Asks every webhook that the request is for.
    async fn dispatch(
        &self,
        hooks: &[Hook],
        attributes: &Attributes,
        rounds: &mut Rounds,
        object: &mut Object,
    ) -> Result<(), Status> {
        let about = About::of(attributes, object);
        let notes = &attributes.context.notes;
        for (index, hook) in hooks.iter().enumerate() {
            let (shown, old) = (about.shown(object), attributes.old.as_deref());
            let Some(wanted) = hook.invocation(&about.request(shown, old), &about.others)? else { continue };
            let (shown, old) = (about.as_wanted(shown, &wanted).await?, about.as_wanted(old, &wanted).await?);
            let objects = (shown.as_deref(), old.as_deref());
            let expressed = || about.shown_to_expressions(&wanted);
            let holds = hook.compiled.hold(attributes, &self.authorizer, objects, expressed, hook.ignores_failures)?;
            if !holds || !rounds.calls(hook) {
                continue;
            }
            let outcome = self.call(hook, &about, &wanted, objects).await;
            drop((shown, old));
            let changed = matches!(outcome, Ok(Some(_)));
            let (key, value) = audit::mutation(hook, rounds.round(), index, changed);
            notes.annotate(key, value);
            rounds.was_called(hook, changed);
            match outcome {
                Ok(None) => {}
                Ok(Some(made)) => {
                    *object = about.as_requested(made, &wanted).await?;
                    attributes.mark_changed();
                }
                Err(failure) => {
                    goes_on(hook, failure)?;
                    let (key, value) = audit::failed_open(hook, rounds.round(), index);
                    notes.annotate(key, value);
                }
            }
        }
        Ok(())
    }
}

fn compile(configurations: Vec<Arc<Object>>) -> Vec<Hook> {
    hooks(&configurations, true)
}

#[async_trait::async_trait]
impl Admission for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        let cx = &attributes.context;
        !self.hooks.read(cx.objects.as_ref()).is_empty() && !is_exempt(&cx.resource.gvk())
    }

    async fn admit(&self, attributes: &Attributes, object: &mut Object) -> Result<(), Status> {
        let hooks = self.hooks.read(attributes.context.objects.as_ref());
        let mut rounds: Rounds = attributes.take().unwrap_or_default();
        if attributes.is_second_round() {
            rounds.begin_second(object);
        }
        self.dispatch(&hooks, attributes, &mut rounds, object).await?;
        rounds.end(object);
        attributes.keep(rounds);
        Ok(())
    }
}
