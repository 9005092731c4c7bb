//! Authorization without RBAC, and the self reviews.

pub(crate) mod defaultroles;
pub(crate) mod privileged;
pub(crate) mod selfreviews;
