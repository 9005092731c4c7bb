//! Which policies are in force for a request, by which binding and with which parameters.

use super::{
    binding::{Binding, ByPolicy},
    params,
    policy::Policy,
};
use crate::admission::matching::{About, Served};
use api::Object;
use std::{collections::BTreeMap, sync::Arc};

/// A policy that is for a request.
pub(super) struct Invocation<'a, R> {
    pub(super) policy: &'a Policy<R>,
    pub(super) binding: &'a Binding,
    /// The version of the objects that the policy looks at.
    pub(super) served: Served,
    /// The policy is evaluated once for each.
    pub(super) params: Vec<Option<Arc<Object>>>,
}

/// A policy, or a binding of it, that cannot be asked.
pub(super) struct Misconfigured<'a, R> {
    pub(super) policy: &'a Policy<R>,
    pub(super) binding: Option<&'a Binding>,
    pub(super) why: String,
}

/// What counts for a request.
pub(super) type Selected<'a, R> = Result<Invocation<'a, R>, Misconfigured<'a, R>>;

fn misconfigured<'a, R>(policy: &'a Policy<R>, binding: Option<&'a Binding>, why: &str) -> Option<Selected<'a, R>> {
    let what = if binding.is_some() { "binding" } else { "policy" };
    let why = format!("failed to configure {what}: {why}");
    (!policy.ignores_failures).then_some(Err(Misconfigured { policy, binding, why }))
}

/// What counts for a request, by the names of policies, then bindings. What is misconfigured is left out where its policy ignores failures.
pub(super) async fn select<'a, R>(
    policies: &'a BTreeMap<String, Arc<Policy<R>>>,
    bindings: &'a ByPolicy,
    about: &About<'_>,
    (object, old): (Option<&Object>, Option<&Object>),
) -> Vec<Selected<'a, R>> {
    let mut selected: Vec<Selected<'a, R>> = Vec::new();
    let request = about.request(object, old);
    for (name, bindings) in bindings {
        let Some(policy) = policies.get(name).map(|policy| &**policy) else { continue };
        let matched = policy.criteria.matched(&request, &about.others).map(|served| served.cloned());
        let served = match matched {
            Ok(None) => continue,
            Ok(Some(served)) => served,
            Err(status) => {
                selected.extend(misconfigured(policy, None, &status.message));
                continue;
            }
        };
        let parameters = policy.parameters.as_ref().map(|kind| params::served(about, kind)).transpose();
        let parameters = match parameters {
            Ok(parameters) => parameters,
            Err(why) => {
                selected.extend(misconfigured(policy, None, &why));
                continue;
            }
        };
        for binding in bindings.values().map(|binding| &**binding) {
            let criteria = binding.criteria.as_ref();
            match criteria.map(|criteria| criteria.matched(&request, &about.others)).transpose() {
                Ok(Some(None)) => continue,
                Ok(_) => {}
                Err(status) => {
                    selected.extend(misconfigured(policy, Some(binding), &status.message));
                    continue;
                }
            }
            match params::collect(about, parameters.as_ref(), binding.reference.as_ref()).await {
                Ok(params) => {
                    selected.push(Ok(Invocation { policy, binding, served: served.clone(), params }));
                }
                Err(why) => selected.extend(misconfigured(policy, Some(binding), &why)),
            }
        }
    }
    selected
}
