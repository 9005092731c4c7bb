//! APIServices: whether each is available, and those of custom resources. In upstream both are parts of the API server, so that they always run.
//!
//! Follows upstream's `kube-aggregator/pkg/controllers/status`, `autoregister` and `crdregistration`.

mod availability;
mod plan;
mod registration;

pub(crate) use availability::AvailabilityController;
pub(crate) use registration::RegistrationController;
