//! What the host holds for a component instance (headers, bodies, directory listings), and the bound on it.
//!
//! Such memory is no guest's linear memory, so wasmtime's limiter never sees it, and a few bytes of a guest make a lot of it. It is
//! therefore weighed every few calls of the host and charged to the instance's account. What cannot be looked into is charged as the
//! most that it may hold. An instance that may not have what the host holds already loses it at once: the call under way fails.

use crate::memory::InstanceMemory;
use std::any::Any;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, bindings::filesystem::types::DirectoryEntryStream};
use wasmtime_wasi_http::{
    FieldMap,
    p2::{
        body::{HostFutureTrailers, HostIncomingBody, HostOutgoingBody},
        types::{HostFutureIncomingResponse, HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse},
    },
};

/// Bytes of one set of fields, with what their table takes.
pub(crate) const FIELDS: usize = 64 << 10;
/// Bytes that one write to a body may have.
pub(crate) const CHUNK: usize = 8 << 10;
/// Writes that wait for who takes the answer, besides one. Enough that small ones go out together; what a body that nobody reads holds is
/// 128 KiB at most.
pub(crate) const CHUNKS: usize = 15;
/// Bytes of a body that nobody reads, of those that are charged.
const BODY: u64 = 64 << 10;
/// Bytes that the host holds for any instance, not charged: else a limit would have to be above what an instance begins with.
const FREE: u64 = 128 << 10;
/// Calls between two weighings. Between them a guest makes at most this many sets of fields.
const CALLS: u32 = 8;

/// Of a resource that is small.
const SMALL: u64 = 256;
/// Of a stream that reads ahead or writes behind.
const STREAM: u64 = 8 << 10;
/// Of a request under way: its buffers on the way out and back.
const UNDER_WAY: u64 = 64 << 10;
/// Of a folder's list, which is read whole.
const LISTING: u64 = 64 << 10;

/// Weighs what an instance's table holds.
#[derive(Default)]
pub(crate) struct HostMemoryMeter {
    calls: u32,
    next: u32,
    /// The account refused: the table was emptied.
    pub(crate) refused: bool,
}

impl HostMemoryMeter {
    /// To be called at each call of the host.
    pub(crate) fn measure(&mut self, table: &mut ResourceTable, share: &mut InstanceMemory) {
        self.calls += 1;
        if self.calls <= self.next {
            return;
        }
        let (mut entries, mut bytes) = (0, 0);
        for entry in table.iter_mut() {
            entries += 1;
            bytes += weight(entry);
        }
        // Weighing a large table at every eighth call would be most of the work.
        (self.calls, self.next) = (0, CALLS.max(entries / 16));
        if share.set_host_bytes(bytes.saturating_sub(FREE)).is_err() {
            self.refused = true;
            *table = ResourceTable::new();
            table.set_max_capacity(0);
        }
    }
}

fn weight(resource: &(dyn Any + Send)) -> u64 {
    let body = |is: bool| if is { BODY } else { 0 };
    if let Some(fields) = resource.downcast_ref::<FieldMap>() {
        return SMALL + fields_weight(fields);
    }
    if resource.is::<DynInputStream>() || resource.is::<DynOutputStream>() || resource.is::<HostIncomingBody>() {
        return STREAM;
    }
    if let Some(response) = resource.downcast_ref::<HostOutgoingResponse>() {
        return SMALL + fields_weight(&response.headers) + body(response.body.is_some());
    }
    if let Some(request) = resource.downcast_ref::<HostOutgoingRequest>() {
        let text = |text: &Option<String>| text.as_ref().map_or(0, |text| text.len() as u64);
        let method = match &request.method {
            wasmtime_wasi_http::p2::bindings::http::types::Method::Other(name) => name.len() as u64,
            _ => 0,
        };
        let texts = text(&request.authority) + text(&request.path_with_query) + method;
        return SMALL + texts + fields_weight(&request.headers) + body(request.body.is_some());
    }
    if let Some(response) = resource.downcast_ref::<HostIncomingResponse>() {
        return STREAM + fields_weight(&response.headers);
    }
    if resource.is::<HostFutureIncomingResponse>() {
        return UNDER_WAY;
    }
    if resource.is::<DirectoryEntryStream>() {
        return LISTING;
    }
    match resource.downcast_ref::<HostFutureTrailers>() {
        Some(HostFutureTrailers::Done(Ok(Some(trailers)))) => STREAM + fields_weight(trailers),
        Some(_) => STREAM,
        None if resource.is::<HostOutgoingBody>() => SMALL * 2,
        None => SMALL,
    }
}

/// As wasmtime-wasi-http counts them: what they say and what their table takes.
fn fields_weight(fields: &http::HeaderMap) -> u64 {
    let values: usize = fields.values().map(|value| value.len() + size_of::<http::HeaderValue>()).sum();
    let names: usize = fields.keys().map(|name| name.as_str().len() + size_of::<http::HeaderName>()).sum();
    (values + names) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryAccount;

    #[test]
    fn what_a_table_holds_is_charged_and_given_back() {
        let memory = MemoryAccount::new("the container", Some(1 << 20), None);
        let mut share = InstanceMemory::new(memory.clone());
        let (mut table, mut meter) = (ResourceTable::new(), HostMemoryMeter::default());
        let fields = || {
            let mut fields = FieldMap::new_mutable(FIELDS);
            for _ in 0..6 {
                let value = http::HeaderValue::from_bytes(&[b'x'; 8000]).unwrap();
                fields.append_raw(http::HeaderName::from_static("a"), value).unwrap();
            }
            fields
        };
        let kept = [(); 8].map(|()| table.push(fields()).unwrap());
        (0..=CALLS).for_each(|_| meter.measure(&mut table, &mut share));
        let used = memory.used();
        assert!((200 << 10..300 << 10).contains(&used), "8 × 48 KB without what is free: {used}");
        for fields in kept {
            table.delete(fields).unwrap();
        }
        (0..=CALLS).for_each(|_| meter.measure(&mut table, &mut share));
        assert_eq!((memory.used(), meter.refused), (0, false));
        let mut made = 0;
        while let Ok(_fields) = table.push(fields()) {
            made += 1;
            meter.measure(&mut table, &mut share);
            assert!(made < 100);
        }
        assert!(meter.refused && table.is_empty(), "{made}");
        drop(share);
        assert_eq!(memory.used(), 0);
    }
}
