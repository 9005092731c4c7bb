//! `batch`: pods that run to their end.

pub(crate) mod job;
