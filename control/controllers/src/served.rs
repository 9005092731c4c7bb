//! What is served, for controllers of objects of any kind.

use api::Clock;
use client::{
    Client, Error,
    discovery::{self, Resource},
};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;

/// How long discovery is believed. Upstream's mapper forgets as often.
const FRESH: SignedDuration = SignedDuration::from_secs(30);

/// The served resources, discovered when somebody asks and again after a while.
pub(crate) struct Served {
    client: Client,
    clock: Clock,
    known: Mutex<Option<(Timestamp, Arc<Vec<Resource>>)>>,
}

impl Served {
    /// Nothing is known yet.
    pub(crate) fn new(client: Client, clock: Clock) -> Self {
        Self { client, clock, known: Mutex::default() }
    }

    /// All of them.
    ///
    /// # Errors
    /// The API does not answer.
    pub(crate) async fn resources(&self) -> Result<Arc<Vec<Resource>>, Error> {
        let now = self.clock.now();
        let fresh = |(at, _): &&(Timestamp, Arc<Vec<Resource>>)| now.duration_since(*at) < FRESH;
        if let Some((_, known)) = self.known.lock().as_ref().filter(fresh) {
            return Ok(known.clone());
        }
        let known = Arc::new(discovery::resources(&self.client).await?.resources);
        *self.known.lock() = Some((now, known.clone()));
        Ok(known)
    }
}
