//! The cluster's DNS server, at the address of Service `kube-system/kube-dns`.
//!
//! Every node answers for itself, in this process, from the table by which its Services are reached: there is no pod, no endpoint and no watch of
//! its own. Four parts are pure: [`zone`] (what the table says), [`wire`] (bytes), [`cache`] (what others said) and [`places`] (who may);
//! [`forward`] asks the name servers of the machine for everything that is not the cluster's.
//!
//! * A guest's datagram or connection to the address at port 53 comes here instead of a pod (`network::Route::Dns`).
//! * Pods with a network namespace reach two sockets in the node's namespace (`kernel::dns`): an answer costs one receive and one send.
//!
//! The address is the server's as long as no endpoints are behind its port 53. A user who gives Service `kube-dns` a selector, and so a DNS server
//! of their own, is served by that one as soon as one of its endpoints is ready, and by this one while none is.
//!
//! # Bounds
//! | what | most | then |
//! | --- | --- | --- |
//! | questions under way to other servers | [`FORWARDS`], of one pod [`FORWARDS_OF_CLIENT`] | REFUSED |
//! | time of such a question | 5 s | SERVFAIL, remembered for a second |
//! | answers of others that are remembered | 4096, and 4 MiB | the oldest goes |
//! | connections | [`CONNECTIONS`], of one pod [`CONNECTIONS_OF_CLIENT`] | a new one is closed |
//! | silence of a connection | [`IDLE`] | it is closed |
//! | a reply over UDP | what the client takes, 1232 bytes | cut and marked (TC) |
//! | a reply over TCP | 64 KiB, which are some 1500 addresses | cut and marked |

mod cache;
mod forward;
mod places;
mod reverse;
mod upstreams;
mod wire;
mod zone;

use crate::{config::Config, table::ServiceTable};
use cache::Key;
use container::net::Error;
use forward::Forwarder;
use hickory_proto::{op::Query, rr::Record};
use parking_lot::RwLock;
use places::{Place, Places};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
pub(crate) use wire::Transport;
use wire::{Asked, Received};
use zone::{Answers, Said, View, Zone};

/// The port of DNS.
pub(crate) const PORT: u16 = 53;

/// Questions that are under way to other servers.
const FORWARDS: usize = 512;

/// Those of one pod.
const FORWARDS_OF_CLIENT: usize = 64;

/// Connections.
const CONNECTIONS: usize = 256;

/// Those of one pod.
const CONNECTIONS_OF_CLIENT: usize = 16;

/// How long a connection may be silent, and a client take to receive a reply.
const IDLE: Duration = Duration::from_secs(10);

/// The server of a node.
pub(crate) struct Dns {
    address: IpAddr,
    table: Arc<RwLock<ServiceTable>>,
    zone: Zone,
    forwarder: Forwarder,
    connections: Arc<Places>,
    turn: AtomicUsize,
}

/// What becomes of a message.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing is answered.
    Nothing,
    /// This reply.
    Reply(Vec<u8>),
    /// The reply is [`Dns::finish`]ed, which takes as long as others do.
    Ask(Box<Pending>),
}

/// A question that others are asked.
#[derive(Debug)]
pub(crate) struct Pending {
    asked: Asked,
    /// What is already known: the names that lead to the one that is asked for.
    aliases: Vec<Record>,
    key: Key,
}

impl Dns {
    /// The server that a configuration asks for.
    ///
    /// # Errors
    /// The domain is not a name.
    pub(crate) fn new(config: &Config, table: Arc<RwLock<ServiceTable>>) -> Result<Option<Arc<Self>>, Error> {
        let Some(address) = config.dns.map(IpAddr::V4) else { return Ok(None) };
        let ranges = [config.pod_cidr, config.service_cidr].into_iter().chain(config.undialled.iter().copied());
        Ok(Some(Arc::new(Self {
            address,
            table,
            zone: Zone::new(&config.domain, address, ranges.collect())?,
            forwarder: Forwarder::new(config.upstreams.clone(), address, FORWARDS, FORWARDS_OF_CLIENT),
            connections: Places::new(CONNECTIONS, CONNECTIONS_OF_CLIENT),
            turn: AtomicUsize::new(0),
        })))
    }

    /// Where it is.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.address, PORT)
    }

    /// Answers a message of a client by what is known here.
    pub(crate) fn answer(&self, message: &[u8], transport: Transport) -> Step {
        let asked = match wire::read(message, transport) {
            Received::Asked(asked) => asked,
            Received::Wrong(reply) => return Step::Reply(reply),
            Received::Nothing => return Step::Nothing,
        };
        let view = View::of(asked.limit.into(), self.turn.fetch_add(1, Relaxed));
        let said = self.zone.answer(&asked.query, &self.table.read(), view);
        let (aliases, name) = match said {
            Said::Here(answers) => return Step::Reply(asked.reply(&answers)),
            Said::Elsewhere { aliases, name } => (aliases, name),
        };
        let query = Query::query(name, asked.query.query_type());
        let key = Key { query, dnssec: asked.dnssec, checking_disabled: asked.head.checking_disabled };
        match self.forwarder.known(&key) {
            Some(answers) => Step::Reply(asked.reply(&after(aliases, answers))),
            None => Step::Ask(Box::new(Pending { asked, aliases, key })),
        }
    }

    /// Asks others, for a client. Always a reply.
    pub(crate) async fn finish(&self, pending: Pending, client: IpAddr) -> Vec<u8> {
        let Pending { asked, aliases, key } = pending;
        let answers = self.forwarder.ask(&key, client).await;
        asked.reply(&after(aliases, answers))
    }

    /// A place for a connection of a client, if there is one.
    pub(crate) fn enter(&self, client: IpAddr) -> Option<Place> {
        self.connections.enter(client)
    }

    /// Serves a connection: one message after the other, each after two bytes of its length (RFC 7766).
    ///
    /// # Errors
    /// The client has gone, is silent, or does not speak DNS.
    pub(crate) async fn serve(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        client: IpAddr,
    ) -> io::Result<()> {
        loop {
            let receive = async {
                let mut message = vec![0; stream.read_u16().await?.into()];
                stream.read_exact(&mut message).await.map(|_| message)
            };
            let message = timeout(IDLE, receive).await??;
            let reply = match self.answer(&message, Transport::Stream) {
                Step::Nothing => return Err(io::ErrorKind::InvalidData.into()),
                Step::Reply(reply) => reply,
                Step::Ask(pending) => self.finish(*pending, client).await,
            };
            let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
            let send = async {
                stream.write_all(&[&length.to_be_bytes()[..], &reply].concat()).await?;
                stream.flush().await
            };
            timeout(IDLE, send).await??;
        }
    }
}

/// An answer after the aliases that lead to it.
fn after(mut aliases: Vec<Record>, answers: Answers) -> Answers {
    aliases.extend(answers.answers);
    Answers { answers: aliases, ..answers }
}

#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod zone_tests;
