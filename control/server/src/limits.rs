//! In-flight limits. Requests of this process are not counted. `system:masters` and the components have seats of their own, which no
//! other user can use up; each other user has a limit, and all of them together have another one. A request without a free seat is
//! refused at once with 429, so that no queue grows. Long-running requests (watches, followed logs) count against the limit of their
//! user only. A seat is held until the response has been sent or dropped, because an unread response costs memory too. Responses that
//! are built in memory as a whole draw on one budget of bytes.

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

/// Concurrent read-only requests: of exempt users, and of all others together.
const READ_ONLY_IN_FLIGHT: (usize, usize) = (400, 200);
/// Concurrent mutating requests, likewise.
const MUTATING_IN_FLIGHT: (usize, usize) = (200, 100);
/// Concurrent requests of one user who is not exempt, from authorization to the end of the response.
const USER_IN_FLIGHT: usize = 50;
/// Concurrent long-running requests of one user who is not exempt. The pods of a DaemonSet share an account and watch a few resources each.
const USER_LONG_RUNNING: usize = 1_000;
/// Request bodies of all users who are not exempt, bytes.
const BODY_MEMORY: usize = 64 << 20;
/// Concurrent requests with an expensive body, of all users who are not exempt. Further ones wait, without a thread.
const EXPENSIVE_DECODES: usize = 2;

/// Responses that are built in memory as a whole, of all users, KiB.
const RESPONSE_MEMORY: usize = 256 << 10;
/// Memory that a JSON response takes while it is parsed and rewritten, as a multiple of its length.
const REWRITE_FACTOR: usize = 8;
/// Responses up to this length, bytes, do not draw on [`RESPONSE_MEMORY`]: the in-flight limits bound them well enough.
const UNCOUNTED_RESPONSE: usize = 256 << 10;

/// How a request is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Not counted: health checks are always answered.
    Health,
    /// A watch, a followed log.
    LongRunning,
    /// Changes nothing.
    ReadOnly,
    /// May change something.
    Mutating,
}

/// The in-flight limits of a server.
pub(crate) struct Limits {
    read_only: (Arc<Semaphore>, Arc<Semaphore>),
    mutating: (Arc<Semaphore>, Arc<Semaphore>),
    body_memory: Arc<Semaphore>,
    decodes: Arc<Semaphore>,
    response_memory: Arc<Semaphore>,
    users: Users,
    /// Whether a user has no limit.
    exempt: fn(&User) -> bool,
}

/// Requests in flight by user name and by whether they are long-running.
type Users = Arc<Mutex<HashMap<(String, bool), usize>>>;

impl Limits {
    pub(crate) fn new(exempt: fn(&User) -> bool) -> Self {
        let room = |(own, others)| (Arc::new(Semaphore::new(own)), Arc::new(Semaphore::new(others)));
        Self {
            read_only: room(READ_ONLY_IN_FLIGHT),
            mutating: room(MUTATING_IN_FLIGHT),
            body_memory: Arc::new(Semaphore::new(BODY_MEMORY)),
            decodes: Arc::new(Semaphore::new(EXPENSIVE_DECODES)),
            response_memory: Arc::new(Semaphore::new(RESPONSE_MEMORY)),
            users: Users::default(),
            exempt,
        }
    }
}

/// One request that counts against the limit of its user, until it is dropped.
pub(crate) struct UserSeat {
    users: Users,
    key: (String, bool),
}

impl Drop for UserSeat {
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
    /// Counts a request against the limit of its user, or answers 429. `None` where no limit applies. The seat is held until the response
    /// has been sent.
    pub(crate) fn take_user_seat(
        &self,
        caller: &Caller,
        user: &User,
        class: Class,
    ) -> Result<Option<UserSeat>, Status> {
        if matches!(caller, Caller::Process(_)) || (self.exempt)(user) || class == Class::Health {
            return Ok(None);
        }
        let long = class == Class::LongRunning;
        let key = (user.name.clone(), long);
        let mut users = self.users.lock();
        let count = users.entry(key.clone()).or_default();
        if *count >= if long { USER_LONG_RUNNING } else { USER_IN_FLIGHT } {
            return Err(too_many_requests());
        }
        *count += 1;
        Ok(Some(UserSeat { users: self.users.clone(), key }))
    }

    /// The memory for the body of a request whose user has a limit.
    pub(crate) fn body_memory(&self, seat: Option<&UserSeat>) -> Option<&Arc<Semaphore>> {
        seat.map(|_| &self.body_memory)
    }

    /// Waits until a body of so many bytes may be decoded; the permit is held until the request is done. `None` at once for an exempt user
    /// or a body that is not expensive.
    pub(crate) fn wait_to_decode(
        &self,
        seat: Option<&UserSeat>,
        bytes: usize,
    ) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send + use<> {
        let turns = seat.filter(|_| bytes >= EXPENSIVE_BODY).map(|_| self.decodes.clone());
        async move { turns?.acquire_owned().await.ok() }
    }

