//! resource.k8s.io: devices, the classes of them, who has them, and who claims them.

mod capacity;
mod claims;
mod config;
mod device;
pub(crate) mod deviceclass;
mod lists;
mod names;
pub(crate) mod resourceclaim;
pub(crate) mod resourceclaimtemplate;
pub(crate) mod resourceslice;
mod status;
mod taints;

#[cfg(test)]
mod claims_tests;
#[cfg(test)]
mod slices_tests;

const GROUP: &str = "resource.k8s.io";
