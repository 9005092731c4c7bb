//! What this process and the helper say to each other, in JSON: the helper may be of another version of this program.

use crate::Layout;
use serde::{Deserialize, Serialize};
use std::{net::Ipv4Addr, path::PathBuf};

/// Changes with any change of what is below: a helper of another version is ended, and its pods are connected again.
pub(crate) const VERSION: u32 = 1;

/// Pods of an answer to [`Ask::Pods`].
pub(crate) const PAGE: usize = 256;

/// Most bytes of the id of a pod. Those of Kubernetes have 36.
pub(crate) const MAX_ID: usize = 128;

/// A message with the number of the call that it is of.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Numbered<T> {
    pub(crate) call: u64,
    pub(crate) body: T,
}

/// What is asked of the helper. It answers each once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// The first message of a connection. The answer is [`Answer::Welcome`] with the namespaces: network, and user if there is one.
    Hello(Hello),
    /// Makes the namespace of a pod, or connects the one that goes with the message. The answer carries the namespace. Idempotent.
    Attach { pod: String, address: Ipv4Addr },
    /// Disconnects a pod. Idempotent.
    Detach { pod: String },
    /// Makes sockets in the namespace of a pod or of the node. The answer carries them.
    Sockets { of: Option<String>, kind: Kind, count: u8 },
    /// Gives the file that goes with the message to nft.
    Rules,
    /// The pods after this one in the order of their ids, at most [`PAGE`].
    Pods { after: Option<String> },
    /// Ends the helper, whatever its pods do.
    End,
}

/// How a connection begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    pub(crate) layout: Layout,
    /// Whether the namespaces that go with the message are entered, or new ones are made. Only of the helper's first connection.
    pub(crate) enter: bool,
    /// Where the helper's socket is for processes that come later, which it serves as long as its pods are in use.
    pub(crate) folder: Option<PathBuf>,
}

/// A kind of IPv4 socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Tcp,
    Udp,
}

/// The helper's answer.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Welcome {
        version: u32,
        layout: Layout,
    },
    Done,
    Pods(Vec<(String, Ipv4Addr)>),
    Failed(String),
    /// This machine cannot do it; the text says what is missing.
    Unsupported(String),
}
