//! Which part of an object a write may change: the scope of the main resource, and of subresources that write a part of the object.

/// Which part of an object a write may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything, except the status where there is `/status`.
    Main,
    /// The status, and the metadata that controllers need to change.
    Status,
    /// These fields (`/finalize` of a Namespace). Prepared and validated as a write of the main resource. Before the last name of a path `*`
    /// stands for each element of a list; a list whose elements are others by number or `name` is taken whole, for validation to refuse.
    Fields(&'static [&'static [&'static str]]),
    /// Any fields: the action that makes the change has validated them. Only the metadata is validated.
    Action,
}
