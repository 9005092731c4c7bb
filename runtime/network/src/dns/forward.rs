//! Questions for servers outside: asked over UDP, and over TCP where the answer is cut.
//!
//! The server that answered last is asked first, the others when it is silent, each [`ATTEMPT`] long, in [`ROUNDS`] rounds and at most
//! [`PATIENCE`]. Each question has a socket and a number of its own (RFC 5452).

use super::{
    cache::{self, Cache, Key},
    places::Places,
    upstreams::Servers,
    wire,
    zone::Answers,
};
use crate::config::Upstreams;
use hickory_proto::op::{Query, ResponseCode};
use parking_lot::Mutex;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout},
};

/// How long a server may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How often each server is asked.
const ROUNDS: usize = 2;

/// How long a client waits at most: so long does a resolver wait before it asks again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a datagram; a server that sends more than was asked for is heard too.
const DATAGRAM: usize = 4096;

/// What is asked outside.
pub(crate) struct Forwarder {
    servers: Servers,
    /// The number of the server that answered last.
    good: AtomicUsize,
    cache: Mutex<Cache>,
    places: Arc<Places>,
}

impl Forwarder {
    /// `own` is the server's own address. `most` questions are under way at a time, `of_client` of one client.
    pub(crate) fn new(upstreams: Upstreams, own: IpAddr, most: usize, of_client: usize) -> Self {
        Self {
            servers: Servers::new(upstreams, own),
            good: AtomicUsize::new(0),
            cache: Mutex::new(Cache::new(cache::ENTRIES, cache::BYTES)),
            places: Places::new(most, of_client),
        }
    }

    /// The answer that is remembered.
    pub(crate) fn known(&self, key: &Key) -> Option<Answers> {
        self.cache.lock().get(key, Instant::now()).map(|answers| as_asked(answers, &key.query))
    }

    /// Asks, for a client: refused where too many questions are under way, a failure where nobody answers.
    pub(crate) async fn ask(&self, key: &Key, client: IpAddr) -> Answers {
        let Some(_place) = self.places.enter(client) else { return Answers::only(ResponseCode::Refused) };
        let answers = timeout(PATIENCE, self.ask_all(key)).await.ok().flatten();
        let answers = answers.unwrap_or_else(|| Answers::only(ResponseCode::ServFail));
        self.cache.lock().put(key, &answers, Instant::now());
        as_asked(answers, &key.query)
    }

    /// The first good answer of the servers, or else the first one.
    async fn ask_all(&self, key: &Key) -> Option<Answers> {
        let (servers, first) = (self.servers.now().await, self.good.load(Relaxed));
        let mut bad = None;
        for attempt in 0..servers.len() * ROUNDS {
            let number = (first + attempt) % servers.len();
            let Some(server) = servers.get(number) else { continue };
            match timeout(ATTEMPT, exchange(*server, key)).await {
                Ok(Ok(answers)) if matches!(answers.code, ResponseCode::NoError | ResponseCode::NXDomain) => {
                    self.good.store(number, Relaxed);
                    return Some(answers);
                }
                Ok(Ok(answers)) => {
                    bad.get_or_insert(answers);
                    // all have been asked, and this one says no
                    if attempt + 1 >= servers.len() {
                        break;
                    }
                }
                Ok(Err(error)) => tracing::debug!(%error, %server, "a name server cannot be asked"),
                Err(_) => tracing::debug!(%server, "a name server is silent"),
            }
        }
        bad
    }
}

/// The names of records as the client has written them.
fn as_asked(mut answers: Answers, query: &Query) -> Answers {
    for record in answers.answers.iter_mut().filter(|record| record.name == *query.name()) {
        record.name.clone_from(query.name());
    }
    answers
}

/// Asks a server.
async fn exchange(server: SocketAddr, key: &Key) -> io::Result<Answers> {
    let (id, question) = wire::question(&key.query, key.dnssec, key.checking_disabled).map_err(io::Error::other)?;
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let size = socket.recv(&mut buffer).await?;
        match wire::answer(buffer.get(..size).unwrap_or_default(), id, &key.query) {
            Some((answers, false)) => return Ok(answers),
            Some((_, true)) => return exchange_by_stream(server, key, id, &question).await,
            // of another question, or of somebody who guesses
            None => {}
        }
    }
}

async fn exchange_by_stream(server: SocketAddr, key: &Key, id: u16, question: &[u8]) -> io::Result<Answers> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    let answers = wire::answer(&answer, id, &key.query);
    answers.map(|(answers, _)| answers).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not the answer"))
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
