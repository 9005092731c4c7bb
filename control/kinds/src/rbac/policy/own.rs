//! What sampan's own controllers may do, and what upstream's controllers and nodes do here in addition to what they do upstream.

use super::entry::{EVENTS, Holder};

/// Name, who has it, and the rules. The binding has the name of the role.
pub(super) const ROLES: &[(&str, &[Holder], &[&str])] = &[
    (
        "sampan:controller:scale-to-zero-controller",
        &[Holder::Account("scale-to-zero-controller")],
        &["read,patch apps deployments", "read custom.metrics.k8s.io *", EVENTS],
    ),
    // It empties definitions that are deleted, as upstream's API server does with its own rights.
    (
        "sampan:controller:customresourcedefinition-controller",
        &[Holder::Account("customresourcedefinition-controller")],
        &[
            "read,change apiextensions.k8s.io customresourcedefinitions,customresourcedefinitions/status",
            "list,deletecollection * *",
        ],
    ),
    // It asks the servers of APIServices through the API server, and registers custom resources; both are parts of upstream's API server.
    (
        "sampan:controller:apiservice-controller",
        &[Holder::Account("apiservice-controller")],
        &[
            "read,create,change,delete apiregistration.k8s.io apiservices",
            "change apiregistration.k8s.io apiservices/status",
            "get path /aggregator/checks/*",
        ],
    ),
    // It repairs the allocations of Services, as upstream's API server does with its own rights.
    (
        "sampan:controller:ipallocator-repair-controller",
        &[Holder::Account("ipallocator-repair-controller")],
        &[
            "read core services",
            "read networking.k8s.io servicecidrs",
            "read,create,delete networking.k8s.io ipaddresses",
            EVENTS,
        ],
    ),
    // An autoscaler may put a Deployment to sleep, which a request wakes.
    (
        "sampan:controller:horizontal-pod-autoscaler",
        &[Holder::Account("horizontal-pod-autoscaler")],
        &["patch apps deployments"],
    ),
    // Who adopts or releases a pod looks whether it is still there when that fails.
    (
        "sampan:controller:pod-adoption",
        &[
            Holder::Account("daemon-set-controller"),
            Holder::Account("job-controller"),
            Holder::Account("replicaset-controller"),
            Holder::Account("replication-controller"),
        ],
        &["get core pods"],
    ),
    // Hollow nodes: one identity for all of them, which removes the Nodes that it made.
    ("sampan:hollow", &[Holder::User("sampan:hollow")], HOLLOW),
];

const HOLLOW: &[&str] = &[
    "read,create,change,delete core nodes",
    "change core nodes/status",
    "read,delete core pods",
    "change core pods/status",
    "read,create,change,delete coordination.k8s.io leases",
    EVENTS,
];

/// Beyond upstream's rules of nodes: a node looks for its local volumes, removes their folders, and then the volumes or their finalizer; it tells
/// in a slice that a request waits for a Deployment without replicas; and it renews its own certificate without a question, as in clusters of
/// kubeadm.
pub(super) const NODE: &[&str] = &[
    "list,watch,update,delete core persistentvolumes",
    "patch discovery.k8s.io endpointslices",
    "create certificates.k8s.io certificatesigningrequests/selfnodeclient",
];
