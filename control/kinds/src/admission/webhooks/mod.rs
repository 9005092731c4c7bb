//! Admission webhooks: which of them a request is for, what they are sent, and what their answers mean. Follows upstream's
//! `apiserver/pkg/admission/plugin/webhook`; the texts are upstream's. `mutating` and `validating` are the two plugins, `call` asks one webhook;
//! nothing else here waits, reads a clock or draws chance.
//!
//! The way of a request: [`is_exempt`] requests are for no webhook; [`Hook::invocation`] says whether a webhook is called and with which version of
//! the object; its match conditions are to be asked then; [`Hook::refuses_dry_run`]; [`Hook::review_version`] and [`review`] make the body;
//! [`read`] reads the answer, whose patch [`Answer::patched`] applies. A [`Failure`] is ignored where [`Hook::outcome`] says so. [`Rounds`] says
//! which webhooks are called a second time, after another has changed the object.

mod answer;
mod audit;
mod call;
pub(crate) mod conditions;
mod failure;
mod hook;
pub(super) mod mutating;
mod review;
mod rounds;
pub(super) mod validating;
mod version;

#[cfg(test)]
mod plugins_tests;
#[cfg(test)]
mod tests;

pub use super::matching::{Request, Served, is_exempt};
pub use answer::{Answer, read};
pub use audit::{failed_open, mutation, patch as patch_annotation};
pub use failure::Failure;
pub use hook::{Condition, Hook, hooks};
pub use review::review;
pub use rounds::Rounds;
pub use version::ReviewVersion;
