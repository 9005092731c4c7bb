//! CRI log files: format, rotation, rate. Written by the wasm helper.
