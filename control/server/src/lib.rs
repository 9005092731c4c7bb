//! The API server, generic over [`Resource`]: chain, codecs, verbs, admission, authentication and authorization, discovery, OpenAPI,
//! tables and streams. It is one machine: a built-in kind and a custom resource are both a `Resource` value with a [`Strategy`].
//!
//! Not here: controllers, scheduling, the node. Whatever those do, they do through this API as any client could.

pub mod admission;
pub mod context;
pub mod kinds;
pub mod resource;
pub mod strategy;

pub use context::{Context, Ids, Objects, Settings, User};
pub use resource::{Column, Resource, Subresource, Verb};
pub use strategy::{Reservation, Strategy};
