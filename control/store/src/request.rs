//! Writes on their way to the one task that makes changes, and its answers.

use crate::{Bytes, Error, Event, Expect, LogError};
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// A write, and on which condition it happens. Nothing is deleted that is not there: that is a conflict too.
#[derive(Clone, Debug)]
pub struct Write {
    /// The key.
    pub key: Arc<str>,
    /// The condition.
    pub expect: Expect,
    /// The new bytes; `None` deletes the key.
    pub value: Option<Bytes>,
    /// After which time the key is to be deleted.
    pub ttl: Option<Duration>,
}

/// Sends the result of a write to its caller: the change, or the error.
pub(crate) type Reply<T> = oneshot::Sender<Result<Event<T>, Error<T>>>;

pub(crate) enum Request<T> {
    Write(Write, Reply<T>),
    Close(oneshot::Sender<Result<(), LogError>>),
}

/// An answer that is sent when everything it tells of is durable and published.
pub(crate) struct Answer<T> {
    pub(crate) reply: Reply<T>,
    pub(crate) result: Result<Event<T>, Error<T>>,
}

impl<T> Answer<T> {
    pub(crate) fn send(self) {
        drop(self.reply.send(self.result)); // a caller that no longer waits has dropped its end
    }

    /// Answers with an error instead. What is refused anyway stays refused for its own reason, but tells nothing unpublished.
    pub(crate) fn fail(self, error: Error<T>) {
        drop(self.reply.send(Err(error)));
    }
}
