//! The built-in kinds, one module each, and the one list of them.
//!
//! Strategies work on JSON objects (no typed decoding, which would drop what it does not know). Validation walks with [`at::At`],
//! which knows its path; defaulting writes with [`edit`]. Rules that several kinds share are in modules of their own: [`podspec`] for
//! everything that holds a pod spec, [`rules`] for names, selectors and the like.

mod address;
mod at;
pub(crate) mod cells;
mod configmap;
mod controllerrevision;
mod deployment;
pub(crate) mod edit;
mod endpoints;
mod endpointslice;
mod event;
mod job;
mod lease;
mod namespace;
mod node;
mod pod;
mod podspec;
mod podtemplate;
mod priorityclass;
mod quantities;
mod replicaset;
mod rules;
mod runtimeclass;
mod secret;
mod service;
mod serviceaccount;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests;

pub(crate) use podspec::service_account_mirror as mirror_service_account;
pub(crate) use priorityclass::SYSTEM as SYSTEM_PRIORITY_CLASSES;

use crate::{Resource, Settings, Verb};
use api::GroupVersionKind;
use std::sync::Arc;
use std::time::Duration;

const CREATE: &[Verb] = &[Verb::Create];
const UPDATE: &[Verb] = &[Verb::Update];
const GET: &[Verb] = &[Verb::Get];

/// All verbs but `deletecollection`: namespaces are not deleted by the dozen.
const NO_COLLECTION: &[Verb] =
    &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];

const READ: &[Verb] = &[Verb::Get, Verb::List, Verb::Watch];

/// Events live an hour.
const EVENT_TTL: Duration = Duration::from_secs(3600);

/// Every built-in resource, in the order of discovery. The self reviews are the core's.
pub fn all(settings: &Settings) -> Vec<Resource> {
    let mut all = core(settings);
    all.extend(groups());
    all
}

fn core(settings: &Settings) -> Vec<Resource> {
    let v1 = |kind: &str| GroupVersionKind::new("", "v1", kind);
    vec![
        Resource::new("", "v1", "bindings", "Binding", Arc::new(pod::Bindings)).verbs(CREATE),
        Resource::new("", "v1", "configmaps", "ConfigMap", Arc::new(configmap::ConfigMaps))
            .short(&["cm"])
            .columns(configmap::COLUMNS),
        Resource::new("", "v1", "endpoints", "Endpoints", Arc::new(endpoints::AllEndpoints))
            .short(&["ep"])
            .in_upstream_directory("services/endpoints")
            .deprecated("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
            .columns(endpoints::COLUMNS)
            .creating_on_update(),
        Resource::new("", "v1", "events", "Event", Arc::new(event::Core))
            .short(&["ev"])
            .columns(event::COLUMNS)
            .creating_on_update()
            .expiring(EVENT_TTL),
        Resource::new("", "v1", "namespaces", "Namespace", Arc::new(namespace::Namespaces))
            .short(&["ns"])
            .cluster_scoped()
            .verbs(NO_COLLECTION)
            .columns(namespace::COLUMNS)
            .with_subresource("finalize", v1("Namespace"), UPDATE)
            .with_status()
            .returning_deleted(),
        Resource::new("", "v1", "nodes", "Node", Arc::new(node::Nodes))
            .short(&["no"])
            .in_upstream_directory("minions")
            .cluster_scoped()
            .columns(node::COLUMNS)
            .with_status(),
        Resource::new("", "v1", "pods", "Pod", Arc::new(pod::Pods))
            .short(&["po"])
            .category("all")
            .columns(pod::COLUMNS)
            .with_generation()
            .with_subresource("binding", v1("Binding"), CREATE)
            .with_subresource("eviction", GroupVersionKind::new("policy", "v1", "Eviction"), CREATE)
            .with_subresource("log", v1("Pod"), GET)
            .with_status()
            .returning_deleted(),
        Resource::new("", "v1", "podtemplates", "PodTemplate", Arc::new(podtemplate::PodTemplates))
            .columns(podtemplate::COLUMNS)
            .with_generation()
            .returning_deleted(),
        none_yet("", "replicationcontrollers", "ReplicationController").short(&["rc"]),
        Resource::new("", "v1", "secrets", "Secret", Arc::new(secret::Secrets)).columns(secret::COLUMNS),
        Resource::new("", "v1", "serviceaccounts", "ServiceAccount", Arc::new(serviceaccount::ServiceAccounts))
            .short(&["sa"])
            .columns(serviceaccount::COLUMNS)
            .with_subresource("token", GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest"), CREATE)
            .returning_deleted(),
        Resource::new("", "v1", "services", "Service", Arc::new(service::Services::new(settings)))
            .short(&["svc"])
            .in_upstream_directory("services/specs")
            .category("all")
            .columns(service::COLUMNS)
            .with_status()
            .creating_on_update()
            .returning_deleted(),
    ]
}

fn groups() -> Vec<Resource> {
    vec![
        Resource::new(
            "apps",
            "v1",
            "controllerrevisions",
            "ControllerRevision",
            Arc::new(controllerrevision::Revisions),
        )
        .columns(controllerrevision::COLUMNS),
        none_yet("apps", "daemonsets", "DaemonSet").short(&["ds"]),
        Resource::new("apps", "v1", "deployments", "Deployment", Arc::new(deployment::Deployments))
            .short(&["deploy"])
            .category("all")
            .columns(deployment::COLUMNS)
            .with_generation()
            .with_scale()
            .with_status(),
        Resource::new("apps", "v1", "replicasets", "ReplicaSet", Arc::new(replicaset::ReplicaSets))
            .short(&["rs"])
            .category("all")
            .columns(replicaset::COLUMNS)
            .with_generation()
            .with_scale()
            .with_status(),
        Resource::new("events.k8s.io", "v1", "events", "Event", Arc::new(event::Grouped))
            .short(&["ev"])
            .columns(event::COLUMNS)
            .creating_on_update()
            .expiring(EVENT_TTL)
            .stored_as("", "events", "v1"),
        Resource::new("batch", "v1", "jobs", "Job", Arc::new(job::Jobs))
            .category("all")
            .columns(job::COLUMNS)
            .with_generation()
            .with_status(),
        Resource::new("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", Arc::new(priorityclass::Classes))
            .short(&["pc"])
            .cluster_scoped()
            .columns(priorityclass::COLUMNS),
        Resource::new("coordination.k8s.io", "v1", "leases", "Lease", Arc::new(lease::Leases))
            .columns(lease::COLUMNS)
            .creating_on_update()
            .conditional_update_only(),
        Resource::new("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", Arc::new(runtimeclass::Classes))
            .cluster_scoped()
            .columns(runtimeclass::COLUMNS)
            .creating_on_update()
            .conditional_update_only(),
        Resource::new("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", Arc::new(endpointslice::Slices))
            .columns(endpointslice::COLUMNS)
            .with_generation(),
        // Which there are is what kubectl asks before it says that it does not know a kind.
        none_yet("apiextensions.k8s.io", "customresourcedefinitions", "CustomResourceDefinition")
            .short(&["crd", "crds"])
            .category("api-extensions")
            .cluster_scoped(),
    ]
}

/// A kind that is not here yet: there are none, and none can be made. kubectl asks for some kinds without a look at discovery
/// (`cluster-info dump`) and gives up where one is not found.
fn none_yet(group: &str, resource: &str, kind: &str) -> Resource {
    Resource::new(group, "v1", resource, kind, Arc::new(crate::strategy::Plain)).verbs(READ).not_here_yet()
}
