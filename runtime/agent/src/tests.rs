//! The agent as a whole, over a runtime, a network, images and an API that exist in memory, on a paused clock.

mod admission;
mod annotated;
mod commands;
mod endings;
mod eviction;
mod fake_api;
mod lifecycle;
mod mounted;
mod named;
mod node;
mod overwritten;
mod private;
mod reported;
mod world;

pub(crate) use fake_api::FakeApi;
pub(crate) use world::node_options;
