//! Clients of guests: how many are connected, which of them is waited for, and when it is let go. One for the node.
//!
//! Nothing ends because it takes long. What ends is what waits for a client that does nothing: a connection without a first byte, an idle
//! one, a request whose body nobody sends, an answer that nobody reads. When there is no room for another connection, those that have
//! waited for their clients the longest make it.

use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

/// How often those who wait are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How much later than a request its connection is cut, so that the client may read why.
const LATER: Duration = Duration::from_secs(5);

/// Of those who wait for their clients when there is no room, how many are let go at once: looking at all of them takes a moment.
const SHARE: usize = 64;

/// Bounds of clients.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// Connections to all guests of the node together. Each is a file descriptor.
    pub connections: usize,
    /// Connections to one container.
    pub per_container: usize,
    /// How long a connection may take to its first byte.
    pub first_byte: Duration,
    /// How long it may be without a request.
    pub idle: Duration,
    /// How long a client may leave a body unsent or an answer unread.
    pub stall: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connections: 4096,
            per_container: 4096,
            first_byte: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(60),
        }
    }
}

/// All clients of a node.
pub(crate) struct Clients {
    options: ClientOptions,
    next: AtomicU64,
    connections: Mutex<BTreeMap<u64, Arc<ConnectionState>>>,
    requests: Mutex<BTreeMap<u64, Arc<RequestState>>>,
    some: Notify,
}

impl Clients {
    pub(crate) fn new(options: ClientOptions) -> Arc<Self> {
        Arc::new(Self {
            options,
            next: AtomicU64::new(0),
            connections: Mutex::default(),
            requests: Mutex::default(),
            some: Notify::new(),
        })
    }

    /// Looks after the clients until they are gone for good.
    pub(crate) async fn watch(this: Weak<Self>) {
        loop {
            let Some(clients) = this.upgrade() else { return };
            if clients.is_empty() {
                clients.some.notified().await;
            }
            clients.look(Instant::now());
            let pause = LOOK.min(clients.options.stall / 4);
            drop(clients);
            tokio::time::sleep(pause).await;
        }
    }

    fn is_empty(&self) -> bool {
        self.connections.lock().is_empty() && self.requests.lock().is_empty()
    }

    /// Cuts what has waited too long.
    fn look(&self, now: Instant) {
        for request in self.requests.lock().values() {
            if request.waits().is_some_and(|since| since + self.options.stall <= now) {
                request.cut.cancel();
            }
        }
        for connection in self.connections.lock().values() {
            if connection.waits().is_some_and(|(since, wait)| since + wait.limit(&self.options) <= now) {
                connection.cut.cancel();
            }
        }
    }

    /// Takes in a connection of the container that `owner` names. `None` when there is no room, and nobody waits for a client.
    pub(crate) fn connect(self: &Arc<Self>, owner: usize) -> Option<Connection> {
        let mut all = self.connections.lock();
        let open = |of: Option<usize>| {
            all.values().filter(|it| !it.cut.is_cancelled() && of.is_none_or(|of| of == it.owner)).collect::<Vec<_>>()
        };
        let crowd = match (all.len() >= self.options.per_container).then(|| open(Some(owner))) {
            Some(mine) if mine.len() >= self.options.per_container => Some(mine),
            _ if all.len() >= self.options.connections => {
                Some(open(None)).filter(|all| all.len() >= self.options.connections)
            }
            _ => None,
        };
        if let Some(crowd) = crowd {
            let count = (crowd.len() / SHARE).max(1);
            let mut waiting: Vec<_> = crowd.into_iter().filter_map(|it| Some((it.waits()?.0, it))).collect();
            if waiting.is_empty() {
                return None;
            }
            waiting.sort_by_key(|(since, _)| *since);
            waiting.iter().take(count).for_each(|(_, connection)| connection.cut.cancel());
        }
        let id = self.next.fetch_add(1, Relaxed);
        let state = Arc::new(ConnectionState {
            owner,
            cut: CancellationToken::new(),
            state: Mutex::new(Activity { requests: 0, stalled: 0, since: Instant::now(), blocked: None, heard: false }),
        });
        all.insert(id, state.clone());
        drop(all);
        self.some.notify_one();
        Some(Connection { id, state, clients: self.clone() })
    }

    /// A request to the container that `owner` names, over a connection or by a call.
    pub(crate) fn request(self: &Arc<Self>, owner: usize, connection: Option<&Connection>) -> Request {
        let connection = connection.map(|it| it.state.clone());
        if let Some(connection) = &connection {
            connection.change(|it| it.requests += 1);
        }
        let id = self.next.fetch_add(1, Relaxed);
        let state = Arc::new(RequestState {
            owner,
            connection,
            cut: CancellationToken::new(),
            wait: Mutex::new(Wait { unsent: None, untaken: None, begun: false }),
        });
        self.requests.lock().insert(id, state.clone());
        self.some.notify_one();
        Request { id, state, clients: self.clone() }
    }

