//! `batch`: pods that run to completion.

pub(crate) mod cronjob;
pub(crate) mod job;
