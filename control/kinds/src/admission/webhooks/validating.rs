//! `ValidatingAdmissionWebhook`: webhooks that may refuse a request, all at the same time.

use super::{
    audit,
    call::{ask, goes_on, note},
    hook::{Hook, hooks},
};
use crate::admission::matching::{About, Served, is_exempt};
use api::{GroupVersionKind, Object, Status};
use futures::future;
use server::{
    Derived,
    admission::{Admission, Attributes},
    authz::Authorizer,
    webhook::Webhooks,
};
use std::{borrow::Cow, sync::Arc};

/// The plugin.
pub(crate) struct ValidatingAdmissionWebhook {
    hooks: Derived<Vec<Hook>>,
    webhooks: Webhooks,
    authorizer: Arc<dyn Authorizer>,
}

impl ValidatingAdmissionWebhook {
    pub(crate) fn new(webhooks: Webhooks, authorizer: Arc<dyn Authorizer>) -> Self {
        Self {
            hooks: Derived::new("admissionregistration.k8s.io", "validatingwebhookconfigurations", compile),
            webhooks,
            authorizer,
        }
    }
}

/// A kind, and the objects of a request as those of it.
type Version<'a> = (GroupVersionKind, Option<Cow<'a, Object>>, Option<Cow<'a, Object>>);

fn objects_in<'v>(versions: &'v [Version<'_>], wanted: &Served) -> (Option<&'v Object>, Option<&'v Object>) {
    let version = versions.iter().find(|(kind, _, _)| *kind == wanted.kind);
    version.map(|(_, shown, old)| (shown.as_deref(), old.as_deref())).unwrap_or_default()
}

fn compile(configurations: Vec<Arc<Object>>) -> Vec<Hook> {
    hooks(&configurations, false)
}

#[async_trait::async_trait]
impl Admission for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        let cx = &attributes.context;
        !self.hooks.read(cx.objects.as_ref()).is_empty() && !is_exempt(&cx.resource.gvk())
    }

    async fn validate(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        let hooks = self.hooks.read(attributes.context.objects.as_ref());
        let about = About::of(attributes, object);
        let (shown, old) = (about.shown(object), attributes.old.as_deref());
        let mut called: Vec<(&Hook, Served)> = Vec::new();
        // The objects in each wanted version, converted once.
        let mut versions: Vec<Version<'_>> = Vec::new();
        for hook in hooks.iter() {
            let Some(wanted) = hook.invocation(&about.request(shown, old), &about.others)? else { continue };
            if !versions.iter().any(|(kind, _, _)| *kind == wanted.kind) {
                let (shown, old) = (about.as_wanted(shown, &wanted).await?, about.as_wanted(old, &wanted).await?);
                versions.push((wanted.kind.clone(), shown, old));
            }
            let objects = objects_in(&versions, &wanted);
            let expressed = || about.shown_to_expressions(&wanted);
            if hook.compiled.hold(attributes, &self.authorizer, objects, expressed, hook.ignores_failures)? {
                called.push((hook, wanted));
            }
        }
        let calls = called
            .iter()
            .map(|(hook, wanted)| ask(&self.webhooks, hook, &about, wanted, objects_in(&versions, wanted)));
        let answers = future::join_all(calls).await;
        let notes = &attributes.context.notes;
        let mut outcome = Ok(());
        for (index, ((hook, _), (mut answer, verdict))) in called.iter().zip(answers).enumerate() {
            note(notes, &mut answer);
            let Err(failure) = verdict else { continue };
            match goes_on(hook, failure) {
                Ok(()) => {
                    let (key, value) = audit::failed_open(hook, 0, index);
                    notes.annotate(key, value);
                }
                // The first one counts.
                Err(status) => outcome = outcome.and(Err(status)),
            }
        }
        outcome
    }
}
