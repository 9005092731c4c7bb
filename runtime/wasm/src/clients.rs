//! Clients of guests: limits and timeouts of connections and requests. The node has one set for all its guests.
//!
//! The total duration of a connection or request is not limited. A connection or request is cut when its client stalls: no first byte, an
//! idle connection, a request body that is not sent, a response that is not read. When the connection limit is reached, the connections that
//! have waited for their clients the longest are closed.

use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

/// How often the timeouts are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How much later than its requests a connection is cut, so that the client can read the error response.
const CONNECTION_GRACE: Duration = Duration::from_secs(5);

/// At the connection limit, one in this many connections is closed at once, because each scan of all connections takes time.
const EVICTION_DIVISOR: usize = 64;

/// How long no connection is looked for that waits for its client, after there was none.
const EVICTION_PAUSE: Duration = Duration::from_millis(10);

/// There are at most this many times as many connections as may be open, with those that are cut and have not ended.
const ENDING_FACTOR: usize = 2;

/// Limits and timeouts of clients.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// Most connections to all guests of the node. Each connection uses a file descriptor.
    pub connections: usize,
    /// Most connections to one container.
    pub per_container: usize,
    /// How long a client may take to send the first byte of a connection.
    pub first_byte: Duration,
    /// How long a connection may have no request.
    pub idle: Duration,
    /// How long a client may send nothing of a request body that the guest waits for, or read nothing of a response.
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
    next_id: AtomicU64,
    connections: Mutex<Connections>,
    requests: Mutex<BTreeMap<u64, Arc<RequestState>>>,
    /// A connection or request was added.
    added: Notify,
}

/// The connections of a node.
#[derive(Default)]
struct Connections {
    /// Those that are open, and those that are cut and whose tasks have not ended yet.
    all: BTreeMap<u64, Arc<ConnectionState>>,
    /// How many are open, so that a new one of a container that has many costs no look at all of them.
    open: usize,
    /// The same by container.
    open_of: HashMap<usize, usize>,
    /// At that time no connection waited for its client. Looking again at once would find the same.
    busy: Option<Instant>,
}

impl Connections {
    fn insert(&mut self, id: u64, state: Arc<ConnectionState>) {
        self.open += 1;
        *self.open_of.entry(state.owner).or_default() += 1;
        self.all.insert(id, state);
    }

    /// Cuts a connection; it counts no longer.
    fn cut(&mut self, state: &ConnectionState) {
        if !state.cut.is_cancelled() {
            state.cut.cancel();
            self.closed(state.owner);
        }
    }

    fn remove(&mut self, id: u64) {
        if let Some(state) = self.all.remove(&id).filter(|state| !state.cut.is_cancelled()) {
            self.closed(state.owner);
        }
    }

    fn closed(&mut self, owner: usize) {
        self.open -= 1;
        if let Entry::Occupied(mut count) = self.open_of.entry(owner) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn of(&self, owner: usize) -> usize {
        self.open_of.get(&owner).copied().unwrap_or(0)
    }

    /// Cuts some of those that have waited for their clients the longest, of one container or of all. Returns whether there were any.
    fn evict(&mut self, of: Option<usize>, now: Instant) -> bool {
        if self.busy.is_some_and(|since| now.saturating_duration_since(since) < EVICTION_PAUSE) {
            return false;
        }
        let candidates = self.all.values().filter(|it| !it.cut.is_cancelled() && of.is_none_or(|of| of == it.owner));
        let (mut count, mut waiting) = (0usize, Vec::new());
        for connection in candidates {
            count += 1;
            waiting.extend(connection.waiting_since().map(|(since, _)| (since, connection.clone())));
        }
        self.busy = waiting.is_empty().then_some(now);
        waiting.sort_by_key(|(since, _)| *since);
        waiting.truncate((count / EVICTION_DIVISOR).max(1));
        waiting.iter().for_each(|(_, connection)| self.cut(connection));
        !waiting.is_empty()
    }
}

impl Clients {
    pub(crate) fn new(options: ClientOptions) -> Arc<Self> {
        Arc::new(Self {
            options,
            next_id: AtomicU64::new(0),
            connections: Mutex::default(),
            requests: Mutex::default(),
            added: Notify::new(),
        })
    }