    /// Reserves memory for a response that is built as a whole from so many bytes of JSON, or answers 429. The reservation is given to
    /// [`hold_memory_until_sent`]. A response that is larger than the budget takes all of it; a small one takes none.
    pub(crate) fn reserve_response_memory(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Status> {
        if bytes <= UNCOUNTED_RESPONSE {
            return Ok(None);
        }
        let size = bytes.saturating_mul(REWRITE_FACTOR).div_ceil(1024).min(RESPONSE_MEMORY);
        let size = u32::try_from(size).expect("at most a small constant");
        self.response_memory.clone().try_acquire_many_owned(size).map(Some).map_err(|_| too_many_requests())
    }

    /// Counts a request whose body has arrived against the in-flight limits, or answers 429. The permit is held until the response has been
    /// sent.
    pub(crate) fn take_seat(
        &self,
        caller: &Caller,
        seat: Option<&UserSeat>,
        class: Class,
    ) -> Result<Option<OwnedSemaphorePermit>, Status> {
        let rooms = match class {
            _ if matches!(caller, Caller::Process(_)) => return Ok(None),
            Class::Health | Class::LongRunning => return Ok(None),
            Class::ReadOnly => &self.read_only,
            Class::Mutating => &self.mutating,
        };
        let room = if seat.is_some() { &rooms.1 } else { &rooms.0 };
        room.clone().try_acquire_owned().map(Some).map_err(|_| too_many_requests())
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

    fn exempt(user: &User) -> bool {
        user.in_group("system:masters") || user.name == "system:kube-scheduler"
    }

    const NETWORK: Caller = Caller::Network { certificate: None };

    #[test]
    fn a_user_has_a_share_and_masters_and_components_have_no_bounds() {
        let limits = Limits::new(exempt);
        let admin = User::new("admin", &["system:masters"]);
        let scheduler = User::new("system:kube-scheduler", &[]);
        let jane = User::new("jane", &["system:authenticated"]);
        let john = User::new("john", &["system:authenticated"]);
        for (class, most) in [
            (Class::Mutating, USER_IN_FLIGHT),
            (Class::LongRunning, USER_LONG_RUNNING),
            (Class::ReadOnly, USER_IN_FLIGHT),
        ] {
            let take = |user: &User| limits.take_user_seat(&NETWORK, user, class);
            let mut held: Vec<_> = (0..most).map(|_| take(&jane).expect("a place")).collect();
            assert_eq!(take(&jane).map(|_| ()).expect_err("no place").code, 429, "{class:?}");
            take(&john).expect("a place of his own");
            held.pop();
            take(&jane).expect("a place again");
            for user in [&admin, &scheduler] {
                assert!((0..2 * most).all(|_| matches!(take(user), Ok(None))), "{} {class:?}", user.name);
            }
            assert!(matches!(limits.take_user_seat(&NETWORK, &jane, Class::Health), Ok(None)));
        }
        assert!(limits.users.lock().is_empty(), "nobody is remembered");
    }

    #[test]
    fn others_cannot_use_up_the_room_of_masters() {
        let limits = Limits::new(exempt);
        let jane = User::new("jane", &["system:authenticated"]);
        let seat = limits.take_user_seat(&NETWORK, &jane, Class::ReadOnly).expect("a place");
        let enter = |seat: Option<&UserSeat>| limits.take_seat(&NETWORK, seat, Class::ReadOnly);
        let held: Vec<_> = (0..READ_ONLY_IN_FLIGHT.1).map(|_| enter(seat.as_ref()).expect("room")).collect();
        assert_eq!(enter(seat.as_ref()).expect_err("no room").code, 429);
        assert!(enter(None).is_ok());
        assert!(matches!(limits.take_seat(&NETWORK, seat.as_ref(), Class::Health), Ok(None)));
        assert!(matches!(limits.take_seat(&NETWORK, seat.as_ref(), Class::Mutating), Ok(Some(_))));
        drop(held);
        assert!(enter(seat.as_ref()).is_ok());
    }

    #[tokio::test]
    async fn heavy_bodies_of_others_take_turns_and_nobody_else_waits_for_them() {
        let limits = Limits::new(exempt);
        let seat = limits.take_user_seat(&NETWORK, &User::new("jane", &[]), Class::Mutating).expect("a place");
        let mut turns = Vec::new();
        for _ in 0..EXPENSIVE_DECODES {
            turns.push(limits.wait_to_decode(seat.as_ref(), EXPENSIVE_BODY).await.expect("a turn"));
        }
        let mut next = std::pin::pin!(limits.wait_to_decode(seat.as_ref(), EXPENSIVE_BODY));
        assert!(futures::poll!(&mut next).is_pending());
        assert!(limits.wait_to_decode(seat.as_ref(), EXPENSIVE_BODY - 1).await.is_none(), "a light one");
        assert!(limits.wait_to_decode(None, usize::MAX).await.is_none(), "masters and components");
        turns.pop();
        assert!(futures::poll!(&mut next).is_ready());
    }

    #[test]
    fn what_is_built_whole_takes_room_until_it_is_gone_and_the_largest_takes_all() {
        let limits = Limits::new(exempt);
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
