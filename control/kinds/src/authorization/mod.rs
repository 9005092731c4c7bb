//! Who may do what before roles are asked, and the reviews.

pub(crate) mod accessreviews;
pub(crate) mod nodes;
pub(crate) mod privileged;
pub(crate) mod reviews;
