//! Writes on their way to the one task that makes changes, and its answers.

use crate::{Bytes, Entry, Error, Expect, LogError, Revision};
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

type PutReply<T> = oneshot::Sender<Result<Arc<Entry<T>>, Error<T>>>;
type DeleteReply<T> = oneshot::Sender<Result<(Revision, Arc<Entry<T>>), Error<T>>>;

pub(crate) enum Request<T> {
    Put { key: Arc<str>, expect: Expect, value: Bytes, ttl: Option<Duration>, reply: PutReply<T> },
    Delete { key: Arc<str>, expect: Expect, reply: DeleteReply<T> },
    Close { reply: oneshot::Sender<Result<(), LogError>> },
}

/// An answer that is sent when everything it tells of is durable and published.
pub(crate) enum Answer<T> {
    Put(PutReply<T>, Result<Arc<Entry<T>>, Error<T>>),
    Delete(DeleteReply<T>, Result<(Revision, Arc<Entry<T>>), Error<T>>),
}

impl<T> Answer<T> {
    pub(crate) fn send(self) {
        // A caller that no longer waits has dropped its end.
        match self {
            Answer::Put(reply, result) => drop(reply.send(result)),
            Answer::Delete(reply, result) => drop(reply.send(result)),
        }
    }

    /// Answers with an error instead. What is refused anyway stays refused for its own reason, but tells nothing unpublished.
    pub(crate) fn fail(self, error: Error<T>) {
        match self {
            Answer::Put(reply, _) => drop(reply.send(Err(error))),
            Answer::Delete(reply, _) => drop(reply.send(Err(error))),
        }
    }
}
