//! The ClusterRoles that every cluster has, and who has them.

use super::entry::{EVENTS, Holder, NODE};

/// Name, the role that collects its rules if there is one, and the rules.
pub(super) type Entry = (&'static str, &'static str, &'static [&'static str]);

/// ClusterRoles with rules of their own.
pub(super) const ROLES: &[Entry] = &[
    ("cluster-admin", "", &["* * *", "* path *"]),
    (
        "system:discovery",
        "",
        &["get path /livez,/readyz,/healthz,/version,/version/,/openapi,/openapi/*,/api,/api/*,/apis,/apis/*"],
    ),
    (
        "system:monitoring",
        "",
        &[
            "get path /metrics,/metrics/slis,/livez,/readyz,/healthz,/livez/*,/readyz/*,/healthz/*,/flagz,/statusz",
            "get core nodes/metrics",
        ],
    ),
    (
        "system:basic-user",
        "",
        &[
            "create authorization.k8s.io selfsubjectaccessreviews,selfsubjectrulesreviews",
            "create authentication.k8s.io selfsubjectreviews",
        ],
    ),
    ("system:public-info-viewer", "", &["get path /livez,/readyz,/healthz,/version,/version/"]),
    (
        "system:aggregate-to-admin",
        "admin",
        &[
            "create authorization.k8s.io localsubjectaccessreviews",
            "read,write rbac.authorization.k8s.io roles,rolebindings",
        ],
    ),
    (
        "system:aggregate-to-edit",
        "edit",
        &[
            "read core pods/attach,pods/proxy,pods/exec,pods/portforward,secrets,services/proxy",
            "impersonate core serviceaccounts",
            "write core pods,pods/attach,pods/proxy,pods/exec,pods/portforward",
            "create core pods/eviction",
            "write core replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/proxy,persistentvolumeclaims,configmaps,secrets",
            "create core serviceaccounts/token",
            "write core,events.k8s.io events",
            "write apps statefulsets,statefulsets/scale,daemonsets,deployments,deployments/scale,deployments/rollback,replicasets,replicasets/scale",
            "write autoscaling horizontalpodautoscalers",
            "write batch jobs,cronjobs",
            "write extensions daemonsets,deployments,deployments/scale,deployments/rollback,ingresses,replicasets,replicasets/scale,replicationcontrollers/scale,networkpolicies",
            "write policy poddisruptionbudgets",
            "write networking.k8s.io networkpolicies,ingresses",
            "read,write coordination.k8s.io leases",
            "write resource.k8s.io resourceclaims,resourceclaimtemplates",
        ],
    ),
    (
        "system:aggregate-to-view",
        "view",
        &[
            "read core pods,replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/status,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,configmaps",
            "read core limitranges,resourcequotas,bindings,pods/status,resourcequotas/status,namespaces/status,replicationcontrollers/status,pods/log",
            "read core namespaces",
            "read core,events.k8s.io events",
            "read discovery.k8s.io endpointslices",
            "read apps controllerrevisions,statefulsets,statefulsets/status,statefulsets/scale,daemonsets,daemonsets/status,deployments,deployments/status,deployments/scale,replicasets,replicasets/status,replicasets/scale",
            "read autoscaling horizontalpodautoscalers,horizontalpodautoscalers/status",
            "read batch jobs,cronjobs,cronjobs/status,jobs/status",
            "read extensions daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,ingresses,ingresses/status,replicasets,replicasets/scale,replicasets/status,replicationcontrollers/scale,networkpolicies",
            "read policy poddisruptionbudgets,poddisruptionbudgets/status",
            "read networking.k8s.io networkpolicies,ingresses,ingresses/status",
            "read resource.k8s.io resourceclaims,resourceclaims/status,resourceclaimtemplates",
        ],
    ),
    ("system:heapster", "", &["read core events,pods,nodes,namespaces", "read extensions deployments"]),
    (NODE, "", NODE_RULES),
    ("system:node-problem-detector", "", &["get core nodes", "patch core nodes/status", EVENTS]),
    ("system:node-bootstrapper", "", &["read,create certificates.k8s.io certificatesigningrequests"]),
    (
        "system:auth-delegator",
        "",
        &["create authentication.k8s.io tokenreviews", "create authorization.k8s.io subjectaccessreviews"],
    ),
    ("system:kube-aggregator", "", &["read core services,endpoints"]),
    (
        "system:kube-controller-manager",
        "",
        &[
            EVENTS,
            "create coordination.k8s.io leases",
            "get,update coordination.k8s.io leases kube-controller-manager",
            "create core secrets,serviceaccounts",
            "delete core secrets",
            "get core namespaces,secrets,serviceaccounts,configmaps",
            "update core secrets,serviceaccounts",
            "create authentication.k8s.io tokenreviews",
            "create authorization.k8s.io subjectaccessreviews",
            "list,watch * *",
            "create core serviceaccounts/token",
        ],
    ),
    ("system:kube-dns", "", &["list,watch core endpoints,services"]),
    (
        "system:persistent-volume-provisioner",
        "",
        &[
            "read,create,delete core persistentvolumes",
            "read,update core persistentvolumeclaims",
            "read storage.k8s.io storageclasses",
            "watch core events",
            EVENTS,
        ],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "",
        &["create certificates.k8s.io certificatesigningrequests/nodeclient"],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        "",
        &["create certificates.k8s.io certificatesigningrequests/selfnodeclient"],
    ),
    (
        "system:volume-scheduler",
        "",
        &[
            "read,change core persistentvolumes",
            "read storage.k8s.io storageclasses",
            "read,change core persistentvolumeclaims",
        ],
    ),
    (
        "system:certificates.k8s.io:legacy-unknown-approver",
        "",
        &["approve certificates.k8s.io signers kubernetes.io/legacy-unknown"],
    ),
    (
        "system:certificates.k8s.io:kubelet-serving-approver",
        "",
        &["approve certificates.k8s.io signers kubernetes.io/kubelet-serving"],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        "",
        &["approve certificates.k8s.io signers kubernetes.io/kube-apiserver-client"],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        "",
        &["approve certificates.k8s.io signers kubernetes.io/kube-apiserver-client-kubelet"],
    ),
    (
        "system:service-account-issuer-discovery",
        "",
        &[
            "get path /.well-known/openid-configuration,/.well-known/openid-configuration/,/openid/v1/jwks,/openid/v1/jwks/",
        ],
    ),
    (
        "system:kubelet-api-admin",
        "",
        &[
            "read core nodes",
            "proxy core nodes",
            "* core nodes/proxy,nodes/metrics,nodes/stats,nodes/log",
            "* core nodes/pods,nodes/healthz,nodes/configz",
        ],
    ),
    (
        "system:node-proxier",
        "",
        &[
            "list,watch core services,endpoints",
            "read core nodes",
            EVENTS,
            "list,watch networking.k8s.io servicecidrs",
            "list,watch discovery.k8s.io endpointslices",
        ],
    ),
    ("system:kube-scheduler", "", SCHEDULER),
];

