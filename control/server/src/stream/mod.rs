//! Streams into pods, as clients speak them: SPDY/3.1 and WebSocket with their subprotocols. What a node speaks is simpler
//! (`container::frame`, or the bytes themselves), and nothing of a client's protocol gets there.
//!
//! Each protocol is a pure part that reads and writes messages, and an edge that moves bytes with bounded buffers: who does not read is
//! waited for, and nobody is remembered for longer than `IDLE`.

pub(crate) mod events;
mod forward;
mod origin;
mod remote;
mod spdy;
mod upgrade;
mod websocket;

pub use forward::{UPGRADE as FORWARD, forward};
pub use remote::{Wanted, remote};
pub use upgrade::Streaming;

use std::time::Duration;

/// How long a stream may be silent both ways, as the kubelet has it (`--streaming-connection-idle-timeout`).
pub(crate) const IDLE: Duration = Duration::from_secs(4 * 60 * 60);
/// How long what was said last may take to reach the client.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);
/// Bytes that wait in one direction of one stream.
pub(crate) const PIPE: usize = 32 << 10;
