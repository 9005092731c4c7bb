//! The data file against facts that were taken from upstream by another way.

use super::*;
use crate::{
    GroupVersionKind,
    schema::{Schema, openapi},
};

/// Every resource of the served groups: group/version and kind.
const SERVED: &str = "
v1 Binding
v1 ComponentStatus
v1 ConfigMap
v1 Endpoints
v1 Event
v1 LimitRange
v1 Namespace
v1 Node
v1 PersistentVolumeClaim
v1 PersistentVolume
v1 Pod
v1 PodTemplate
v1 ReplicationController
v1 ResourceQuota
v1 Secret
v1 ServiceAccount
v1 Service
apiregistration.k8s.io/v1 APIService
apps/v1 ControllerRevision
apps/v1 DaemonSet
apps/v1 Deployment
apps/v1 ReplicaSet
apps/v1 StatefulSet
events.k8s.io/v1 Event
authentication.k8s.io/v1 SelfSubjectReview
authentication.k8s.io/v1 TokenReview
authorization.k8s.io/v1 LocalSubjectAccessReview
authorization.k8s.io/v1 SelfSubjectAccessReview
authorization.k8s.io/v1 SelfSubjectRulesReview
authorization.k8s.io/v1 SubjectAccessReview
autoscaling/v2 HorizontalPodAutoscaler
autoscaling/v1 HorizontalPodAutoscaler
batch/v1 CronJob
batch/v1 Job
certificates.k8s.io/v1 CertificateSigningRequest
networking.k8s.io/v1 IngressClass
networking.k8s.io/v1 Ingress
networking.k8s.io/v1 IPAddress
networking.k8s.io/v1 NetworkPolicy
networking.k8s.io/v1 ServiceCIDR
policy/v1 PodDisruptionBudget
rbac.authorization.k8s.io/v1 ClusterRoleBinding
rbac.authorization.k8s.io/v1 ClusterRole
rbac.authorization.k8s.io/v1 RoleBinding
rbac.authorization.k8s.io/v1 Role
storage.k8s.io/v1 CSIDriver
storage.k8s.io/v1 CSINode
storage.k8s.io/v1 CSIStorageCapacity
storage.k8s.io/v1 StorageClass
storage.k8s.io/v1 VolumeAttachment
storage.k8s.io/v1 VolumeAttributesClass
admissionregistration.k8s.io/v1 MutatingAdmissionPolicy
admissionregistration.k8s.io/v1 MutatingAdmissionPolicyBinding
admissionregistration.k8s.io/v1 MutatingWebhookConfiguration
admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy
admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding
admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration
apiextensions.k8s.io/v1 CustomResourceDefinition
scheduling.k8s.io/v1 PriorityClass
coordination.k8s.io/v1 Lease
node.k8s.io/v1 RuntimeClass
discovery.k8s.io/v1 EndpointSlice
resource.k8s.io/v1 DeviceClass
resource.k8s.io/v1 ResourceClaim
resource.k8s.io/v1 ResourceClaimTemplate
resource.k8s.io/v1 ResourceSlice
flowcontrol.apiserver.k8s.io/v1 FlowSchema
flowcontrol.apiserver.k8s.io/v1 PriorityLevelConfiguration
";

/// Kinds that only travel: bodies, answers and parameters.
const TRAVELLING: &str = "
v1 DeleteOptions
v1 Status
v1 WatchEvent
v1 PodLogOptions
v1 PodExecOptions
v1 PodAttachOptions
v1 PodPortForwardOptions
meta.k8s.io/v1 CreateOptions
meta.k8s.io/v1 GetOptions
meta.k8s.io/v1 ListOptions
meta.k8s.io/v1 PatchOptions
meta.k8s.io/v1 UpdateOptions
autoscaling/v1 Scale
policy/v1 Eviction
authentication.k8s.io/v1 TokenRequest
apps/v1 DeleteOptions
";