/// What every node may do. Upstream grants it by the node authorizer, which narrows it to what the pods of the node need.
pub(super) const NODE_RULES: &[&str] = &[
    "create authentication.k8s.io tokenreviews",
    "create authorization.k8s.io subjectaccessreviews,localsubjectaccessreviews",
    "read core services",
    "read,create core nodes",
    "change core nodes/status",
    "change core nodes",
    EVENTS,
    "read core pods",
    "create,delete core pods",
    "change core pods/status",
    "create core pods/eviction",
    "read core secrets,configmaps",
    "get core persistentvolumeclaims,persistentvolumes",
    "get core endpoints",
    "read,create certificates.k8s.io certificatesigningrequests",
    "get,create,change,delete coordination.k8s.io leases",
    "get storage.k8s.io volumeattachments",
    "create core serviceaccounts/token",
    "get,change core persistentvolumeclaims/status",
    "read storage.k8s.io csidrivers",
    "get,create,change,delete storage.k8s.io csinodes",
    "read node.k8s.io runtimeclasses",
    "get resource.k8s.io resourceclaims",
    "deletecollection resource.k8s.io resourceslices",
    "get core serviceaccounts",
];

const SCHEDULER: &[&str] = &[
    EVENTS,
    "create coordination.k8s.io leases",
    "read,update coordination.k8s.io leases kube-scheduler",
    "read,write coordination.k8s.io leasecandidates",
    "read core nodes",
    "read,delete core pods",
    "create core pods/binding,bindings",
    "change core pods/status",
    "read core services,replicationcontrollers",
    "read apps,extensions replicasets",
    "read apps statefulsets",
    "read policy poddisruptionbudgets",
    "read core persistentvolumeclaims,persistentvolumes",
    "create authentication.k8s.io tokenreviews",
    "create authorization.k8s.io subjectaccessreviews",
    "read storage.k8s.io csinodes",
    "read storage.k8s.io volumeattachments",
    "read core namespaces",
    "read storage.k8s.io csidrivers",
    "read storage.k8s.io csistoragecapacities",
    "read resource.k8s.io deviceclasses",
    "read,change resource.k8s.io resourceclaims",
    "read,change resource.k8s.io resourceclaims/status",
    "update core pods/finalizers",
    "read resource.k8s.io resourceslices",
    "create,delete resource.k8s.io resourceclaims",
    "change resource.k8s.io resourceclaims/binding",
];

/// ClusterRoles that collect the rules of others, and the one that collects theirs.
pub(super) const COLLECTING: &[(&str, &str)] = &[("admin", ""), ("edit", "admin"), ("view", "edit")];

/// Who has which ClusterRole everywhere. The binding has the name of the role.
pub(super) const BINDINGS: &[(&str, &[Holder])] = &[
    ("cluster-admin", &[Holder::Group("system:masters")]),
    ("system:monitoring", &[Holder::Group("system:monitoring")]),
    ("system:discovery", &[Holder::Group("system:authenticated")]),
    ("system:basic-user", &[Holder::Group("system:authenticated")]),
    ("system:public-info-viewer", &[Holder::Group("system:authenticated"), Holder::Group("system:unauthenticated")]),
    ("system:node-proxier", &[Holder::User("system:kube-proxy")]),
    ("system:kube-controller-manager", &[Holder::User("system:kube-controller-manager")]),
    ("system:kube-dns", &[Holder::Account("kube-dns")]),
    ("system:kube-scheduler", &[Holder::User("system:kube-scheduler")]),
    ("system:volume-scheduler", &[Holder::User("system:kube-scheduler")]),
    // Nobody, as upstream, since nodes have their authorizer.
    (NODE, &[]),
    ("system:service-account-issuer-discovery", &[Holder::Group("system:serviceaccounts")]),
];
