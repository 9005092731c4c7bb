//! An answer to a connection that cannot be passed on: 503 to a client that speaks HTTP/1, a reset to any other.

use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};

/// Most connections that are answered at a time; others are reset.
pub(crate) const MOST: usize = 64;
/// How long a client may take to begin its request, and to read the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most bytes of a request that are read and thrown away, so that the answer is not lost.
const DRAINED: u64 = 64 * 1024;

/// Whether bytes begin a request of HTTP/1: a method and a space.
fn is_http(bytes: &[u8]) -> bool {
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    (3..=7).contains(&method) && bytes.get(method) == Some(&b' ') && !bytes.starts_with(b"PRI ")
}

/// Answers and closes.
pub(crate) async fn answer(places: &Arc<Semaphore>, mut socket: TcpStream, why: &str) {
    let place = places.clone().try_acquire_owned();
    let mut begin = [0; 8];
    let speaks_http = async { matches!(socket.peek(&mut begin).await, Ok(n) if is_http(&begin[..n])) };
    if place.is_err() || !timeout(PATIENCE, speaks_http).await.unwrap_or(false) {
        let _ = socket.set_zero_linger(); // without it the client sees an end instead of a reset
        return;
    }
    let text = format!("{why}\n");
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    );
    let tell = async {
        socket.write_all(answer.as_bytes()).await?;
        socket.shutdown().await?;
        // a close with unread bytes would reset the connection, and the answer with it
        tokio::io::copy(&mut (&mut socket).take(DRAINED), &mut tokio::io::sink()).await
    };
    let _ = timeout(PATIENCE, tell).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_told_from_other_bytes() {
        for (bytes, wanted) in [
            ("GET / HTTP/1.1", true),
            ("DELETE /a", true),
            ("PUT /", true),
            ("PRI * HTTP/2.0", false),
            ("SSH-2.0-x", false),
            ("get /", false),
            ("GE", false),
            ("", false),
            ("\u{16}\u{3}\u{1}", false),
        ] {
            let begin = &bytes.as_bytes()[..bytes.len().min(8)];
            assert_eq!(is_http(begin), wanted, "{bytes:?}");
        }
    }
}
