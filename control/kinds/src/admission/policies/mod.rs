//! Admission policies: expressions that refuse or change what is written. Follows upstream's `apiserver/pkg/admission/plugin/policy`; the texts
//! are upstream's.
//!
//! [`validating`] and [`mutating`] are the two plugins. Their policies and bindings are compiled when they change ([`policy`], [`binding`],
//! [`compiler`]). For a request, [`select`] says which policies are in force by which binding and with which parameters ([`params`]);
//! [`scope`] evaluates expressions with variables, which are computed when they are first asked for.

mod binding;
pub(crate) mod compiler;
mod decisions;
pub(super) mod mutating;
mod params;
mod patches;
mod policy;
mod rounds;
mod scope;
mod select;
pub(super) mod validating;

#[cfg(test)]
mod tests;
