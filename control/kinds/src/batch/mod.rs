//! `batch`: pods that run to completion.

pub(crate) mod job;