    /// Memory is short in a container: cuts its request that has waited the longest for its client, if for `patience` at least.
    pub(crate) fn relieve(&self, owner: usize, patience: Duration) {
        let requests = self.requests.lock();
        let mine = requests.values().filter(|it| it.owner == owner && !it.cut.is_cancelled());
        let longest = mine.filter_map(|it| Some((it.waits()?, it))).min_by_key(|(since, _)| *since);
        if let Some((_, request)) = longest.filter(|(since, _)| since.elapsed() >= patience) {
            request.cut.cancel();
        }
    }
}

/// What a connection waits for.
enum Pause {
    FirstByte,
    Request,
    /// All its requests wait for the client.
    Requests,
    /// The client takes no bytes.
    Write,
}

impl Pause {
    fn limit(&self, options: &ClientOptions) -> Duration {
        match self {
            Self::FirstByte => options.first_byte,
            Self::Request => options.idle,
            Self::Requests => options.stall + LATER,
            Self::Write => options.stall,
        }
    }
}

struct ConnectionState {
    owner: usize,
    cut: CancellationToken,
    state: Mutex<Activity>,
}

struct Activity {
    requests: usize,
    /// Of the requests, those that wait for the client.
    stalled: usize,
    /// Since when all of them do.
    since: Instant,
    /// Since when the client takes no bytes.
    blocked: Option<Instant>,
    /// There was a first byte.
    heard: bool,
}

impl ConnectionState {
    /// Since when it waits for its client, and for what.
    fn waits(&self) -> Option<(Instant, Pause)> {
        let state = self.state.lock();
        match (state.blocked, state.requests) {
            (Some(since), _) => Some((since, Pause::Write)),
            (None, 0) => Some((state.since, if state.heard { Pause::Request } else { Pause::FirstByte })),
            (None, all) => (state.stalled >= all).then_some((state.since, Pause::Requests)),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Activity)) {
        let mut state = self.state.lock();
        let before = state.stalled >= state.requests;
        change(&mut state);
        if !before && state.stalled >= state.requests {
            state.since = Instant::now();
        }
    }
}

/// An open connection, until dropped.
pub(crate) struct Connection {
    id: u64,
    state: Arc<ConnectionState>,
    clients: Arc<Clients>,
}

impl Connection {
    /// Cancelled when it is to be let go.
    pub(crate) fn cut(&self) -> &CancellationToken {
        &self.state.cut
    }

    /// The client has sent something.
    pub(crate) fn heard(&self) {
        let mut state = self.state.state.lock();
        if !std::mem::replace(&mut state.heard, true) {
            state.since = Instant::now();
        }
    }

    /// The client takes no bytes, or does again.
    pub(crate) fn blocked(&self, blocked: bool) {
        let mut state = self.state.state.lock();
        if blocked != state.blocked.is_some() {
            state.blocked = blocked.then(Instant::now);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.clients.connections.lock().remove(&self.id);
    }
}

struct RequestState {
    owner: usize,
    connection: Option<Arc<ConnectionState>>,
    cut: CancellationToken,
    wait: Mutex<Wait>,
}

struct Wait {
    /// Since when the guest has waited for the next piece of the body.
    unsent: Option<Instant>,
    /// Since when a piece of the answer has not been taken.
    untaken: Option<Instant>,
    /// The answer has begun. Who sends no more from then on may have nothing to say.
    begun: bool,
}

impl Wait {
    fn since(&self) -> Option<Instant> {
        self.untaken.or(self.unsent.filter(|_| !self.begun))
    }
}

impl RequestState {
    fn waits(&self) -> Option<Instant> {
        self.wait.lock().since()
    }

    fn change(&self, change: impl FnOnce(&mut Wait)) {
        let mut wait = self.wait.lock();
        let before = wait.since().is_some();
        change(&mut wait);
        let after = wait.since().is_some();
        drop(wait);
        if let Some(connection) = self.connection.as_ref().filter(|_| before != after) {
            connection.change(|it| it.stalled = if after { it.stalled + 1 } else { it.stalled - 1 });
        }
    }
}

/// A request under way, until dropped.
pub(crate) struct Request {
    id: u64,
    state: Arc<RequestState>,
    clients: Arc<Clients>,
}

impl Request {
    /// Cancelled when its client has done nothing for too long.
    pub(crate) fn cut(&self) -> &CancellationToken {
        &self.state.cut
    }

    /// The guest waits for the next piece of the body, or has got it.
    pub(crate) fn unsent(&self, waits: bool) {
        self.state.change(|it| it.unsent = waits.then(|| it.unsent.unwrap_or_else(Instant::now)));
    }