/// type|field|list type|list map keys|patch merge key|patch strategy
const MERGE_FACTS: &str = "
admissionregistration.v1.MutatingAdmissionPolicySpec|matchConditions|map|name|name|merge
admissionregistration.v1.MutatingWebhookConfiguration|webhooks|map|name|name|merge
admissionregistration.v1.MutatingWebhook|matchConditions|map|name|name|merge
admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec|validationActions|set|-|-|-
admissionregistration.v1.ValidatingAdmissionPolicySpec|matchConditions|map|name|name|merge
admissionregistration.v1.ValidatingAdmissionPolicySpec|variables|map|name|name|merge
admissionregistration.v1.ValidatingAdmissionPolicyStatus|conditions|map|type|-|-
admissionregistration.v1.ValidatingWebhookConfiguration|webhooks|map|name|name|merge
admissionregistration.v1.ValidatingWebhook|matchConditions|map|name|name|merge
apiextensions.v1.CustomResourceDefinitionStatus|conditions|map|type|-|-
apiextensions.v1.JSONSchemaProps|x-kubernetes-validations|map|rule|rule|merge
apiregistration.v1.APIServiceStatus|conditions|map|type|type|merge
apps.v1.DaemonSetStatus|conditions|map|type|type|merge
apps.v1.DeploymentSpec|strategy|-|-|-|retainKeys
apps.v1.DeploymentStatus|conditions|map|type|type|merge
apps.v1.ReplicaSetStatus|conditions|map|type|type|merge
apps.v1.StatefulSetStatus|conditions|map|type|type|merge
autoscaling.v2.HorizontalPodAutoscalerStatus|conditions|map|type|type|merge
batch.v1.JobStatus|conditions|atomic|-|type|merge
batch.v1.PodFailurePolicyOnExitCodesRequirement|values|set|-|-|-
batch.v1.UncountedTerminatedPods|failed|set|-|-|-
batch.v1.UncountedTerminatedPods|succeeded|set|-|-|-
certificates.v1.CertificateSigningRequestStatus|conditions|map|type|-|-
core.v1.ComponentStatus|conditions|map|type|type|merge
core.v1.ContainerRestartRuleOnExitCodes|values|set|-|-|-
core.v1.ContainerStatus|allocatedResourcesStatus|map|name|name|merge
core.v1.ContainerStatus|volumeMounts|map|mountPath|mountPath|merge
core.v1.Container|env|map|name|name|merge
core.v1.Container|ports|map|containerPort,protocol|containerPort|merge
core.v1.Container|volumeDevices|map|devicePath|devicePath|merge
core.v1.Container|volumeMounts|map|mountPath|mountPath|merge
core.v1.EphemeralContainer|env|map|name|name|merge
core.v1.EphemeralContainer|ports|map|containerPort,protocol|containerPort|merge
core.v1.EphemeralContainer|volumeDevices|map|devicePath|devicePath|merge
core.v1.EphemeralContainer|volumeMounts|map|mountPath|mountPath|merge
core.v1.NamespaceStatus|conditions|map|type|type|merge
core.v1.NodeAllocatableResourceClaimStatus|containers|set|-|-|-
core.v1.NodeSpec|podCIDRs|set|-|-|merge
core.v1.NodeStatus|addresses|map|type|type|merge
core.v1.NodeStatus|conditions|map|type|type|merge
core.v1.PersistentVolumeClaimStatus|conditions|map|type|type|merge
core.v1.PodSpec|containers|map|name|name|merge
core.v1.PodSpec|ephemeralContainers|map|name|name|merge
core.v1.PodSpec|hostAliases|map|ip|ip|merge
core.v1.PodSpec|imagePullSecrets|map|name|name|merge
core.v1.PodSpec|initContainers|map|name|name|merge
core.v1.PodSpec|resourceClaims|map|name|name|merge,retainKeys
core.v1.PodSpec|schedulingGates|map|name|name|merge
core.v1.PodSpec|topologySpreadConstraints|map|topologyKey,whenUnsatisfiable|topologyKey|merge
core.v1.PodSpec|volumes|map|name|name|merge,retainKeys
core.v1.PodStatus|conditions|map|type|type|merge
core.v1.PodStatus|hostIPs|atomic|-|ip|merge
core.v1.PodStatus|podIPs|map|ip|ip|merge
core.v1.PodStatus|resourceClaimStatuses|map|name|name|merge,retainKeys
core.v1.ReplicationControllerStatus|conditions|map|type|type|merge
core.v1.ResourceRequirements|claims|map|name|-|-
core.v1.ResourceStatus|resources|map|resourceID|-|-
core.v1.ServiceAccount|secrets|map|name|name|merge
core.v1.ServiceSpec|ports|map|port,protocol|port|merge
core.v1.ServiceStatus|conditions|map|type|type|merge
discovery.v1.Endpoint|addresses|set|-|-|-
flowcontrol.v1.FlowSchemaStatus|conditions|map|type|type|merge
flowcontrol.v1.NonResourcePolicyRule|nonResourceURLs|set|-|-|-
flowcontrol.v1.NonResourcePolicyRule|verbs|set|-|-|-
flowcontrol.v1.PriorityLevelConfigurationStatus|conditions|map|type|type|merge
flowcontrol.v1.ResourcePolicyRule|apiGroups|set|-|-|-
flowcontrol.v1.ResourcePolicyRule|namespaces|set|-|-|-
flowcontrol.v1.ResourcePolicyRule|resources|set|-|-|-
flowcontrol.v1.ResourcePolicyRule|verbs|set|-|-|-
meta.v1.ObjectMeta|finalizers|set|-|-|merge
meta.v1.ObjectMeta|ownerReferences|map|uid|uid|merge
networking.v1.ServiceCIDRStatus|conditions|map|type|type|merge
policy.v1.PodDisruptionBudgetSpec|selector|-|-|-|replace
policy.v1.PodDisruptionBudgetStatus|conditions|map|type|type|merge
resource.v1.AllocatedDeviceStatus|conditions|map|type|-|-
resource.v1.ResourceClaimStatus|devices|map|driver,device,pool,shareID|-|-
resource.v1.ResourceClaimStatus|reservedFor|map|uid|uid|merge
storage.v1.CSIDriverSpec|volumeLifecycleModes|set|-|-|-
storage.v1.CSINodeSpec|drivers|map|name|name|merge
";

