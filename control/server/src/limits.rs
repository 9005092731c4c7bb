//! Limits of memory and connections. Which requests are served at the same time is decided by [`crate::fairness`]; here is what a client may make
//! the server hold besides. Requests of this process and of users who are trusted (`system:masters`, the components) are not counted. Each other
//! user has a limit of long-running requests (watches, followed logs), and of bodies that are on their way or large: what waits for its turn must not
//! fill the memory for the bodies of others. Without a free place a request is refused at once with 429. Responses that are built in memory as a
//! whole draw on one budget of bytes.

use crate::{User, body::too_many_requests, caller::Caller, codec::EXPENSIVE_BODY};
use api::Status;
use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Concurrent bodies of one user who is not trusted, from their first byte to the last; a large one until its request has been served.
const USER_BODIES: usize = 50;
/// Concurrent long-running requests of one user who is not trusted. The pods of a DaemonSet share an account and watch a few resources each.
const USER_LONG_RUNNING: usize = 1_000;
/// Request bodies of all users who are not trusted, bytes.
const BODY_MEMORY: usize = 64 << 20;
/// Concurrent requests with an expensive body, of all users who are not trusted. Further ones wait, without a thread.
const EXPENSIVE_DECODES: usize = 2;

/// Responses that are built in memory as a whole, of all users, KiB.
const RESPONSE_MEMORY: usize = 256 << 10;
/// Memory that a JSON response takes while it is parsed and rewritten, as a multiple of its length.
const REWRITE_FACTOR: usize = 8;
/// Responses up to this length, bytes, do not draw on [`RESPONSE_MEMORY`]: the seats of all requests bound them well enough.
const UNCOUNTED_RESPONSE: usize = 256 << 10;

/// What a user has a limited number of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// Bodies.
    Body,
    /// Watches, followed logs.
    LongRunning,
}

/// The limits of a server.
pub(crate) struct Limits {
    body_memory: Arc<Semaphore>,
    decodes: Arc<Semaphore>,
    response_memory: Arc<Semaphore>,
    users: Users,
    /// Whether a user has no limit.
    trusted: fn(&User) -> bool,
}

/// What each user has.
type Users = Arc<Mutex<HashMap<(String, Place), usize>>>;

impl Limits {
    pub(crate) fn new(trusted: fn(&User) -> bool) -> Self {
        Self {
            body_memory: Arc::new(Semaphore::new(BODY_MEMORY)),
            decodes: Arc::new(Semaphore::new(EXPENSIVE_DECODES)),
            response_memory: Arc::new(Semaphore::new(RESPONSE_MEMORY)),
            users: Users::default(),
            trusted,
        }
    }
}

/// A place that counts against the limit of its user, until it is dropped.
pub(crate) struct UserPlace {
    users: Users,
    key: (String, Place),
}

impl Drop for UserPlace {
    fn drop(&mut self) {
        let mut users = self.users.lock();
        if let Some(count) = users.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.key);
            }
        }
    }
}

impl Limits {
    /// Whether the requests of a caller have no limit.
    pub(crate) fn is_trusted(&self, caller: &Caller, user: &User) -> bool {
        matches!(caller, Caller::Process(_)) || (self.trusted)(user)
    }

    /// Counts against the limit of a user who is not trusted, or answers 429.
    pub(crate) fn take_place(&self, user: &User, place: Place) -> Result<UserPlace, Status> {
        let key = (user.name.clone(), place);
        let mut users = self.users.lock();
        let count = users.entry(key.clone()).or_default();
        let most = match place {
            Place::Body => USER_BODIES,
            Place::LongRunning => USER_LONG_RUNNING,
        };
        if *count >= most {
            return Err(too_many_requests());
        }
        *count += 1;
        Ok(UserPlace { users: self.users.clone(), key })
    }

    /// The memory for the bodies of users who are not trusted.
    pub(crate) fn body_memory(&self) -> &Arc<Semaphore> {
        &self.body_memory
    }

    /// Waits until a body of so many bytes may be decoded; the permit is held until the request is done. `None` at once for a user who is trusted
    /// or a body that is not expensive.
    pub(crate) fn wait_to_decode(
        &self,
        trusted: bool,
        bytes: usize,
    ) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send + use<> {
        let turns = (!trusted && bytes >= EXPENSIVE_BODY).then(|| self.decodes.clone());
        async move { turns?.acquire_owned().await.ok() }
    }

