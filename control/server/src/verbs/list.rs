//! The body of a list: made piece by piece as the connection takes it, from the entries' bytes; a large list is never in memory as a
//! whole.

use crate::{
    Resource,
    negotiate::Form,
    payload::Item,
    reply,
    table::{self, Look},
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

/// One page: its entries and where the next begins.
pub(super) struct Page {
    pub(super) revision: Revision,
    pub(super) entries: Vec<Arc<Entry<Item>>>,
    pub(super) next: Option<String>,
    pub(super) remaining: Option<usize>,
}

/// Size of the pieces: large enough for few writes, small enough to begin early.
const PIECE: usize = 64 * 1024;
const TAIL: &[u8] = b"]}\n";

/// A list on its way to the client.
pub(super) struct List {
    resource: Arc<Resource>,
    look: Look,
    head: BytesMut,
    entries: IntoIter<Arc<Entry<Item>>>,
    first: bool,
    done: bool,
    /// Bytes still to come, where that is known beforehand.
    left: Option<u64>,
}

impl List {
    /// A page in the form that was asked for.
    pub(super) fn new(resource: Arc<Resource>, look: Look, page: Page) -> Self {
        let (kind, api_version) = match look.form {
            Form::Object => (resource.list_kind.clone(), resource.gvr.api_version()),
            Form::Table(version) => ("Table".to_owned(), format!("meta.k8s.io/{version}")),
            Form::Partial(version) => ("PartialObjectMetadataList".to_owned(), format!("meta.k8s.io/{version}")),
        };
        let mut head = reply::list_head(&kind, &api_version, page.revision, page.next.as_deref(), page.remaining);
        match look.form {
            Form::Table(_) => {
                let columns = table::columns(resource.table.columns());
                head.put_slice(format!("\"columnDefinitions\":{columns},\"rows\":[").as_bytes());
            }
            _ => head.put_slice(b"\"items\":["),
        }
        let left = (look.form == Form::Object).then(|| {
            let items: usize = page.entries.iter().map(|e| e.payload.view(&resource).length()).sum();
            let commas = page.entries.len().saturating_sub(1);
            (head.len() + items + commas + TAIL.len()) as u64
        });
        Self { resource, look, head, entries: page.entries.into_iter(), first: true, done: false, left }
    }

    /// How long it is in total, as far as that can be known before it is made; rather too much.
    pub(super) fn estimate(&self) -> usize {
        let entry = |e: &Arc<Entry<Item>>| e.payload.view(&self.resource).length();
        match self.left {
            Some(left) => usize::try_from(left).unwrap_or(usize::MAX),
            // Rows may carry the object, and cells repeat some of it.
            None => self.head.len() + self.entries.as_slice().iter().map(|e| 2 * entry(e) + 256).sum::<usize>(),
        }
    }

    /// All of it: for forms that need the whole.
    pub(super) fn whole(mut self) -> Bytes {
        let mut out = BytesMut::new();
        while let Some(piece) = self.piece() {
            out.put_slice(&piece);
        }
        out.freeze()
    }

    fn piece(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = std::mem::take(&mut self.head);
        out.reserve(PIECE + 8 * 1024);
        while out.len() < PIECE {
            let Some(entry) = self.entries.next() else {
                out.put_slice(TAIL);
                self.done = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                out.put_u8(b',');
            }
            self.look.item(&mut out, &self.resource, entry.payload.view(&self.resource));
        }
        let piece = out.freeze();
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(piece.len() as u64);
        }
        Some(piece)
    }
}

impl Body for List {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.piece().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
