//! How much is worked on at a time. Parts of this process are not counted. `system:masters` and the components have room of their own,
//! which nobody else can use up; each other user has a share, and all of them together a room. What finds no place is refused at once
//! with 429, so that no queue grows. Long-running requests (watches, logs that are followed) count for the share of their user only.
//! Places are held until the answer has been sent or dropped: an answer that nobody reads is there all the same. Answers that are
//! built whole share a budget of bytes.

use crate::{User, body::too_many, caller::Caller, codec::HEAVY};
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

/// Requests that change nothing: of the unrestricted, and of all others.
const READING: (usize, usize) = (400, 200);
/// Requests that may change something, likewise.
const MUTATING: (usize, usize) = (200, 100);
/// Requests of one restricted user, from authorization to the end of the answer.
const SHARE: usize = 50;
/// Long-running requests of one restricted user. A DaemonSet's pods share an account and watch a few resources each.
const WATCHES: usize = 1_000;
/// Bodies of restricted users, bytes.
const BODIES: usize = 64 << 20;

/// Requests with a heavy body that are worked on at a time, of all restricted users. The others wait their turn: they take no thread from
/// anybody meanwhile.
const HEAVY_TURNS: usize = 2;

/// Answers that are built whole, of everybody, KiB.
const WHOLE: usize = 256 << 10;
/// What a JSON answer costs while it is parsed and written anew, in its own sizes.
const REWRITTEN: usize = 8;
/// Answers up to this length, bytes, are bounded well enough by their number.
const SMALL: usize = 256 << 10;

/// What a request counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Counts for nothing: health may always be asked.
    Health,
    /// A watch, a log that is followed.
    LongRunning,
    /// Changes nothing.
    Reading,
    /// May change something.
    Mutating,
}

/// The rooms.
pub(crate) struct Limits {
    reading: (Arc<Semaphore>, Arc<Semaphore>),
    mutating: (Arc<Semaphore>, Arc<Semaphore>),
    bodies: Arc<Semaphore>,
    heavy: Arc<Semaphore>,
    whole: Arc<Semaphore>,
    users: Users,
    /// Whose requests no share bounds.
    exempt: fn(&User) -> bool,
}

/// Requests under way by user, short and long-running ones apart.
type Users = Arc<Mutex<HashMap<(String, bool), usize>>>;

impl Limits {
    pub(crate) fn new(exempt: fn(&User) -> bool) -> Self {
        let room = |(own, others)| (Arc::new(Semaphore::new(own)), Arc::new(Semaphore::new(others)));
        Self {
            reading: room(READING),
            mutating: room(MUTATING),
            bodies: Arc::new(Semaphore::new(BODIES)),
            heavy: Arc::new(Semaphore::new(HEAVY_TURNS)),
            whole: Arc::new(Semaphore::new(WHOLE)),
            users: Users::default(),
            exempt,
        }
    }
}

/// A place in a user's share.
pub(crate) struct Share {
    users: Users,
    key: (String, bool),
}

impl Drop for Share {
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
    /// A place in the share of the user, to be held until the answer has been sent, or 429.
    pub(crate) fn share(&self, caller: &Caller, user: &User, class: Class) -> Result<Option<Share>, Status> {
        if matches!(caller, Caller::Process(_)) || (self.exempt)(user) || class == Class::Health {
            return Ok(None);
        }
        let long = class == Class::LongRunning;
        let key = (user.name.clone(), long);
        let mut users = self.users.lock();
        let count = users.entry(key.clone()).or_default();
        if *count >= if long { WATCHES } else { SHARE } {
            return Err(too_many());
        }
        *count += 1;
        Ok(Some(Share { users: self.users.clone(), key }))
    }

    /// The room for the bodies of a request with a share.
    pub(crate) fn bodies(&self, share: Option<&Share>) -> Option<&Arc<Semaphore>> {
        share.map(|_| &self.bodies)
    }

    /// Waits for the turn of a request with a body of so many bytes, to be kept until the request is done. Without a share, or with a light
    /// body, there is nothing to wait for.
    pub(crate) fn heavy(
        &self,
        share: Option<&Share>,
        bytes: usize,
    ) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send + use<> {
        let turns = share.filter(|_| bytes >= HEAVY).map(|_| self.heavy.clone());
        async move { turns?.acquire_owned().await.ok() }
    }

