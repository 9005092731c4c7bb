//! Request bodies, read to their end before the request waits for a seat: a slow upload holds only a place of its user, and not for long.

use crate::codec::BODY_LIMIT;
use api::Status;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a body may take in total.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A body that has been read to its end, and the memory that is counted for it.
#[derive(Default)]
pub(crate) struct Collected {
    pub(crate) bytes: Bytes,
    /// Held until the request has been served.
    pub(crate) memory: Option<OwnedSemaphorePermit>,
}

/// Reads a body to its end: 413 when it is longer than `limit` bytes, 408 when it takes too long, 429 when `memory` (in bytes) is used up.
pub(crate) async fn read(body: Body, limit: usize, memory: Option<&Arc<Semaphore>>) -> Result<Collected, Status> {
    match tokio::time::timeout(BODY_TIMEOUT, collect(body, limit, memory)).await {
        Ok(whole) => whole,
        Err(_) => Err(Status { code: 408, ..Status::timeout("the request body did not arrive in time", 0) }),
    }
}

async fn collect(mut body: Body, limit: usize, memory: Option<&Arc<Semaphore>>) -> Result<Collected, Status> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Status::too_large(limit));
    }
    let mut taken: Option<OwnedSemaphorePermit> = None;
    let mut first: Option<Bytes> = None;
    let mut more = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Status::bad_request(format!("the request body could not be read: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.as_ref().map_or(0, Bytes::len) + more.len() + data.len() > limit {
            return Err(Status::too_large(limit));
        }
        if let Some(memory) = memory {
            let permit = u32::try_from(data.len()).ok().and_then(|n| memory.clone().try_acquire_many_owned(n).ok());
            let permit = permit.ok_or_else(too_many_requests)?;
            match &mut taken {
                Some(taken) => taken.merge(permit),
                None => taken = Some(permit),
            }
        }
        // Most bodies come in one frame, which needs no copy.
        match &first {
            None => first = Some(data),
            Some(_) => more.extend_from_slice(&data),
        }
    }
    let first = first.unwrap_or_default();
    let bytes = if more.is_empty() { first } else { [&first[..], &more].concat().into() };
    Ok(Collected { bytes, memory: taken })
}

/// The text of a short body, such as the error of a kubelet.
pub async fn text(body: Body) -> Result<String, Status> {
    let whole = read(body, BODY_LIMIT, None).await?;
    Ok(String::from_utf8_lossy(&whole.bytes).into_owned())
}

/// 429 with upstream's text.
pub(crate) fn too_many_requests() -> Status {
    Status::too_many_requests("Too many requests, please try again later.", 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use std::convert::Infallible;

    /// Pieces with a pause before each.
    fn pieces(count: usize, length: usize, pause: Duration) -> Body {
        let piece = Bytes::from(vec![b'x'; length]);
        let pieces = futures::stream::repeat(piece).take(count).then(move |piece| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, Infallible>(piece)
        });
        Body::from_stream(pieces)
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_are_bounded_in_length_time_and_room() {
        let memory = Arc::new(Semaphore::new(1000));
        let second = Duration::from_secs(1);
        for (count, length, pause, memory, code) in [
            (0, 0, second, None, 200),
            (1, BODY_LIMIT, second, None, 200),
            (29, 100, second, None, 200),
            (31, 100, second, None, 408),
            (2, BODY_LIMIT, second, None, 413),
            (10, 100, second, Some(&memory), 200),
            (11, 100, second, Some(&memory), 429),
        ] {
            let got = read(pieces(count, length, pause), BODY_LIMIT, memory).await;
            let got = got.map(|whole| whole.bytes.len()).map_err(|status| status.code);
            assert_eq!(got, if code == 200 { Ok(count * length) } else { Err(code) }, "{count} of {length}");
        }
        assert_eq!(memory.available_permits(), 1000, "given back");
    }
}
