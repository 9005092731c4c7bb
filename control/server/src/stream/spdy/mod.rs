//! SPDY/3.1 (draft-mbelshe-httpbis-spdy-00), as far as Kubernetes' clients speak it: streams with headers, data, half-closing, resets and
//! pings. There is no flow control: these clients send no WINDOW_UPDATE and expect none, and a stream that is not read holds up the
//! others of its connection, as it does upstream.

mod codec;
mod connection;
mod dictionary;
mod headers;
#[cfg(test)]
mod tests;

pub(crate) use codec::{Codec, Frame};
pub(crate) use connection::{Opened, serve};
pub(crate) use headers::Headers;

/// Why a connection ends. All of it is what the peer did.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another protocol, or another version of it.
    #[error("version {0} of SPDY is not spoken here")]
    Version(u16),
    /// Longer than is read.
    #[error("{0} is longer than {1} bytes")]
    TooLong(&'static str, usize),
    /// Not what the draft says.
    #[error("{0}")]
    Malformed(&'static str),
    /// Nothing was said for too long.
    #[error("nothing was said for too long")]
    Idle,
    /// The bytes end.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
