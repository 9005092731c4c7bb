//! Accounting and limits of host memory: what the host holds for a component instance (headers, bodies, directory listings).
//!
//! Host memory is not part of a linear memory, so wasmtime's limiter does not see it, and a guest can allocate much of it with small calls.
//! It is therefore measured every few host calls and charged to the instance's account. A resource whose size is not accessible is charged
//! with the maximum that it can hold. If the charge is refused, the instance loses its resources immediately, and the current call fails.

use crate::{
    memory::InstanceMemory,
    sockets::{
        p2,
        tcp::Tcp,
        udp::{Incoming, Udp},
    },
};
use std::any::Any;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, bindings::filesystem::types::DirectoryEntryStream};
use wasmtime_wasi_http::{
    FieldMap,
    p2::{
        body::{HostFutureTrailers, HostIncomingBody, HostOutgoingBody},
        types::{HostFutureIncomingResponse, HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse},
    },
    p3,
};
use wasmtime_wasi_tls::{
    p2::{HostClientConnection, HostClientHandshake, HostFutureClientStreams},
    p3::host::Connector,
};

/// Most bytes of one set of header fields, including the overhead of its table.
pub(crate) const FIELDS: usize = 64 << 10;
/// Most bytes of one write to a body.
pub(crate) const CHUNK: usize = 8 << 10;
/// Most buffered writes to a body, besides the one in progress. This is enough to send small writes together, and limits a body that is not
/// read to 128 KiB.
pub(crate) const CHUNKS: usize = 15;
/// Most bytes of one write to a body of WASI 0.3, which buffers one and holds another.
pub(crate) const CHUNK_3: usize = 64 << 10;
/// Bytes charged for the buffered part of an outgoing body. The buffer can hold more if the body is not read.
const BODY_WEIGHT: u64 = 64 << 10;
/// Bytes of host memory per instance that are not charged. Without this allowance, the resources of a new instance would exceed a low
/// limit.
const UNCHARGED_BYTES: u64 = 128 << 10;
/// Fewest host calls between two measurements. A guest creates at most one set of header fields per call.
const MEASURE_INTERVAL_CALLS: u32 = 8;

/// Bytes charged for a small resource.
const SMALL_WEIGHT: u64 = 256;
/// Bytes charged for a buffered stream.
const STREAM_WEIGHT: u64 = 8 << 10;
/// Bytes charged for an outgoing request in flight: its send and receive buffers.
const REQUEST_WEIGHT: u64 = 64 << 10;
/// Bytes charged for a directory listing, which is read completely.
const LISTING_WEIGHT: u64 = 64 << 10;
/// Bytes charged for a connector of wasi:tls 0.3: its two pipes.
const CONNECTOR_WEIGHT: u64 = 32 << 10;
/// Bytes charged for a bound UDP socket: its receive queue in the network.
const DATAGRAMS_WEIGHT: u64 = 64 << 10;

/// Measures the resources in an instance's table and charges them to its account.
#[derive(Default)]
pub(crate) struct HostMemoryMeter {
    /// Host calls since the last measurement.
    calls: u32,
    /// Host calls until the next measurement.
    interval: u32,
    /// The account refused the charge, and the table was emptied.
    pub(crate) refused: bool,
}

impl HostMemoryMeter {
    /// Counts a host call, and measures the table when the interval is over. Must be called at each host call.
    pub(crate) fn measure(&mut self, table: &mut ResourceTable, memory: &mut InstanceMemory) {
        self.calls += 1;
        if self.calls <= self.interval {
            return;
        }
        let (mut entries, mut bytes) = (0, 0);
        for entry in table.iter_mut() {
            entries += 1;
            bytes += weight(entry);
        }
        // A large table is measured less often, because each measurement visits all entries.
        (self.calls, self.interval) = (0, MEASURE_INTERVAL_CALLS.max(entries / 16));
        if memory.set_host_bytes(bytes.saturating_sub(UNCHARGED_BYTES)).is_err() {
            self.refused = true;
            *table = ResourceTable::new();
            table.set_max_capacity(0);
        }
    }
}

