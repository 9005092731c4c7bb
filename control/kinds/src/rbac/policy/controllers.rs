//! What each controller may do: its ClusterRole is `system:controller:NAME`, and ServiceAccount `kube-system/NAME` has it.

use super::entry::EVENTS;

/// Upstream's controllers.
pub(super) const UPSTREAM: &[(&str, &[&str])] = &[
    (
        "attachdetach-controller",
        &[
            "list,watch core persistentvolumes,persistentvolumeclaims",
            "read core nodes",
            "change core nodes/status",
            "list,watch core pods",
            EVENTS,
            "read,create,delete storage.k8s.io volumeattachments",
            "read storage.k8s.io csidrivers",
            "read storage.k8s.io csinodes",
        ],
    ),
    ("clusterrole-aggregation-controller", &["escalate,read,change rbac.authorization.k8s.io clusterroles"]),
    (
        "cronjob-controller",
        &[
            "read,update batch cronjobs",
            "read,create,change,delete batch jobs",
            "update batch cronjobs/status",
            "update batch cronjobs/finalizers",
            "list,watch,delete core pods",
            EVENTS,
        ],
    ),
    (
        "daemon-set-controller",
        &[
            "read apps,extensions daemonsets",
            "update apps,extensions daemonsets/status",
            "update apps,extensions daemonsets/finalizers",
            "list,watch core nodes",
            "list,watch,create,delete,patch core pods",
            "create core pods/binding",
            "read,create,delete,change apps controllerrevisions",
            EVENTS,
        ],
    ),
    (
        "deployment-controller",
        &[
            "read,update apps,extensions deployments",
            "update apps,extensions deployments/status",
            "update apps,extensions deployments/finalizers",
            "read,create,change,delete apps,extensions replicasets",
            "read,update core pods",
            EVENTS,
        ],
    ),
    (
        "disruption-controller",
        &[
            "read apps,extensions deployments",
            "read apps,extensions replicasets",
            "read core replicationcontrollers",
            "read policy poddisruptionbudgets",
            "read apps statefulsets",
            "update policy poddisruptionbudgets/status",
            "change core pods/status",
            "get * */scale",
            EVENTS,
        ],
    ),
    (
        "endpoint-controller",
        &[
            "read core services,pods",
            "read,create,update,delete core endpoints",
            "create core endpoints/restricted",
            EVENTS,
        ],
    ),
    (
        "endpointslice-controller",
        &[
            "read core services,pods,nodes",
            "update core services/finalizers",
            "read,create,update,delete discovery.k8s.io endpointslices",
            "create discovery.k8s.io endpointslices/restricted",
            EVENTS,
        ],
    ),
    (
        "endpointslicemirroring-controller",
        &[
            "read core services,endpoints",
            "update core services/finalizers",
            "update core endpoints/finalizers",
            "read,create,update,delete discovery.k8s.io endpointslices",
            "create discovery.k8s.io endpointslices/restricted",
            EVENTS,
        ],
    ),
    (
        "expand-controller",
        &[
            "read,change core persistentvolumes",
            "change core persistentvolumeclaims/status",
            "read core persistentvolumeclaims",
            EVENTS,
        ],
    ),
    (
        "ephemeral-volume-controller",
        &["read core pods", "update core pods/finalizers", "read,create core persistentvolumeclaims", EVENTS],
    ),
    (
        "resource-claim-controller",
        &[
            "read core pods",
            "update core pods/finalizers",
            "read,create,delete resource.k8s.io resourceclaims",
            "change resource.k8s.io resourceclaims,resourceclaims/status",
            "change core pods/status",
            EVENTS,
            "change resource.k8s.io resourceclaims/binding",
        ],
    ),
    (
        "device-taint-eviction-controller",
        &[
            "read,delete core pods",
            "change core pods/status",
            "read resource.k8s.io resourceclaims",
            "read resource.k8s.io resourceslices",
            "read resource.k8s.io deviceclasses",
            EVENTS,
        ],
    ),
    ("generic-garbage-collector", &["read,change,delete * *", EVENTS]),
    (
        "horizontal-pod-autoscaler",
        &[
            "read autoscaling horizontalpodautoscalers",
            "update autoscaling horizontalpodautoscalers/status",
            "get,update * */scale",
            "list,watch core pods",
            "list,watch metrics.k8s.io pods",
            "read custom.metrics.k8s.io *",
            "read external.metrics.k8s.io *",
            EVENTS,
        ],
    ),
    (
        "job-controller",
        &[
            "read,change batch jobs",
            "update batch jobs/status",
            "update batch jobs/finalizers",
            "list,watch,create,delete,patch core pods",
            EVENTS,
        ],
    ),
    (
        "namespace-controller",
        &[
            "read,delete core namespaces",
            "update core namespaces/finalize,namespaces/status",
            "read,delete,deletecollection * *",
        ],
    ),
    (
        "node-controller",
        &[
            "read,change,delete core nodes",
            "change core nodes/status",
            "change core pods/status",
            "read,delete core pods",
            EVENTS,
        ],
    ),
    (
        "persistent-volume-binder",
        &[
            "read,update,create,delete core persistentvolumes",
            "update core persistentvolumes/status",
            "read,update core persistentvolumeclaims",
            "update core persistentvolumeclaims/status",
            "read,create,delete core pods",
            "read storage.k8s.io storageclasses",
            "list,watch core nodes",
            EVENTS,
            "watch core events",
        ],
    ),
    ("pod-garbage-collector", &["list,watch,delete core pods", "read core nodes", "patch core pods/status"]),
    (
        "replicaset-controller",
        &[
            "read,update apps,extensions replicasets",
            "update apps,extensions replicasets/status",
            "update apps,extensions replicasets/finalizers",
            "list,watch,create,delete,patch core pods",
            EVENTS,
        ],
    ),
    (
        "replication-controller",
        &[
            "read,update core replicationcontrollers",
            "update core replicationcontrollers/status",
            "update core replicationcontrollers/finalizers",
            "list,watch,create,delete,patch core pods",
            EVENTS,
        ],
    ),
    ("resourcequota-controller", &["list,watch * *", "update core resourcequotas/status", EVENTS]),
    ("route-controller", &["list,watch core nodes", "patch core nodes/status", EVENTS]),
    ("service-account-controller", &["create core serviceaccounts", EVENTS]),
    ("service-controller", &["read core services", "change core services/status", "list,watch core nodes", EVENTS]),
    (
        "service-cidrs-controller",
        &[
            "read,change networking.k8s.io servicecidrs",
            "change networking.k8s.io servicecidrs/finalizers",
            "change networking.k8s.io servicecidrs/status",
            "read networking.k8s.io ipaddresses",
            EVENTS,
        ],
    ),
    (
        "statefulset-controller",
        &[
            "list,watch core pods",
            "read apps statefulsets",
            "update apps statefulsets/status",
            "update apps statefulsets/finalizers",
            "get,create,delete,change core pods",
            "read,create,delete,change apps controllerrevisions",
            "read,create core persistentvolumeclaims",
            "update,delete core persistentvolumeclaims",
            "update core pods/finalizers",
            EVENTS,
        ],
    ),
    ("ttl-controller", &["change,list,watch core nodes", EVENTS]),
    (
        "certificate-controller",
        &[
            "read,delete certificates.k8s.io certificatesigningrequests",
            "update certificates.k8s.io certificatesigningrequests/status,certificatesigningrequests/approval",
            "approve certificates.k8s.io signers kubernetes.io/kube-apiserver-client-kubelet",
            "sign certificates.k8s.io signers kubernetes.io/legacy-unknown,kubernetes.io/kube-apiserver-client,kubernetes.io/kube-apiserver-client-kubelet,kubernetes.io/kubelet-serving",
            "create authorization.k8s.io subjectaccessreviews",
            EVENTS,
        ],
    ),
    (
        "pvc-protection-controller",
        &[
            "read,update core persistentvolumeclaims",
            "update core persistentvolumeclaims/status",
            "read core pods",
            EVENTS,
        ],
    ),
    ("pv-protection-controller", &["read,update core persistentvolumes", EVENTS]),
    (
        "volumeattributesclass-protection-controller",
        &[
            "read core persistentvolumeclaims",
            "read core persistentvolumes",
            "read,update storage.k8s.io volumeattributesclasses",
            EVENTS,
        ],
    ),
    ("ttl-after-finished-controller", &["read,delete batch jobs", EVENTS]),
    ("root-ca-cert-publisher", &["create,update core configmaps", EVENTS]),
    ("service-ca-cert-publisher", &["create,update core configmaps", EVENTS]),
    (
        "validatingadmissionpolicy-status-controller",
        &[
            "read admissionregistration.k8s.io validatingadmissionpolicies",
            "get,change admissionregistration.k8s.io validatingadmissionpolicies/status",
            EVENTS,
        ],
    ),
    (
        "legacy-service-account-token-cleaner",
        &["get core configmaps kube-apiserver-legacy-service-account-token-tracking", "patch,delete core secrets"],
    ),
    (
        "selinux-warning-controller",
        &[
            EVENTS,
            "read core persistentvolumes",
            "read core persistentvolumeclaims",
            "read core pods",
            "read storage.k8s.io csidrivers",
        ],
    ),
];