/// Structs and maps that server-side apply takes as one value.
const ATOMIC: &str = "
admissionregistration.v1.MatchResources
admissionregistration.v1.NamedRuleWithOperations
admissionregistration.v1.ParamKind
admissionregistration.v1.ParamRef
admissionregistration.v1.Variable
autoscaling.v1.CrossVersionObjectReference
core.v1.ConfigMapKeySelector
core.v1.EndpointAddress
core.v1.EndpointPort
core.v1.FileKeySelector
core.v1.LocalObjectReference
core.v1.NodeSelector
core.v1.NodeSelectorTerm
core.v1.ObjectFieldSelector
core.v1.ObjectReference
core.v1.PodSpec.nodeSelector
core.v1.ReplicationControllerSpec.selector
core.v1.ResourceFieldSelector
core.v1.ScopeSelector
core.v1.SecretKeySelector
core.v1.SecretReference
core.v1.ServiceSpec.selector
core.v1.TopologySelectorTerm
core.v1.TypedLocalObjectReference
discovery.v1.EndpointPort
meta.v1.LabelSelector
meta.v1.OwnerReference
networking.v1.ServiceBackendPort
node.v1.Scheduling.nodeSelector
rbac.v1.RoleRef
rbac.v1.Subject
";

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.is_empty())
}

fn named(short: &str) -> Schema {
    let candidates = [
        "io.k8s.api.",
        "io.k8s.apimachinery.pkg.apis.",
        "io.k8s.apiextensions-apiserver.pkg.apis.",
        "io.k8s.kube-aggregator.pkg.apis.",
    ];
    candidates
        .iter()
        .find_map(|prefix| Schema::named(&format!("{prefix}{short}")))
        .unwrap_or_else(|| panic!("{short} is missing"))
}

#[test]
fn every_served_kind_has_a_schema_and_a_list() {
    let virtual_kinds = [
        "Binding",
        "SelfSubjectReview",
        "TokenReview",
        "LocalSubjectAccessReview",
        "SelfSubjectAccessReview",
        "SelfSubjectRulesReview",
        "SubjectAccessReview",
    ];
    for line in lines(SERVED).chain(lines(TRAVELLING)) {
        let (api_version, kind) = line.split_once(' ').expect("two words");
        let gvk = GroupVersionKind::from_api_version(api_version, kind);
        assert!(Schema::for_kind(&gvk).is_some(), "{gvk}");
        assert!(openapi::definition_name(&gvk).is_some(), "{gvk}");
    }
    for line in lines(SERVED) {
        let (api_version, kind) = line.split_once(' ').expect("two words");
        let list = GroupVersionKind::from_api_version(api_version, &format!("{kind}List"));
        assert!(virtual_kinds.contains(&kind) || Schema::for_kind(&list).is_some(), "{list}");
    }
}

