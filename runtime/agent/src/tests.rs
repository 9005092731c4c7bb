//! Tests the whole agent with an in-memory runtime, network, image store and API, on a paused clock.

mod admission;
mod annotated;
mod commands;
mod endings;
mod ephemeral;
mod eviction;
mod fake_api;
mod image_volumes;
mod lifecycle;
mod linux;
mod mounted;
mod named;
mod node;
mod overwritten;
mod private;
mod reported;
mod resize;
mod returning;
mod root;
mod tokens;
mod usage;
mod world;

pub(crate) use fake_api::FakeApi;
pub(crate) use world::{epoch, node_options};
