//! rbac.authorization.k8s.io: roles and who has them.

pub(crate) mod bindings;
pub(crate) mod roles;

const GROUP: &str = "rbac.authorization.k8s.io";

/// What is said of a new role or binding as long as no authorizer reads them.
const NOT_ENFORCED: &str = "sampan does not grant permissions by roles yet: system:masters may do everything, ServiceAccounts may discover and ask about themselves";
