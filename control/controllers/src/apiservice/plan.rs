//! What the condition `Available` of an APIService says, and which APIService a group version of custom resources has. Pure.

use crate::customresourcedefinition::Definition;
use api::annotations::SCALED_TO_ZERO;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::Service,
        discovery::v1::{EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    kube_aggregator::pkg::apis::apiregistration::v1::{
        APIService, APIServiceCondition, APIServiceSpec, ServiceReference,
    },
};
use std::{collections::BTreeMap, sync::Arc};

/// The label of APIServices that nobody has to write by hand, and its value for those that are always kept.
pub(super) const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
const ALWAYS: &str = "true";

const AVAILABLE: &str = "Available";

/// What the condition says: whether it is true, reason, and message.
pub(super) type Verdict = (bool, &'static str, String);

/// A server that passes.
pub(super) fn passed() -> Verdict {
    (true, "Passed", "all checks passed".to_owned())
}

/// A server that does not answer.
pub(super) fn failed(error: &str) -> Verdict {
    (false, "FailedDiscoveryCheck", error.to_owned())
}

/// What is known without asking the server. `None`: it must be asked.
pub(super) fn judge(
    reference: Option<&ServiceReference>,
    service: Option<&Service>,
    slices: &[Arc<EndpointSlice>],
) -> Option<Verdict> {
    let Some(reference) = reference else {
        return Some((true, "Local", "Local APIServices are always available".to_owned()));
    };
    let name = reference.name.as_deref().unwrap_or_default();
    let namespace = reference.namespace.as_deref().unwrap_or_default();
    let no = |reason, message: String| Some((false, reason, message));
    let Some(spec) = service.map(|service| service.spec.clone().unwrap_or_default()) else {
        return no("ServiceNotFound", format!("service/{name} in {namespace:?} is not present"));
    };
    // Of others it is not known where they lead.
    if spec.type_.as_deref().unwrap_or("ClusterIP") != "ClusterIP" {
        return None;
    }
    let number = reference.port.unwrap_or(443);
    let Some(port) = spec.ports.iter().flatten().find(|port| port.port == number) else {
        let text = format!("service/{name} in {namespace:?} is not listening on port {number}");
        return no("ServicePortError", text);
    };
    if slices.is_empty() {
        return no("EndpointsNotFound", format!("cannot find endpointslices for service/{name} in {namespace:?}"));
    }
    // A question would wake it.
    let sleeps = |slice: &Arc<EndpointSlice>| {
        slice.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(SCALED_TO_ZERO))
    };
    if slices.iter().any(sleeps) {
        return Some(passed());
    }
    let port = port.name.as_deref().unwrap_or_default();
    if !slices.iter().any(|slice| leads_somewhere(slice, port)) {
        let text =
            format!("endpointslices for service/{name} in {namespace:?} have no addresses with port name {port:?}");
        return no("MissingEndpoints", text);
    }
    None
}

fn leads_somewhere(slice: &EndpointSlice, port: &str) -> bool {
    let ready = slice
        .endpoints
        .iter()
        .flatten()
        .any(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
    let named = |one: &EndpointPort| one.name.as_deref().unwrap_or_default() == port && one.port.is_some();
    ready && slice.ports.iter().flatten().any(named)
}

/// The conditions with this verdict; `None` where they say so already. The time stays where the status does.
pub(super) fn conditions(
    old: &[APIServiceCondition],
    (available, reason, message): Verdict,
    now: Timestamp,
) -> Option<Vec<APIServiceCondition>> {
    let status = if available { "True" } else { "False" };
    let mut all = old.to_vec();
    let known = all.iter_mut().find(|one| one.type_ == AVAILABLE);
    let since = known.as_ref().filter(|one| one.status == status).and_then(|one| one.last_transition_time.clone());
    let new = APIServiceCondition {
        type_: AVAILABLE.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: since.or(Some(Time(now))),
    };
    match known {
        Some(known) => *known = new,
        None => all.push(new),
    }
    (all != old).then_some(all)
}

/// Group and version of an APIService's name.
pub(super) fn group_version(name: &str) -> Option<(&str, &str)> {
    let (version, group) = name.split_once('.')?;
    Some((group, version))
}

/// What is to be written.
#[derive(Debug, PartialEq)]
pub(super) enum Write {
    Create(Box<APIService>),
    /// The fields that were changed are set again.
    Update(Box<APIServiceSpec>),
    Delete,
}

/// What is to be written so that the APIService of a group version is there while a definition serves it. One that somebody else manages stays.
pub(super) fn register(name: &str, stored: Option<&APIService>, definitions: &[Arc<Definition>]) -> Option<Write> {
    let (group, version) = group_version(name)?;
    let serves = |definition: &&Arc<Definition>| {
        definition.spec.group == group && definition.spec.versions.iter().any(|v| v.name == version && v.served)
    };
    let spec = definitions.iter().find(serves).map(|_| APIServiceSpec {
        group: Some(group.to_owned()),
        version: Some(version.to_owned()),
        group_priority_minimum: 1000,
        version_priority: 100,
        ..APIServiceSpec::default()
    });
    match (spec, stored) {
        (None, None) => None,
        (Some(spec), None) => Some(Write::Create(Box::new(APIService {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(BTreeMap::from([(MANAGED.to_owned(), ALWAYS.to_owned())])),
                ..ObjectMeta::default()
            },
            spec: Some(spec),
            status: None,
        }))),
        (spec, Some(stored)) => {
            let label = stored.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED));
            if label.is_none_or(|label| label != ALWAYS) {
                return None;
            }
            let Some(spec) = spec else { return Some(Write::Delete) };
            (stored.spec.as_ref() != Some(&spec)).then(|| Write::Update(Box::new(spec)))
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