    /// A piece of the answer is there to be taken, or the client waits for one.
    pub(crate) fn untaken(&self, waits: bool) {
        self.state.change(|it| {
            it.begun = true;
            it.untaken = waits.then(Instant::now);
        });
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.state.change(|it| *it = Wait { unsent: None, untaken: None, begun: true });
        if let Some(connection) = &self.state.connection {
            connection.change(|it| it.requests -= 1);
        }
        self.clients.requests.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn clients(connections: usize, per_container: usize) -> Arc<Clients> {
        let clients = Clients::new(ClientOptions { connections, per_container, ..ClientOptions::default() });
        tokio::spawn(Clients::watch(Arc::downgrade(&clients)));
        clients
    }

    /// The seconds after which something is cut.
    async fn seconds(cut: &CancellationToken) -> u64 {
        let begin = Instant::now();
        assert!(tokio::time::timeout(3600 * SECOND, cut.cancelled()).await.is_ok(), "it is never cut");
        begin.elapsed().as_secs()
    }

    fn lives(cut: &CancellationToken) -> bool {
        !cut.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_does_nothing_is_cut() {
        let clients = clients(100, 100);
        let silent = clients.connect(1).unwrap();
        assert!((10..=11).contains(&seconds(silent.cut()).await));
        let idle = clients.connect(1).unwrap();
        idle.heard();
        assert!((75..=76).contains(&seconds(idle.cut()).await));
        let deaf = clients.connect(1).unwrap();
        let _asked = clients.request(1, Some(&deaf));
        deaf.blocked(true);
        assert!((60..=61).contains(&seconds(deaf.cut()).await));
        // A guest may take its time, for the head and between pieces.
        let patient = clients.connect(1).unwrap();
        patient.heard();
        let request = clients.request(1, Some(&patient));
        tokio::time::sleep(3600 * SECOND).await;
        for _ in 0..3 {
            request.untaken(true);
            tokio::time::sleep(50 * SECOND).await;
            request.untaken(false);
            tokio::time::sleep(3600 * SECOND).await;
        }
        // A client that has got the answer's beginning need not send more.
        request.unsent(true);
        tokio::time::sleep(3600 * SECOND).await;
        assert!(lives(request.cut()) && lives(patient.cut()));
        request.untaken(true);
        assert!((60..=61).contains(&seconds(request.cut()).await));
        assert!((4..=6).contains(&seconds(patient.cut()).await), "the connection a little later");
        drop(request);
        // A body that comes slowly, and one that stops.
        let sending = clients.request(1, None);
        for _ in 0..3 {
            sending.unsent(true);
            tokio::time::sleep(50 * SECOND).await;
            sending.unsent(false);
        }
        assert!(lives(sending.cut()));
        sending.unsent(true);
        tokio::time::sleep(30 * SECOND).await;
        sending.unsent(true);
        assert!((29..=31).contains(&seconds(sending.cut()).await), "asking again is no progress");
    }

    #[tokio::test(start_paused = true)]
    async fn one_stalled_stream_does_not_end_its_connection() {
        let clients = clients(100, 100);
        let connection = clients.connect(1).unwrap();
        connection.heard();
        let (stalled, works) = (clients.request(1, Some(&connection)), clients.request(1, Some(&connection)));
        stalled.untaken(true);
        assert!((60..=61).contains(&seconds(stalled.cut()).await));
        tokio::time::sleep(600 * SECOND).await;
        assert!(lives(works.cut()) && lives(connection.cut()));
        drop(works);
        assert!((65..=66).contains(&seconds(connection.cut()).await), "now nothing goes on there");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_waited_longest_makes_room() {
        let clients = clients(4, 3);
        let working = clients.connect(1).unwrap();
        let request = clients.request(1, Some(&working));
        let (older, newer) = (clients.connect(1).unwrap(), clients.connect(2).unwrap());
        tokio::time::sleep(SECOND).await;
        newer.heard();
        let third = clients.connect(1).unwrap();
        assert!(lives(older.cut()), "there was room");
        let _fourth = clients.connect(1).unwrap();
        assert!(!lives(older.cut()) && lives(third.cut()), "container 1 has three");
        let _other = clients.connect(2).unwrap();
        assert!(!lives(newer.cut()) || !lives(third.cut()), "the node has four");
        assert!(lives(working.cut()), "it waits for its guest");
        // All work: there is no room.
        drop((older, newer, third, _fourth, _other));
        let all: Vec<_> = (3..6).map(|owner| clients.connect(owner).unwrap()).collect();
        let requests: Vec<_> = all.iter().map(|it| clients.request(3, Some(it))).collect();
        assert!(clients.connect(9).is_none());
        requests[1].unsent(true);
        assert!(clients.connect(9).is_some());
        assert!(!lives(all[1].cut()) && lives(all[0].cut()) && lives(all[2].cut()));
        drop(request);
    }

    #[tokio::test(start_paused = true)]
    async fn short_memory_is_made_by_the_longest_stall_of_the_container() {
        let clients = clients(4, 3);
        let (first, second, other) = (clients.request(1, None), clients.request(1, None), clients.request(2, None));
        other.untaken(true);
        tokio::time::sleep(SECOND).await;
        first.unsent(true);
        tokio::time::sleep(SECOND).await;
        second.untaken(true);
        clients.relieve(1, 5 * SECOND);
        tokio::time::sleep(4 * SECOND).await;
        assert!(lives(first.cut()), "not yet");
        clients.relieve(1, 5 * SECOND);
        assert!(!lives(first.cut()) && lives(second.cut()) && lives(other.cut()));
    }
}