    /// Room in memory for building an answer whole that is made of so many bytes of JSON, to be given to [`keep`], or 429. What is larger
    /// than all of it takes all of it; small answers need none.
    pub(crate) fn whole(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Status> {
        if bytes <= SMALL {
            return Ok(None);
        }
        let size = bytes.saturating_mul(REWRITTEN).div_ceil(1024).min(WHOLE);
        let size = u32::try_from(size).expect("at most a small constant");
        self.whole.clone().try_acquire_many_owned(size).map(Some).map_err(|_| too_many())
    }

    /// Room for a request whose body is there, to be held until the answer has been sent, or 429.
    pub(crate) fn enter(
        &self,
        caller: &Caller,
        share: Option<&Share>,
        class: Class,
    ) -> Result<Option<OwnedSemaphorePermit>, Status> {
        let rooms = match class {
            _ if matches!(caller, Caller::Process(_)) => return Ok(None),
            Class::Health | Class::LongRunning => return Ok(None),
            Class::Reading => &self.reading,
            Class::Mutating => &self.mutating,
        };
        let room = if share.is_some() { &rooms.1 } else { &rooms.0 };
        room.clone().try_acquire_owned().map(Some).map_err(|_| too_many())
    }
}

/// The answer, holding something until its end.
pub(crate) fn hold<T: Send + Unpin + 'static>(response: Response<Body>, held: Option<T>) -> Response<Body> {
    match held {
        Some(held) => response.map(|body| Body::new(Held { body, _held: held })),
        None => response,
    }
}

/// An answer that was built whole: of the room for building it, it holds until its end what it takes itself.
pub(crate) fn keep(response: Response<Body>, room: Option<OwnedSemaphorePermit>) -> Response<Body> {
    let size = usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX).div_ceil(1024);
    let kept = room.map(|mut room| {
        drop(room.split(room.num_permits().saturating_sub(size)));
        room
    });
    hold(response, kept)
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
        for (class, most) in [(Class::Mutating, SHARE), (Class::LongRunning, WATCHES), (Class::Reading, SHARE)] {
            let take = |user: &User| limits.share(&NETWORK, user, class);
            let mut held: Vec<_> = (0..most).map(|_| take(&jane).expect("a place")).collect();
            assert_eq!(take(&jane).map(|_| ()).expect_err("no place").code, 429, "{class:?}");
            take(&john).expect("a place of his own");
            held.pop();
            take(&jane).expect("a place again");
            for user in [&admin, &scheduler] {
                assert!((0..2 * most).all(|_| matches!(take(user), Ok(None))), "{} {class:?}", user.name);
            }
            assert!(matches!(limits.share(&NETWORK, &jane, Class::Health), Ok(None)));
        }
        assert!(limits.users.lock().is_empty(), "nobody is remembered");
    }

    #[test]
    fn others_cannot_use_up_the_room_of_masters() {
        let limits = Limits::new(exempt);
        let jane = User::new("jane", &["system:authenticated"]);
        let share = limits.share(&NETWORK, &jane, Class::Reading).expect("a place");
        let enter = |share: Option<&Share>| limits.enter(&NETWORK, share, Class::Reading);
        let held: Vec<_> = (0..READING.1).map(|_| enter(share.as_ref()).expect("room")).collect();
        assert_eq!(enter(share.as_ref()).expect_err("no room").code, 429);
        assert!(enter(None).is_ok());
        assert!(matches!(limits.enter(&NETWORK, share.as_ref(), Class::Health), Ok(None)));
        assert!(matches!(limits.enter(&NETWORK, share.as_ref(), Class::Mutating), Ok(Some(_))));
        drop(held);
        assert!(enter(share.as_ref()).is_ok());
    }

    #[tokio::test]
    async fn heavy_bodies_of_others_take_turns_and_nobody_else_waits_for_them() {
        let limits = Limits::new(exempt);
        let share = limits.share(&NETWORK, &User::new("jane", &[]), Class::Mutating).expect("a place");
        let mut turns = Vec::new();
        for _ in 0..HEAVY_TURNS {
            turns.push(limits.heavy(share.as_ref(), HEAVY).await.expect("a turn"));
        }
        let mut next = std::pin::pin!(limits.heavy(share.as_ref(), HEAVY));
        assert!(futures::poll!(&mut next).is_pending());
        assert!(limits.heavy(share.as_ref(), HEAVY - 1).await.is_none(), "a light one");
        assert!(limits.heavy(None, usize::MAX).await.is_none(), "masters and components");
        turns.pop();
        assert!(futures::poll!(&mut next).is_ready());
    }

    #[test]
    fn what_is_built_whole_takes_room_until_it_is_gone_and_the_largest_takes_all() {
        let limits = Limits::new(exempt);
        let free = || limits.whole.available_permits();
        let all = limits.whole(usize::MAX).expect("room");
        assert_eq!(limits.whole(SMALL + 1).expect_err("no room").code, 429);
        assert!(matches!(limits.whole(SMALL), Ok(None)), "small ones need none");
        let answer = keep(Response::new(Body::from(vec![0; 5000])), all);
        assert_eq!(free(), WHOLE - 5, "what was needed for building only is given back");
        drop(answer);
        assert_eq!(free(), WHOLE);
    }
}
