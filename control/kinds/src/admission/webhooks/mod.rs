//! Admission webhooks, without the call itself: which of them a request is for, what they are sent, and what their answers mean. Nothing here
//! reads a clock, draws chance or waits. Follows upstream's `apiserver/pkg/admission/plugin/webhook`; the texts are upstream's.
//!
//! The way of a request: [`is_exempt`] requests are for no webhook; [`Hook::invocation`] says whether a webhook is called and with which version of
//! the object; its match conditions are to be asked then; [`Hook::refuses_dry_run`]; [`Hook::review_version`] and [`review`] make the body;
//! [`read`] reads the answer, whose patch [`Answer::patched`] applies. A [`Failure`] is ignored where [`Hook::outcome`] says so. [`Rounds`] says
//! which webhooks are called a second time, after another has changed the object.

mod answer;
mod audit;
mod failure;
mod hook;
mod matching;
mod review;
mod rounds;
mod rule;
mod version;

#[cfg(test)]
mod tests;

pub use answer::{Answer, read};
pub use audit::{failed_open, mutation, patch as patch_annotation};
pub use failure::Failure;
pub use hook::{Client, Condition, Hook, hooks};
pub use review::review;
pub use rounds::Rounds;
pub use rule::{Request, Served, is_exempt};
pub use version::ReviewVersion;
