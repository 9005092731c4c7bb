//! `MutatingAdmissionPolicy`: policies that change an object, one after the other, each with what the one before has left.

use super::{
    binding::{Binding, Bindings},
    decisions::conditions_hold,
    patches::{Failure, Mutations},
    policy::{Policies, Policy},
    rounds::Rounds,
    select::{Invocation, select},
};
use crate::admission::{
    expressions::Input,
    matching::{About, Served, is_exempt_from_policies, same},
};
use api::{Object, Reason, Status};
use server::{
    Indexed, Operation,
    admission::{Admission, Attributes, forbidden},
    authz::Authorizer,
};
use std::sync::Arc;

const GROUP: &str = "admissionregistration.k8s.io";

/// The plugin.
pub(crate) struct MutatingAdmissionPolicy {
    policies: Indexed<Policies<Mutations>>,
    bindings: Indexed<Bindings>,
    authorizer: Arc<dyn Authorizer>,
}

impl MutatingAdmissionPolicy {
    pub(crate) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self {
            policies: Indexed::new(GROUP, "mutatingadmissionpolicies"),
            bindings: Indexed::new(GROUP, "mutatingadmissionpolicybindings"),
            authorizer,
        }
    }

    fn input<'o>(
        &self,
        about: &About<'_>,
        (current, old): (&'o Object, Option<&'o Object>),
        served: &Served,
    ) -> Input<'o> {
        let request = about.shown_to_expressions(served);
        Input::new(&about.attributes.context, &self.authorizer, (Some(current), old), request)
    }

    /// Evaluates a policy with one parameter, and changes the object as it says. Returns whether its mutations were asked for.
    async fn invoke(
        &self,
        about: &About<'_>,
        invocation: &Invocation<'_, Mutations>,
        params: Option<&Object>,
        (object, rounds): (&mut Object, &mut Rounds),
        errors: &mut Errors,
    ) -> Result<bool, Status> {
        let (attributes, served) = (about.attributes, &invocation.served);
        let (policy, binding) = (invocation.policy, invocation.binding);
        let namespace = about.namespace_of_object()?;
        let converted = match (
            about.as_wanted(Some(object), served).await,
            about.as_wanted(attributes.old.as_deref(), served).await,
        ) {
            (Ok(current), Ok(old)) => (current.map(std::borrow::Cow::into_owned), old),
            (Err(status), _) | (_, Err(status)) => {
                let why = format!("failed to configure policy: {}", status.message);
                errors.add(policy, None, &why, Reason::Forbidden);
                return Ok(false);
            }
        };
        let (Some(mut current), old) = converted else { return Ok(false) };
        let matching = Served { resource: about.served.resource.clone(), kind: served.kind.clone() };
        let old = old.as_deref();
        match conditions_hold(policy, &self.input(about, (&current, old), &matching), params) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(why) => {
                errors.add(policy, Some(binding), &why, Reason::Invalid);
                return Ok(false);
            }
        }
        let name = params.map(|params| format!("{}/{}", params.namespace(), params.name())).unwrap_or_default();
        let key = format!("{}/{}/{name}", policy.name, binding.name);
        if !rounds.invokes(&key) {
            return Ok(false);
        }
        let before = current.clone();
        for mutation in &policy.rules.all {
            let input = self.input(about, (&current, old), served).in_namespace(namespace);
            let given = mutation.evaluate(&policy.variables, &input, params);
            let made = match given {
                Ok(given) => mutation.applied(about, &current, given, served),
                Err(why) => Err(Failure::Policy(why)),
            };
            match made {
                Ok(made) => {
                    if let Some(made) = about.accepted(&current, made, served)? {
                        current = made;
                    }
                }
                Err(Failure::Refused(status)) => return Err(status),
                Err(Failure::Policy(why)) => errors.add(policy, Some(binding), &why, Reason::Invalid),
            }
        }
        let changed = !same(&before, &current);
        rounds.was_invoked(key, changed, policy.rules.again_if_needed);
        if changed {
            *object = about.as_requested(current, served).await?;
            attributes.mark_changed();
        }
        Ok(true)
    }
}

/// What has gone wrong, of policies that do not ignore it.
#[derive(Default)]
struct Errors(Vec<(String, Reason)>);

impl Errors {
    fn add<R>(&mut self, policy: &Policy<R>, binding: Option<&Binding>, why: &str, reason: Reason) {
        if policy.ignores_failures {
            return;
        }
        let name = &policy.name;
        let text = match binding {
            Some(binding) => format!("policy '{name}' with binding '{}' denied request: {why}", binding.name),
            None => format!("policy {name:?} denied request: {why}"),
        };
        self.0.push((text, reason));
    }

    fn end(self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        let Some((first, reason)) = self.0.first() else { return Ok(()) };
        let mut status = forbidden(attributes, object, "");
        // As upstream, the code stays that of a request that is forbidden.
        (status.message, status.reason) = (first.clone(), *reason);
        Err(self.0.iter().fold(status, |status, (text, _)| status.with_cause("", text, "")))
    }
}

#[async_trait::async_trait]
impl Admission for MutatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        let cx = &attributes.context;
        cx.operation != Operation::Delete
            && !self.bindings.read(cx.objects.as_ref()).all.is_empty()
            && !is_exempt_from_policies(&cx.resource.gvk())
    }

    async fn admit(&self, attributes: &Attributes, object: &mut Object) -> Result<(), Status> {
        let cx = &attributes.context;
        let policies = self.policies.read(cx.objects.as_ref()).0.clone();
        let bindings = self.bindings.read(cx.objects.as_ref()).all.clone();
        let about = About::of(attributes, object);
        let mut rounds: Rounds = attributes.take().unwrap_or_default();
        if attributes.is_second_round() {
            rounds.begin_second(object, same);
        }
        let (mut errors, mut invocations) = (Errors::default(), Vec::new());
        for selected in select(&policies, &bindings, &about, (Some(object), attributes.old.as_deref())).await {
            match selected {
                Ok(invocation) => invocations.push(invocation),
                Err(failed) => errors.add(failed.policy, failed.binding, &failed.why, Reason::Forbidden),
            }
        }
        let mut is_patched = false;
        for invocation in &invocations {
            for params in &invocation.params {
                // Expressions take time: others are let in between.
                tokio::task::yield_now().await;
                let state = (&mut *object, &mut rounds);
                is_patched |= self.invoke(&about, invocation, params.as_deref(), state, &mut errors).await?;
            }
        }
        rounds.end(object, is_patched);
        attributes.keep(rounds);
        errors.end(attributes, object)
    }
}
