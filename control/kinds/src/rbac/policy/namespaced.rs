//! The Roles of the system's namespaces, and who has them.

use super::entry::{EVENTS, Holder};

const SYSTEM: &str = "kube-system";
const PUBLIC: &str = "kube-public";

/// What a candidate for a Lease may do.
const CANDIDATE: &[&str] =
    &["read,create,update coordination.k8s.io leases", "read,create,update coordination.k8s.io leasecandidates"];

/// Namespace, name and rules.
pub(super) const ROLES: &[(&str, &str, &[&str])] = &[
    (SYSTEM, "extension-apiserver-authentication-reader", &["read core configmaps extension-apiserver-authentication"]),
    (SYSTEM, "system:controller:bootstrap-signer", &["read core secrets"]),
    (SYSTEM, "system:controller:cloud-provider", &["read,create core configmaps"]),
    (SYSTEM, "system:controller:token-cleaner", &["read,delete core secrets", EVENTS]),
    (SYSTEM, "system::leader-locking-kube-controller-manager", CANDIDATE),
    (SYSTEM, "system::leader-locking-kube-scheduler", CANDIDATE),
    (
        PUBLIC,
        "system:controller:bootstrap-signer",
        &["read core configmaps", "update core configmaps cluster-info", EVENTS],
    ),
];

/// Namespace, name, the name of the Role, and who has it.
pub(super) const BINDINGS: &[(&str, &str, &str, &[Holder])] = &[
    (
        SYSTEM,
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &[Holder::User("system:kube-controller-manager"), Holder::User("system:kube-scheduler")],
    ),
    (
        SYSTEM,
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        &[Holder::User("system:kube-controller-manager"), Holder::Account("kube-controller-manager")],
    ),
    (
        SYSTEM,
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        &[Holder::User("system:kube-scheduler"), Holder::Account("kube-scheduler")],
    ),
    (
        SYSTEM,
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &[Holder::Account("bootstrap-signer")],
    ),
    (
        SYSTEM,
        "system:controller:cloud-provider",
        "system:controller:cloud-provider",
        &[Holder::Account("cloud-provider")],
    ),
    (SYSTEM, "system:controller:token-cleaner", "system:controller:token-cleaner", &[Holder::Account("token-cleaner")]),
    (
        PUBLIC,
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &[Holder::Account("bootstrap-signer")],
    ),
];
