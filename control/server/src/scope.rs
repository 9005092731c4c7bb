//! Which part of an object a write may change: the scope of the resource itself, and of the subresources that read the object and write a
//! part of it.

/// Which part of an object a write may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything but the status, where that has a subresource of its own.
    Main,
    /// The status, and what of the metadata a controller needs.
    Status,
    /// These fields (`/finalize` of a Namespace). Prepared and validated as a write of the whole.
    Fields(&'static [&'static [&'static str]]),
    /// Whatever the action that makes the change sets; it has checked that itself. Only the metadata is validated.
    Action,
}