    /// Reserves memory for a response that is built as a whole from so many bytes of JSON, or answers 429. The reservation is given to
    /// [`hold_memory_until_sent`]. A response that is larger than the budget takes all of it; a small one takes none.
    pub(crate) fn reserve_response_memory(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Status> {
        self.reserve(bytes, REWRITE_FACTOR)
    }

    /// As [`Limits::reserve_response_memory`], for a response that is made item by item and is no longer than the JSON.
    pub(crate) fn reserve_encoded_memory(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Status> {
        self.reserve(bytes, 1)
    }

    fn reserve(&self, bytes: usize, factor: usize) -> Result<Option<OwnedSemaphorePermit>, Status> {
        if bytes <= UNCOUNTED_RESPONSE {
            return Ok(None);
        }
        let size = bytes.saturating_mul(factor).div_ceil(1024).min(RESPONSE_MEMORY);
        let size = u32::try_from(size).expect("at most a small constant");
        self.response_memory.clone().try_acquire_many_owned(size).map(Some).map_err(|_| too_many_requests())
    }
}

/// Ties a value to a response: the value is dropped when the response has been sent or dropped.
pub(crate) fn hold_until_sent<T: Send + Unpin + 'static>(response: Response<Body>, held: Option<T>) -> Response<Body> {
    match held {
        Some(held) => response.map(|body| Body::new(Held { body, _held: held })),
        None => response,
    }
}

/// Shrinks the reservation of a response that was built as a whole to its length, and ties the reservation to the response.
pub(crate) fn hold_memory_until_sent(response: Response<Body>, room: Option<OwnedSemaphorePermit>) -> Response<Body> {
    let size = usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX).div_ceil(1024);
    let kept = room.map(|mut room| {
        drop(room.split(room.num_permits().saturating_sub(size)));
        room
    });
    hold_until_sent(response, kept)
}

struct Held<T> {
    body: Body,
    _held: T,
}

impl<T: Send + Unpin + 'static> http_body::Body for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(user: &User) -> bool {
        user.in_group("system:masters") || user.name == "system:kube-scheduler"
    }

    const NETWORK: Caller = Caller::Network { certificate: None };

    #[test]
    fn a_user_has_a_share_and_masters_and_components_have_no_bounds() {
        let limits = Limits::new(trusted);
        let admin = User::new("admin", &["system:masters"]);
        let scheduler = User::new("system:kube-scheduler", &[]);
        let jane = User::new("jane", &["system:authenticated"]);
        let john = User::new("john", &["system:authenticated"]);
        for (place, most) in [(Place::Body, USER_BODIES), (Place::LongRunning, USER_LONG_RUNNING)] {
            let take = |user: &User| limits.take_place(user, place);
            let mut held: Vec<_> = (0..most).map(|_| take(&jane).expect("a place")).collect();
            assert_eq!(take(&jane).map(|_| ()).expect_err("no place").code, 429, "{place:?}");
            take(&john).expect("a place of his own");
            held.pop();
            take(&jane).expect("a place again");
        }
        assert!(limits.users.lock().is_empty(), "nobody is remembered");
        for (user, expected) in [(&admin, true), (&scheduler, true), (&jane, false)] {
            assert_eq!(limits.is_trusted(&NETWORK, user), expected, "{}", user.name);
        }
        assert!(limits.is_trusted(&Caller::Process(Arc::new(jane.clone())), &jane));
    }

    #[tokio::test]
    async fn heavy_bodies_of_others_take_turns_and_nobody_else_waits_for_them() {
        let limits = Limits::new(trusted);
        let mut turns = Vec::new();
        for _ in 0..EXPENSIVE_DECODES {
            turns.push(limits.wait_to_decode(false, EXPENSIVE_BODY).await.expect("a turn"));
        }
        let mut next = std::pin::pin!(limits.wait_to_decode(false, EXPENSIVE_BODY));
        assert!(futures::poll!(&mut next).is_pending());
        assert!(limits.wait_to_decode(false, EXPENSIVE_BODY - 1).await.is_none(), "a light one");
        assert!(limits.wait_to_decode(true, usize::MAX).await.is_none(), "masters and components");
        turns.pop();
        assert!(futures::poll!(&mut next).is_ready());
    }

    #[test]
    fn what_is_built_whole_takes_room_until_it_is_gone_and_the_largest_takes_all() {
        let limits = Limits::new(trusted);
        let free = || limits.response_memory.available_permits();
        let all = limits.reserve_response_memory(usize::MAX).expect("room");
        assert_eq!(limits.reserve_response_memory(UNCOUNTED_RESPONSE + 1).expect_err("no room").code, 429);
        assert!(matches!(limits.reserve_response_memory(UNCOUNTED_RESPONSE), Ok(None)), "small ones need none");
        let answer = hold_memory_until_sent(Response::new(Body::from(vec![0; 5000])), all);
        assert_eq!(free(), RESPONSE_MEMORY - 5, "what was needed for building only is given back");
        drop(answer);
        assert_eq!(free(), RESPONSE_MEMORY);
    }
}