#[test]
fn merge_facts_are_upstreams() {
    for line in lines(MERGE_FACTS) {
        let parts: Vec<&str> = line.split('|').collect();
        let [structure, field, list, keys, merge_key, strategy] = parts[..] else { panic!("{line}") };
        let place = named(structure).field(field).unwrap_or_else(|| panic!("{line}"));
        let (found, found_keys) = match place.list_type() {
            ListType::Atomic => ("atomic", "-".to_owned()),
            ListType::Set => ("set", "-".to_owned()),
            ListType::Map(keys) => ("map", keys.join(",")),
        };
        assert!(list == "-" || list == found, "{line}");
        assert_eq!(keys, found_keys, "{line}");
        assert_eq!(merge_key, place.patch_merge_key().unwrap_or("-"), "{line}");
        let facts = place.patch_strategy();
        for (name, found) in [("merge", facts.merge), ("replace", facts.replace), ("retainKeys", facts.retain_keys)] {
            assert_eq!(strategy.split(',').any(|s| s == name), found, "{line}");
        }
    }
}

#[test]
fn atomic_values_are_upstreams() {
    for line in lines(ATOMIC) {
        let depth = line.matches('.').count();
        let place = if depth == 3 {
            let (structure, field) = line.rsplit_once('.').expect("a field");
            named(structure).field(field).expect(line)
        } else {
            named(line)
        };
        assert!(place.is_atomic(), "{line}");
    }
    assert!(!named("core.v1.PodSpec").is_atomic());
    assert!(!named("meta.v1.ObjectMeta").field("labels").expect("there").is_atomic());
}

#[test]
fn keys_of_list_maps_have_their_default() {
    for (structure, field) in
        [("core.v1.Container", "ports"), ("core.v1.EphemeralContainer", "ports"), ("core.v1.ServiceSpec", "ports")]
    {
        let port = named(structure).field(field).and_then(|f| f.items()).expect("a list");
        assert_eq!(
            port.field("protocol").and_then(|p| p.default_value().cloned()),
            Some(Value::from("TCP")),
            "{structure}"
        );
    }
    let schema = named("core.v1.Container");
    let mut value = serde_json::json!({"ports": [{"containerPort": 1}, {"containerPort": 2, "protocol": "UDP"}]});
    schema.default(&mut value);
    assert_eq!(
        value,
        serde_json::json!({"ports": [{"containerPort": 1, "protocol": "TCP"}, {"containerPort": 2, "protocol": "UDP"}]})
    );
}

#[test]
fn every_field_but_the_type_has_a_protobuf_tag() {
    let arena = &builtin().arena;
    for structure in &arena.structs {
        let mut seen = std::collections::BTreeSet::new();
        for field in &structure.fields {
            let tags = field.tags.as_slice();
            let of_type = matches!(&*field.name, "kind" | "apiVersion");
            assert!(
                !tags.is_empty() || of_type || structure.name.ends_with("version.Info"),
                "{}.{}",
                structure.name,
                field.name
            );
            assert!(tags.is_empty() || seen.insert(tags), "{}.{} shares its tag", structure.name, field.name);
        }
    }
}

#[test]
#[allow(clippy::disallowed_methods)] // only printed, never asserted
fn what_is_read_is_small() {
    let start = std::time::Instant::now();
    let data = read(STRUCTURE);
    let elapsed = start.elapsed();
    let nodes = data.arena.nodes.len() * size_of::<Node>();
    let fields: usize =
        data.arena.structs.iter().map(|s| size_of::<Struct>() + s.fields.len() * size_of::<Field>()).sum();
    let bytes = nodes + fields + (data.kinds.len() + data.definitions.len()) * size_of::<(&str, NodeId)>();
    println!(
        "schema: {elapsed:?}, {} places, {} KiB, text {} KiB",
        data.arena.nodes.len(),
        bytes >> 10,
        STRUCTURE.len() >> 10
    );
    assert!(bytes < 1 << 20, "{bytes} bytes");
}
