//! `apiextensions.k8s.io`: definitions of custom resources, and what they define.

pub(crate) mod customresource;
pub(crate) mod customresourcedefinition;
mod rule;
mod rules;
