//! Documents that are built on first use and kept as bytes. They belong to a registry and are dropped with it.

use api::Status;
use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use http::HeaderValue;
use parking_lot::Mutex;
use serde::Serialize;
use sha2::{Digest, Sha512};
use std::{
    collections::HashMap,
    io::{Read, Write},
};

/// The documents of a registry, by name.
#[derive(Default)]
pub(crate) struct Documents {
    small: Mutex<HashMap<String, SmallDocument>>,
    compressed: Mutex<HashMap<String, Pending>>,
}

/// A small document and its ETag.
#[derive(Clone)]
pub(crate) struct SmallDocument {
    pub(crate) bytes: Bytes,
    pub(crate) etag: HeaderValue,
}

impl SmallDocument {
    /// With the ETag of its content.
    pub(crate) fn new(value: &impl Serialize) -> Self {
        let mut bytes = serde_json::to_vec(value).expect("documents serialise");
        bytes.push(b'\n');
        let etag = format!("\"{}\"", hex::encode_upper(Sha512::digest(&bytes)));
        let etag = HeaderValue::from_str(&etag).expect("hexadecimal is a header value");
        Self { bytes: Bytes::from(bytes), etag }
    }
}

/// A large document, compressed.
#[derive(Clone)]
pub(crate) struct CompressedDocument {
    /// gzip-compressed.
    pub(crate) bytes: Bytes,
    /// Length before compression, bytes.
    pub(crate) length: usize,
}

/// A document that is being built: once for all requests that wait, and to its end even if they give up.
type Pending = Shared<BoxFuture<'static, Result<CompressedDocument, String>>>;

impl CompressedDocument {
    /// Compresses a document.
    pub(crate) fn new(bytes: &[u8]) -> std::io::Result<Self> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes)?;
        Ok(Self { bytes: encoder.finish()?.into(), length: bytes.len() })
    }

    pub(crate) fn decompress(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.length);
        GzDecoder::new(self.bytes.as_ref()).read_to_end(&mut bytes).expect("the server compressed it");
        bytes
    }
}

impl Documents {
    /// A small document, built at once.
    pub(crate) fn small<T: Serialize>(&self, key: &str, make: impl FnOnce() -> Option<T>) -> Option<SmallDocument> {
        if let Some(found) = self.small.lock().get(key) {
            return Some(found.clone());
        }
        let document = SmallDocument::new(&make()?);
        self.small.lock().insert(key.to_owned(), document.clone());
        Some(document)
    }

    /// A large document, built on a blocking thread.
    pub(crate) async fn compressed(
        &self,
        key: &str,
        make: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Result<CompressedDocument, Status> {
        let making = self.compressed.lock().entry(key.to_owned()).or_insert_with(|| begin(make)).clone();
        let made = making.clone().await;
        if made.is_err() {
            // The next request tries again, unless another one does already.
            let mut all = self.compressed.lock();
            if all.get(key).is_some_and(|kept| kept.ptr_eq(&making)) {
                all.remove(key);
            }
        }
        made.map_err(Status::internal)
    }
}

fn begin(make: impl FnOnce() -> Vec<u8> + Send + 'static) -> Pending {
    let work = tokio::task::spawn_blocking(move || CompressedDocument::new(&make()));
    let made = async move { work.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string()) };
    made.boxed().shared()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    #[tokio::test]
    async fn a_document_is_made_once_for_all_who_wait_and_for_who_left() {
        let (documents, made) = (Documents::default(), Arc::<AtomicUsize>::default());
        let ask = || {
            let made = made.clone();
            documents.compressed("v2", move || {
                made.fetch_add(1, Ordering::SeqCst);
                b"text".to_vec()
            })
        };
        // Begun, and left.
        assert!(ask().now_or_never().is_none());
        for answer in futures::future::join_all((0..10).map(|_| ask())).await {
            let document = answer.expect("a document");
            assert_eq!((document.decompress(), document.length), (b"text".to_vec(), 4));
        }
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_document_that_could_not_be_made_is_tried_again() {
        let documents = Documents::default();
        assert_eq!(
            documents.compressed("v2", || panic!("on purpose")).await.map(|_| ()).expect_err("an error").code,
            500
        );
        assert!(documents.compressed("v2", Vec::new).await.is_ok());
    }
}
