//! In-flight limits: how many requests are worked on at a time. Long-running requests and parts of this process are not counted; a
//! request that finds no room is refused at once, so that no queue grows.

use crate::{
    request::{Query, RequestInfo},
    server::Caller,
};
use api::Status;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests that change nothing.
const READING: usize = 400;
/// Requests that may change something.
const MUTATING: usize = 200;

/// The two limits.
pub(crate) struct Limits {
    reading: Arc<Semaphore>,
    mutating: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { reading: Arc::new(Semaphore::new(READING)), mutating: Arc::new(Semaphore::new(MUTATING)) }
    }
}

impl Limits {
    /// Room for a request, held until it is answered, or 429.
    pub(crate) fn enter(
        &self,
        caller: &Caller,
        info: &RequestInfo,
        query: &Query,
    ) -> Result<Option<OwnedSemaphorePermit>, Status> {
        if matches!(caller, Caller::Process(_)) || info.is_long_running(query) || !info.is_resource {
            return Ok(None);
        }
        let limit = if matches!(info.verb.as_str(), "get" | "list") { &self.reading } else { &self.mutating };
        match limit.clone().try_acquire_owned() {
            Ok(permit) => Ok(Some(permit)),
            Err(_) => Err(Status::too_many_requests("Too many requests, please try again later.", 1)),
        }
    }
}
