//! rbac.authorization.k8s.io: roles, who has them, and what they allow.

pub(crate) mod authorizer;
pub(crate) mod bindings;
pub(crate) mod escalation;
pub(crate) mod index;
pub(crate) mod policy;
pub(crate) mod reconcile;
pub(crate) mod roles;
pub(crate) mod rule;
mod ruleset;

const GROUP: &str = "rbac.authorization.k8s.io";