    /// Checks the timeouts until the [`Clients`] are dropped.
    pub(crate) async fn watch(this: Weak<Self>) {
        loop {
            let Some(clients) = this.upgrade() else { return };
            if clients.is_empty() {
                clients.added.notified().await;
            }
            clients.cut_stalled(Instant::now());
            let pause = CHECK_INTERVAL.min(clients.options.stall / 4);
            drop(clients);
            tokio::time::sleep(pause).await;
        }
    }

    fn is_empty(&self) -> bool {
        self.connections.lock().all.is_empty() && self.requests.lock().is_empty()
    }

    /// Cuts the requests and connections whose timeout has passed.
    fn cut_stalled(&self, now: Instant) {
        for request in self.requests.lock().values() {
            if request.waiting_since().is_some_and(|since| since + self.options.stall <= now) {
                request.cut.cancel();
            }
        }
        let mut connections = self.connections.lock();
        let stalls = |it: &ConnectionState| {
            it.waiting_since().is_some_and(|(since, wait)| since + wait.limit(&self.options) <= now)
        };
        let stalled: Vec<_> = connections.all.values().filter(|it| stalls(it)).cloned().collect();
        stalled.iter().for_each(|connection| connections.cut(connection));
    }

    /// Adds a connection to the container `owner`. `None`: the limit is reached, and no connection waits for its client.
    pub(crate) fn connect(self: &Arc<Self>, owner: usize) -> Option<Connection> {
        let mut connections = self.connections.lock();
        let options = &self.options;
        if connections.all.len() >= options.connections.saturating_mul(ENDING_FACTOR) {
            return None;
        }
        let crowded = match connections.of(owner) >= options.per_container {
            true => Some(Some(owner)),
            false => (connections.open >= options.connections).then_some(None),
        };
        if let Some(of) = crowded
            && !connections.evict(of, Instant::now())
        {
            return None;
        }
        let id = self.next_id.fetch_add(1, Relaxed);
        let state = Arc::new(ConnectionState {
            owner,
            cut: CancellationToken::new(),
            state: Mutex::new(Activity { requests: 0, stalled: 0, since: Instant::now(), blocked: None, heard: false }),
        });
        connections.insert(id, state.clone());
        drop(connections);
        self.added.notify_one();
        Some(Connection { id, state, clients: self.clone() })
    }

    /// Adds a request to the container `owner`, over a connection or by a call.
    pub(crate) fn request(self: &Arc<Self>, owner: usize, connection: Option<&Connection>) -> Request {
        let connection = connection.map(|it| it.state.clone());
        if let Some(connection) = &connection {
            connection.change(|it| it.requests += 1);
        }
        let id = self.next_id.fetch_add(1, Relaxed);
        let state = Arc::new(RequestState {
            owner,
            connection,
            cut: CancellationToken::new(),
            wait: Mutex::new(RequestWait { unsent: None, untaken: None, begun: false }),
        });
        self.requests.lock().insert(id, state.clone());
        self.added.notify_one();
        Request { id, state, clients: self.clone() }
    }

