//! Who may do what until RBAC comes, and the reviews that answer it.

pub(crate) mod defaultroles;
pub(crate) mod privileged;
pub(crate) mod selfreviews;