/// Bytes charged for a resource.
fn weight(resource: &(dyn Any + Send)) -> u64 {
    let body = |has_body: bool| if has_body { BODY_WEIGHT } else { 0 };
    if let Some(fields) = resource.downcast_ref::<FieldMap>() {
        return SMALL_WEIGHT + fields_weight(fields);
    }
    if resource.is::<DynInputStream>() || resource.is::<DynOutputStream>() || resource.is::<HostIncomingBody>() {
        return STREAM_WEIGHT;
    }
    if let Some(response) = resource.downcast_ref::<HostOutgoingResponse>() {
        return SMALL_WEIGHT + fields_weight(&response.headers) + body(response.body.is_some());
    }
    if let Some(request) = resource.downcast_ref::<HostOutgoingRequest>() {
        let text = |text: &Option<String>| text.as_ref().map_or(0, |text| text.len() as u64);
        let method = match &request.method {
            wasmtime_wasi_http::p2::bindings::http::types::Method::Other(name) => name.len() as u64,
            _ => 0,
        };
        let texts = text(&request.authority) + text(&request.path_with_query) + method;
        return SMALL_WEIGHT + texts + fields_weight(&request.headers) + body(request.body.is_some());
    }
    if let Some(request) = resource.downcast_ref::<p3::Request>() {
        let path = request.path_with_query.as_ref().map_or(0, |path| path.as_str().len());
        let authority = request.authority.as_ref().map_or(0, |authority| authority.as_str().len());
        return SMALL_WEIGHT + (path + authority) as u64 + fields_weight(&request.headers) + BODY_WEIGHT;
    }
    if let Some(response) = resource.downcast_ref::<p3::Response>() {
        return SMALL_WEIGHT + fields_weight(&response.headers) + BODY_WEIGHT;
    }
    if let Some(response) = resource.downcast_ref::<HostIncomingResponse>() {
        return STREAM_WEIGHT + fields_weight(&response.headers);
    }
    if let Some(socket) = resource.downcast_ref::<p2::Socket>() {
        return SMALL_WEIGHT + socket.tcp.weight() as u64;
    }
    if let Some(socket) = resource.downcast_ref::<Tcp>() {
        // WASI 0.3 keeps the two streams of a connection outside the table.
        return SMALL_WEIGHT + 2 * STREAM_WEIGHT + socket.weight() as u64;
    }
    if resource.is::<Incoming>() || resource.downcast_ref::<Udp>().is_some_and(Udp::is_bound) {
        return DATAGRAMS_WEIGHT;
    }
    if resource.is::<HostFutureIncomingResponse>() {
        return REQUEST_WEIGHT;
    }
    // the two streams below it; the TLS connection itself is charged by its maker
    if resource.is::<HostClientHandshake>()
        || resource.is::<HostFutureClientStreams>()
        || resource.is::<HostClientConnection>()
    {
        return SMALL_WEIGHT + 2 * STREAM_WEIGHT;
    }
    if resource.is::<Connector>() {
        return CONNECTOR_WEIGHT;
    }
    if resource.is::<DirectoryEntryStream>() {
        return LISTING_WEIGHT;
    }
    match resource.downcast_ref::<HostFutureTrailers>() {
        Some(HostFutureTrailers::Done(Ok(Some(trailers)))) => STREAM_WEIGHT + fields_weight(trailers),
        Some(_) => STREAM_WEIGHT,
        None if resource.is::<HostOutgoingBody>() => SMALL_WEIGHT * 2,
        None => SMALL_WEIGHT,
    }
}

/// Counts header fields as wasmtime-wasi-http does: names, values and the overhead of the table.
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
        (0..=MEASURE_INTERVAL_CALLS).for_each(|_| meter.measure(&mut table, &mut share));
        let used = memory.used();
        assert!((200 << 10..300 << 10).contains(&used), "8 × 48 KB without what is free: {used}");
        for fields in kept {
            table.delete(fields).unwrap();
        }
        (0..=MEASURE_INTERVAL_CALLS).for_each(|_| meter.measure(&mut table, &mut share));
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