    /// Frees memory of a container: cuts the request that has waited the longest for its client, if it has waited for `patience` or longer.
    pub(crate) fn cut_longest_stall(&self, owner: usize, patience: Duration) {
        let requests = self.requests.lock();
        let mine = requests.values().filter(|it| it.owner == owner && !it.cut.is_cancelled());
        let longest = mine.filter_map(|it| Some((it.waiting_since()?, it))).min_by_key(|(since, _)| *since);
        if let Some((_, request)) = longest.filter(|(since, _)| since.elapsed() >= patience) {
            request.cut.cancel();
        }
    }
}

/// Why a connection waits for its client.
enum WaitReason {
    /// The client has sent no byte.
    FirstByte,
    /// There is no request.
    Request,
    /// All requests wait for the client.
    Requests,
    /// The client reads nothing.
    Write,
}

impl WaitReason {
    fn limit(&self, options: &ClientOptions) -> Duration {
        match self {
            Self::FirstByte => options.first_byte,
            Self::Request => options.idle,
            Self::Requests => options.stall + CONNECTION_GRACE,
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
    /// Requests that wait for the client.
    stalled: usize,
    /// Since when all requests wait for the client, or there is none.
    since: Instant,
    /// Since when the client reads nothing.
    blocked: Option<Instant>,
    /// The first byte was received.
    heard: bool,
}

impl ConnectionState {
    /// Since when the connection waits for its client, and why.
    fn waiting_since(&self) -> Option<(Instant, WaitReason)> {
        let state = self.state.lock();
        match (state.blocked, state.requests) {
            (Some(since), _) => Some((since, WaitReason::Write)),
            (None, 0) => Some((state.since, if state.heard { WaitReason::Request } else { WaitReason::FirstByte })),
            (None, all) => (state.stalled >= all).then_some((state.since, WaitReason::Requests)),
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

/// An open connection. It is removed when dropped.
pub(crate) struct Connection {
    id: u64,
    state: Arc<ConnectionState>,
    clients: Arc<Clients>,
}

impl Connection {
    /// Cancelled when the connection must be closed.
    pub(crate) fn cut(&self) -> &CancellationToken {
        &self.state.cut
    }

    /// Records that the client has sent a byte.
    pub(crate) fn record_first_byte(&self) {
        let mut state = self.state.state.lock();
        if !std::mem::replace(&mut state.heard, true) {
            state.since = Instant::now();
        }
    }

    /// Records whether the client reads nothing, so that writes are blocked.
    pub(crate) fn set_write_blocked(&self, blocked: bool) {
        let mut state = self.state.state.lock();
        if blocked != state.blocked.is_some() {
            state.blocked = blocked.then(Instant::now);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.clients.connections.lock().remove(self.id);
    }
}

struct RequestState {
    owner: usize,
    connection: Option<Arc<ConnectionState>>,
    cut: CancellationToken,
    wait: Mutex<RequestWait>,
}

struct RequestWait {
    /// Since when the guest has waited for the next part of the request body.
    unsent: Option<Instant>,
    /// Since when a part of the response waits for the client to read it.
    untaken: Option<Instant>,
    /// The response has begun. From then on the request body has no timeout: the client may have nothing more to send.
    begun: bool,
}

impl RequestWait {
    fn since(&self) -> Option<Instant> {
        self.untaken.or(self.unsent.filter(|_| !self.begun))
    }
}

impl RequestState {
    fn waiting_since(&self) -> Option<Instant> {
        self.wait.lock().since()
    }

    fn change(&self, change: impl FnOnce(&mut RequestWait)) {
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

/// A request in flight. It is removed when dropped.
pub(crate) struct Request {
    id: u64,
    state: Arc<RequestState>,
    clients: Arc<Clients>,
}

impl Request {
    /// Cancelled when the client stalls for too long.
    pub(crate) fn cut(&self) -> &CancellationToken {
        &self.state.cut
    }

    /// Records whether the guest waits for the next part of the request body.
    pub(crate) fn set_waiting_for_body(&self, waits: bool) {
        self.state.change(|it| it.unsent = waits.then(|| it.unsent.unwrap_or_else(Instant::now)));
    }

    /// Records whether a part of the response waits for the client to read it. Otherwise the client waits for the guest.
    pub(crate) fn set_waiting_for_reader(&self, waits: bool) {
        self.state.change(|it| {
            it.begun = true;
            it.untaken = waits.then(Instant::now);
        });
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.state.change(|it| *it = RequestWait { unsent: None, untaken: None, begun: true });
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

    /// Waits until the token is cancelled. Returns the seconds that this took.
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
        idle.record_first_byte();
        assert!((75..=76).contains(&seconds(idle.cut()).await));
        let deaf = clients.connect(1).unwrap();
        let _asked = clients.request(1, Some(&deaf));
        deaf.set_write_blocked(true);
        assert!((60..=61).contains(&seconds(deaf.cut()).await));
        // A guest has no timeout, neither for the head nor between parts of the response.
        let patient = clients.connect(1).unwrap();
        patient.record_first_byte();
        let request = clients.request(1, Some(&patient));
        tokio::time::sleep(3600 * SECOND).await;
        for _ in 0..3 {
            request.set_waiting_for_reader(true);
            tokio::time::sleep(50 * SECOND).await;
            request.set_waiting_for_reader(false);
            tokio::time::sleep(3600 * SECOND).await;
        }
        // After the response has begun, the client need not send more.
        request.set_waiting_for_body(true);
        tokio::time::sleep(3600 * SECOND).await;
        assert!(lives(request.cut()) && lives(patient.cut()));
        request.set_waiting_for_reader(true);
        assert!((60..=61).contains(&seconds(request.cut()).await));
        assert!((4..=6).contains(&seconds(patient.cut()).await), "the connection a little later");
        drop(request);
        // A slow request body is not cut, one that stops is.
        let sending = clients.request(1, None);
        for _ in 0..3 {
            sending.set_waiting_for_body(true);
            tokio::time::sleep(50 * SECOND).await;
            sending.set_waiting_for_body(false);
        }
        assert!(lives(sending.cut()));
        sending.set_waiting_for_body(true);
        tokio::time::sleep(30 * SECOND).await;
        sending.set_waiting_for_body(true);
        assert!((29..=31).contains(&seconds(sending.cut()).await), "asking again is no progress");
    }

    #[tokio::test(start_paused = true)]
    async fn one_stalled_stream_does_not_end_its_connection() {
        let clients = clients(100, 100);
        let connection = clients.connect(1).unwrap();
        connection.record_first_byte();
        let (stalled, works) = (clients.request(1, Some(&connection)), clients.request(1, Some(&connection)));
        stalled.set_waiting_for_reader(true);
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
        newer.record_first_byte();
        let third = clients.connect(1).unwrap();
        assert!(lives(older.cut()), "there was room");
        let _fourth = clients.connect(1).unwrap();
        assert!(!lives(older.cut()) && lives(third.cut()), "container 1 has three");
        let _other = clients.connect(2).unwrap();
        assert!(!lives(newer.cut()) || !lives(third.cut()), "the node has four");
        assert!(lives(working.cut()), "it waits for its guest");
        // No connection waits for its client: the next is refused.
        drop((older, newer, third, _fourth, _other));
        let all: Vec<_> = (3..6).map(|owner| clients.connect(owner).unwrap()).collect();
        let requests: Vec<_> = all.iter().map(|it| clients.request(3, Some(it))).collect();
        assert!(clients.connect(9).is_none());
        tokio::time::sleep(EVICTION_PAUSE).await;
        requests[1].set_waiting_for_body(true);
        assert!(clients.connect(9).is_some());
        assert!(!lives(all[1].cut()) && lives(all[0].cut()) && lives(all[2].cut()));
        drop(request);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_are_cut_and_do_not_end_are_bounded_and_every_count_comes_back() {
        let clients = clients(8, 4);
        // one container makes connections whose tasks never run
        let flood: Vec<_> = (0..100).map_while(|_| clients.connect(1)).collect();
        assert_eq!(flood.len(), 16);
        assert_eq!(flood.iter().filter(|it| lives(it.cut())).count(), 4);
        assert!(clients.connect(2).is_none());
        drop(flood);
        let kept = clients.connect(1).unwrap();
        let counts = |clients: &Clients| {
            let connections = clients.connections.lock();
            (connections.open, connections.of(1), connections.all.len())
        };
        assert_eq!(counts(&clients), (1, 1, 1));
        seconds(kept.cut()).await;
        assert_eq!(counts(&clients), (0, 0, 1));
        drop(kept);
        assert_eq!(counts(&clients), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn short_memory_is_made_by_the_longest_stall_of_the_container() {
        let clients = clients(4, 3);
        let (first, second, other) = (clients.request(1, None), clients.request(1, None), clients.request(2, None));
        other.set_waiting_for_reader(true);
        tokio::time::sleep(SECOND).await;
        first.set_waiting_for_body(true);
        tokio::time::sleep(SECOND).await;
        second.set_waiting_for_reader(true);
        clients.cut_longest_stall(1, 5 * SECOND);
        tokio::time::sleep(4 * SECOND).await;
        assert!(lives(first.cut()), "not yet");
        clients.cut_longest_stall(1, 5 * SECOND);
        assert!(!lives(first.cut()) && lives(second.cut()) && lives(other.cut()));
    }
}
