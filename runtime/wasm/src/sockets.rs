//! How wasi:sockets will stand on [`container::net::Sockets`]. Nothing runs here yet: until then sockets are refused with
//! `access-denied`, which is what wasmtime-wasi answers when TCP, UDP and lookups are not allowed.
