//! Write requests to the task that makes changes, and their results.

use crate::{Bytes, Error, Event, Expect, LogError};
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// A conditional write. Deleting a key that does not exist is a conflict.
#[derive(Clone, Debug)]
pub struct Write {
    /// The key.
    pub key: Arc<str>,
    /// The condition.
    pub expect: Expect,
    /// The new bytes. `None` deletes the key.
    pub value: Option<Bytes>,
    /// The time to live of the key.
    pub ttl: Option<Duration>,
}

/// A write, and others with which it happens or does not happen. Each key is written once.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The write that is answered. Where each has a revision of its own, it has the last.
    pub write: Write,
    /// The others.
    pub with: Vec<Write>,
}

/// Sends the result to the caller: the event, or the error.
pub(crate) type Reply<T> = oneshot::Sender<Result<Event<T>, Error<T>>>;

pub(crate) enum Request<T> {
    Write(Transaction, Reply<T>),
    Close(oneshot::Sender<Result<(), LogError>>),
}

/// A result that is sent when everything it refers to is durable and published.
pub(crate) struct Answer<T> {
    pub(crate) reply: Reply<T>,
    pub(crate) result: Result<Event<T>, Error<T>>,
}

impl<T> Answer<T> {
    pub(crate) fn send(self) {
        drop(self.reply.send(self.result)); // a caller that no longer waits has dropped its end
    }

    /// Replaces the result by an error. A refused write keeps its own error, unless it would reveal unpublished data.
    pub(crate) fn fail(self, error: Error<T>) {
        drop(self.reply.send(Err(error)));
    }
}
