//! What node and child say to each other.

use container::{ContainerId, ContainerSpec, ContainerState, Exec, Limits, SandboxSpec, log, net};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// The first frame to the child: everything that it needs before it confines itself. With it come the two connections of [`crate::requests`]
/// for outgoing requests.
#[derive(Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) sandbox: SandboxSpec,
    /// The addresses of the pod.
    pub(crate) addresses: Vec<IpAddr>,
    /// Most bytes of guest memory.
    pub(crate) memory: u64,
    /// Threads that run guests.
    pub(crate) threads: usize,
    /// Most open files of guests.
    pub(crate) files: usize,
    /// Most connections of HTTP clients.
    pub(crate) connections: usize,
    pub(crate) log: log::Options,
    /// The user and group that the child becomes.
    pub(crate) user: Option<u32>,
    /// Makes the trace ids of this pod.
    pub(crate) seed: [u8; 32],
}

/// The streams of an exec or attach that exist. Their descriptors follow in this order; each size of the terminal is four bytes on its own.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct StreamsPresent {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) resize: bool,
}

/// Calls of the node.
#[derive(Serialize, Deserialize)]
pub(crate) enum ToChild {
    /// With the code of the artifact. The reply is of type `()`, as those below that say nothing else.
    Create(Box<ContainerSpec>),
    Start(ContainerId),
    Stop(ContainerId, Duration),
    Remove(ContainerId),
    /// The reply is [`container::Stats`].
    Stats(ContainerId),
    Limits(ContainerId, Limits),
    /// The reply is the exit code.
    Exec(ContainerId, Exec, StreamsPresent),
    Attach(ContainerId, StreamsPresent),
}

/// Notices of the node.
#[derive(Serialize, Deserialize)]
pub(crate) enum NoticeToChild {
    Retire(ContainerId),
    /// A TCP connection for a handler, or (`tcp` is false) a socket with its bytes.
    Connection {
        handler: u64,
        tcp: bool,
        peer: net::Peer,
    },
}

/// Calls of the child.
#[derive(Serialize, Deserialize)]
pub(crate) enum ToNode {
    /// The reply is [`Bound`].
    Bind(SocketAddr),
    /// The reply is `()`.
    Listen(u64),
    /// The reply is the peer's address, with a socket.
    Accept(u64),
    /// From a bound port, which is used up. The reply is the local address, with a socket.
    ConnectFrom(u64, SocketAddr),
    /// The reply is the local address, with a socket.
    Connect(SocketAddr),
    /// The reply is [`Bound`], with a socket of datagrams ([`crate::pipes`]).
    BindUdp(SocketAddr),
    /// The reply is the addresses.
    Resolve(String),
    /// A port, and the number by which the child knows the handler. The reply is [`Bound`], with the connection for its requests
    /// ([`crate::requests`]).
    ServeHttp(u16, u64),
}

/// Something of the pod's network that the child holds until it says [`NoticeToNode::Close`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub(crate) handle: u64,
    pub(crate) local: SocketAddr,
}

/// Notices of the child.
#[derive(Serialize, Deserialize)]
pub(crate) enum NoticeToNode {
    /// It has confined itself and takes calls; or it cannot, and why.
    Ready(Result<(), String>),
    /// A container entered a state.
    State(ContainerId, ContainerState),
    Close(u64),
}

/// An error of the runtime, as it is sent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum CallError {
    Invalid(String),
    NotFound(String),
    Unsupported(String),
    Exhausted(String),
    Other(String),
}

impl From<container::Error> for CallError {
    fn from(error: container::Error) -> Self {
        match error {
            container::Error::Invalid(text) => Self::Invalid(text),
            container::Error::NotFound(text) => Self::NotFound(text),
            container::Error::Unsupported(text) => Self::Unsupported(text),
            container::Error::Exhausted(text) => Self::Exhausted(text),
            container::Error::Other(error) => Self::Other(format!("{error:#}")),
        }
    }
}

impl From<CallError> for container::Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Invalid(text) => Self::Invalid(text),
            CallError::NotFound(text) => Self::NotFound(text.strip_prefix("not found: ").unwrap_or(&text).to_owned()),
            CallError::Unsupported(text) => Self::Unsupported(text),
            CallError::Exhausted(text) => Self::Exhausted(text),
            CallError::Other(text) => Self::Other(anyhow::anyhow!(text)),
        }
    }
}

/// The reply to a call of the node.
pub(crate) type RuntimeReply<T> = Result<T, CallError>;

/// The reply to a call of the child.
pub(crate) type NetworkReply<T> = Result<T, net::Error>;
