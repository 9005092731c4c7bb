//! The body of a list. It is made in chunks from the bytes of the entries while the connection sends it; a large list is never in memory
//! as a whole.

use crate::{
    Resource,
    negotiate::Form,
    payload::Item,
    reply,
    table::{self, Representation},
};
use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec::IntoIter,
};
use store::{Entry, Revision};

/// One page: its entries, and where the next page begins.
pub(super) struct Page {
    pub(super) revision: Revision,
    pub(super) entries: Vec<Arc<Entry<Item>>>,
    pub(super) next: Option<String>,
    pub(super) remaining: Option<usize>,
}

/// Length of the chunks, bytes: large enough for few writes, small enough for an early first byte.
const CHUNK_BYTES: usize = 64 * 1024;
const TAIL: &[u8] = b"]}\n";

/// The body of a list.
pub(super) struct List {
    resource: Arc<Resource>,
    representation: Representation,
    head: BytesMut,
    entries: IntoIter<Arc<Entry<Item>>>,
    first: bool,
    done: bool,
    /// Bytes that remain, where the length is known before.
    left: Option<u64>,
}

impl List {
    /// The body for a page in a representation.
    pub(super) fn new(resource: Arc<Resource>, representation: Representation, page: Page) -> Self {
        let (kind, api_version) = match representation.form {
            Form::Object => (resource.list_kind.clone(), resource.gvr.api_version()),
            Form::Table(version) => ("Table".to_owned(), format!("meta.k8s.io/{version}")),
            Form::Partial(version) => ("PartialObjectMetadataList".to_owned(), format!("meta.k8s.io/{version}")),
        };
        let mut head = reply::list_head(&kind, &api_version, page.revision, page.next.as_deref(), page.remaining);
        match representation.form {
            Form::Table(_) => {
                let columns = table::columns(resource.table.columns());
                head.put_slice(format!("\"columnDefinitions\":{columns},\"rows\":[").as_bytes());
            }
            _ => head.put_slice(b"\"items\":["),
        }
        let left = (representation.form == Form::Object).then(|| {
            let items: usize = page.entries.iter().map(|e| e.payload.view(&resource).length()).sum();
            let commas = page.entries.len().saturating_sub(1);
            (head.len() + items + commas + TAIL.len()) as u64
        });
        Self { resource, representation, head, entries: page.entries.into_iter(), first: true, done: false, left }
    }

    /// Length of the body, bytes; an estimate, rather too high, where the length is not known before.
    pub(super) fn estimate(&self) -> usize {
        let entry = |e: &Arc<Entry<Item>>| e.payload.view(&self.resource).length();
        match self.left {
            Some(left) => usize::try_from(left).unwrap_or(usize::MAX),
            // A row may contain the object, and its cells repeat some of it.
            None => self.head.len() + self.entries.as_slice().iter().map(|e| 2 * entry(e) + 256).sum::<usize>(),
        }
    }

    /// The whole body, for output that is rewritten (YAML, pretty JSON).
    pub(super) fn into_bytes(mut self) -> Bytes {
        let mut out = BytesMut::new();
        while let Some(chunk) = self.chunk() {
            out.put_slice(&chunk);
        }
        out.freeze()
    }

    fn chunk(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = std::mem::take(&mut self.head);
        out.reserve(CHUNK_BYTES + 8 * 1024);
        while out.len() < CHUNK_BYTES {
            let Some(entry) = self.entries.next() else {
                out.put_slice(TAIL);
                self.done = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                out.put_u8(b',');
            }
            self.representation.write_item(&mut out, &self.resource, entry.payload.view(&self.resource));
        }
        let chunk = out.freeze();
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(chunk.len() as u64);
        }
        Some(chunk)
    }
}

/// A body that is made already.
pub(super) struct Chunks {
    chunks: IntoIter<Bytes>,
    /// Bytes that remain.
    left: u64,
}

impl Chunks {
    pub(super) fn new(chunks: Vec<Bytes>) -> Self {
        let left = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Self { chunks: chunks.into_iter(), left }
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(chunk) = self.chunks.by_ref().find(|chunk| !chunk.is_empty()) else { return Poll::Ready(None) };
        self.left -= chunk.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Body for List {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.chunk().map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::default();
        match self.left {
            Some(left) => hint.set_exact(left),
            None => hint.set_upper(self.estimate() as u64),
        }
        hint
    }
}
