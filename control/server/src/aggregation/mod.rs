//! Group versions that other API servers serve, behind this one: which they are, the way there, and what they add to discovery. Follows
//! upstream's `kube-aggregator`. What registers them is a kind; here is the machine.

pub(crate) mod check;
pub(crate) mod discovery;
mod form;
pub(crate) mod forward;
pub(crate) mod found;
pub(crate) mod outline;
pub(crate) mod registration;
pub(crate) mod remotes;
pub(crate) mod swagger;

pub use registration::{Aggregation, FrontProxy, Registered, Registration, Remote};
