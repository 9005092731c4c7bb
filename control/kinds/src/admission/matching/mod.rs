//! Which requests webhooks and policies are for: rules, selectors, the versions in which the same objects are served, and the request as it is
//! shown to whom it matters. It knows neither webhooks nor policies.

mod about;
mod criteria;
mod rule;
mod shown;

pub(crate) use about::{About, same};
pub(crate) use criteria::Criteria;
pub(crate) use rule::is_exempt_from_policies;
pub use rule::{Request, Served, is_exempt};
pub(crate) use shown::shown;
