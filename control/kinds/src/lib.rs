//! The built-in kinds: one folder per group, one file per kind with its `resource()`. Subresources, admission plugins and authorizers of
//! kinds are here too.
//!
//! Strategies work on JSON objects (typed decoding would drop unknown fields). Validation uses `at::At`, which knows its path; defaulting
//! uses `edit`. Rules that several kinds share are in modules of their own: `podspec` for everything with a pod spec, `rules` for names,
//! selectors and the like.
#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

mod address;
mod admission;
mod admissionregistration;
mod annotations;
mod apiextensions;
mod apiregistration;
mod apps;
mod at;
mod authorization;
mod autoscaling;
mod batch;
pub mod bootstrap;
mod capabilities;
mod cells;
mod certificates;
mod claims;
mod clientconfig;
mod coordination;
pub mod core;
mod discovery;
mod edit;
mod events;
mod flowcontrol;
mod metrics;
mod networking;
mod node;
mod podspec;
mod policy;
mod quantities;
mod rbac;
mod resource;
mod rules;
mod scheduling;
mod storage;
mod url;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use crate::{
    admission::{
        imageadvice::{ImageAdvice, ImageFacts},
        webhooks,
    },
    apiregistration::registered::FRONT_PROXY,
    capabilities::Capabilities,
    clientconfig::webhooks_by,
    core::serviceaccount::tokens::{self, Tokens},
    rbac::authorizer::Rbac,
};

use crate::authorization::{nodes::Nodes, privileged, reviews};
use ipnet::IpNet;
use server::{
    FrontProxy, Resource,
    authz::{Authorizer, Union},
    webhook::Webhooks,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
};

/// What the kinds need to know about this cluster.
#[derive(Clone)]
pub struct Settings {
    /// Cluster addresses of Services.
    pub service_cidr: IpNet,
    /// Node ports of Services.
    pub node_ports: RangeInclusive<u16>,
    /// Signs and checks ServiceAccount tokens.
    pub tokens: Tokens,
    /// Where the API can be reached from pods: what Service `default/kubernetes` points to.
    pub advertise: SocketAddr,
    /// Identifies this process in its Lease; unique per running server.
    pub identity: String,
    /// What is known about images, for warnings.
    pub image_advice: Option<Arc<dyn ImageAdvice>>,
    /// The runtimes of the nodes. Of each there is a RuntimeClass with its name and handler.
    pub runtimes: Vec<String>,
    /// The provisioner of the default StorageClass, which has folders of the nodes; `None` for no such class.
    pub local_volumes: Option<String>,
    /// Where the nodes' DNS servers are: the address of Service `kube-system/kube-dns`; `None` for no such Service.
    pub dns: Option<Ipv4Addr>,
    /// What node, scheduler and controllers honour; of other fields users are warned.
    pub capabilities: Capabilities,
    /// The authorizer by roles, which every server of the kinds has: a new one.
    pub rbac: Rbac,
    /// As whom the server speaks for its users to API servers that serve group versions for it.
    pub front_proxy: FrontProxy,
    /// The authority of client certificates, in PEM, which those servers are told; or empty.
    pub client_authority: String,
    /// What calls webhooks: a new one.
    pub webhooks: Webhooks,
}

impl Settings {
    /// What a server of the built-in kinds is made of: resources, admission, authentication, authorization and documents.
    pub fn parts(&self) -> server::Parts {
        let authorizer: Arc<dyn Authorizer> =
            Arc::new(Union::new(vec![Arc::new(privileged::Privileged), Arc::new(Nodes), Arc::new(self.rbac.clone())]));
        server::Parts {
            resources: resources(self, &authorizer),
            webhooks: Some(self.webhooks.clone()),
            aggregation: Some(apiregistration::registered::aggregation(self)),
            definitions: Some(Arc::new(apiextensions::customresource::CustomResources(self.webhooks.clone()))),
            admission: admission::all(self, &authorizer),
            authenticators: vec![Arc::new(self.tokens.clone())],
            authorizer,
            trusted: privileged::is_trusted,
            fairness: Some(flowcontrol::fairness::SOURCE),
            documents: self.tokens.documents(),
        }
    }
}

/// Every built-in resource, in the order of discovery.
#[allow(clippy::too_many_lines)] // a list
fn resources(settings: &Settings, authorizer: &Arc<dyn Authorizer>) -> Vec<Resource> {
    let [event, grouped_event] = events::event::resources();
    let [of_pods, of_services] = metrics::custommetrics::resources();
    let [autoscaler, autoscaler_v1] = autoscaling::horizontalpodautoscaler::resources();
    let capabilities = &settings.capabilities;
    let [role, cluster_role] = rbac::roles::resources();
    let [role_binding, cluster_role_binding] = rbac::bindings::resources();
    let mut all = vec![
        core::pod::binding::resource(),
        core::componentstatus::resource(&settings.identity),
        core::configmap::resource(),
        core::endpoints::resource(),
        event,
        core::limitrange::resource(),
        core::namespace::resource(),
        core::node::resource(),
        core::persistentvolumeclaim::resource(),
        core::persistentvolume::resource(capabilities, settings.local_volumes.as_deref()),
        core::pod::resource(capabilities),
        core::podtemplate::resource(capabilities),
        core::replicationcontroller::resource(capabilities),
        core::resourcequota::resource(),
        core::secret::resource(),
        core::serviceaccount::resource(settings.tokens.clone()),
        core::service::resource(settings),
        apiregistration::apiservice::resource(),
        apps::controllerrevision::resource(),
        apps::daemonset::resource(capabilities),
        apps::deployment::resource(capabilities),
        apps::replicaset::resource(capabilities),
        apps::statefulset::resource(capabilities),
        grouped_event,
        autoscaler,
        autoscaler_v1,
        batch::cronjob::resource(capabilities),
        batch::job::resource(capabilities),
        certificates::certificatesigningrequest::resource(),
        networking::ingressclass::resource(),
        networking::ingress::resource(capabilities),
        networking::ipaddress::resource(),
        networking::networkpolicy::resource(capabilities),
        networking::servicecidr::resource(),
        policy::poddisruptionbudget::resource(),
        cluster_role_binding,
        cluster_role,
        role_binding,
        role,
        storage::csidriver::resource(capabilities),
        storage::csinode::resource(),
        storage::csistoragecapacity::resource(),
        storage::storageclass::resource(),
        storage::volumeattachment::resource(capabilities),
        storage::volumeattributesclass::resource(),
        admissionregistration::mutatingadmissionpolicy::FORM.resource(),
        admissionregistration::mutatingadmissionpolicybinding::FORM.resource(),
        admissionregistration::mutatingwebhookconfiguration::FORM.resource(),
        admissionregistration::validatingadmissionpolicy::FORM.resource(),
        admissionregistration::validatingadmissionpolicybinding::FORM.resource(),
        admissionregistration::validatingwebhookconfiguration::FORM.resource(),
        apiextensions::customresourcedefinition::resource(),
        scheduling::priorityclass::resource(capabilities),
        coordination::lease::resource(),
        node::runtimeclass::resource(),
        discovery::endpointslice::resource(),
        resource::deviceclass::resource(capabilities),
        resource::resourceclaim::resource(capabilities),
        resource::resourceclaimtemplate::resource(capabilities),
        resource::resourceslice::resource(capabilities),
        flowcontrol::flowschema::resource(),
        flowcontrol::prioritylevelconfiguration::resource(),
        metrics::nodemetrics::resource(),
        metrics::podmetrics::resource(),
        of_pods,
        of_services,
    ];
    all.extend(reviews::resources(&settings.tokens, authorizer));
    all
}
