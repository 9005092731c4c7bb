//! Selectors: label selectors as text and as objects, node-affinity terms, and field selectors.
//!
//! Follows <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors> and
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/field-selectors/>; texts of errors are upstream's.

mod field;
mod label;
mod parse;
mod requirement;

pub use field::{FieldRequirement, FieldSelector};
pub use label::Selector;
pub use requirement::{Operator, Requirement};
