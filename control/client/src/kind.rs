//! The kinds that components read and write as typed objects.

use k8s_openapi::{
    Metadata, Resource,
    api::{
        admissionregistration::v1 as admissionregistration, apps::v1 as apps, autoscaling::v2 as autoscaling,
        batch::v1 as batch, certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
        discovery::v1 as discovery, events::v1 as events, networking::v1 as networking, node::v1 as node,
        policy::v1 as policy, rbac::v1 as rbac, scheduling::v1 as scheduling, storage::v1 as storage,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration,
};

/// A kind with a type. Its decoder and encoder are functions of this crate: serde's generic ones would be compiled again into each crate that
/// uses the kind, and the binary would contain megabytes of code several times.
pub trait Kind: Resource + Metadata<Ty = ObjectMeta> + Clone + Send + Sync + 'static {
    /// Decodes an object.
    ///
    /// # Errors
    /// The JSON does not fit the type.
    fn from_json(json: &str) -> serde_json::Result<Self>;

    /// Encodes an object.
    ///
    /// # Errors
    /// None is known: all values of the types can be encoded.
    fn to_json(&self) -> serde_json::Result<Vec<u8>>;
}

macro_rules! kinds {
    ($($kind:ty),* $(,)?) => {
        $(
        impl Kind for $kind {
            #[inline(never)]
            fn from_json(json: &str) -> serde_json::Result<Self> {
                serde_json::from_str(json)
            }

            #[inline(never)]
            fn to_json(&self) -> serde_json::Result<Vec<u8>> {
                serde_json::to_vec(self)
            }
        }
        )*

        /// Shows each of the kinds.
        #[cfg(test)]
        pub(crate) fn each(visitor: &mut impl Visitor) {
            $(visitor.visit::<$kind>();)*
        }
    };
}

/// Who looks at each kind.
#[cfg(test)]
pub(crate) trait Visitor {
    /// Looks at one.
    fn visit<K: Kind>(&mut self);
}

kinds! {
    core::ConfigMap,
    core::Endpoints,
    core::Event,
    core::LimitRange,
    core::Namespace,
    core::Node,
    core::PersistentVolume,
    core::PersistentVolumeClaim,
    core::Pod,
    core::PodTemplate,
    core::ReplicationController,
    core::ResourceQuota,
    core::Secret,
    core::Service,
    core::ServiceAccount,
    admissionregistration::MutatingWebhookConfiguration,
    admissionregistration::ValidatingAdmissionPolicy,
    admissionregistration::ValidatingWebhookConfiguration,
    apiregistration::APIService,
    apps::ControllerRevision,
    apps::DaemonSet,
    apps::Deployment,
    apps::ReplicaSet,
    apps::StatefulSet,
    autoscaling::HorizontalPodAutoscaler,
    batch::CronJob,
    batch::Job,
    certificates::CertificateSigningRequest,
    coordination::Lease,
    discovery::EndpointSlice,
    events::Event,
    networking::Ingress,
    networking::IPAddress,
    networking::NetworkPolicy,
    networking::ServiceCIDR,
    node::RuntimeClass,
    policy::PodDisruptionBudget,
    rbac::ClusterRole,
    rbac::ClusterRoleBinding,
    rbac::Role,
    rbac::RoleBinding,
    scheduling::PriorityClass,
    storage::CSIDriver,
    storage::CSINode,
    storage::StorageClass,
    storage::VolumeAttachment,
}
