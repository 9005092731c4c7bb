//! The API server, generic over [`Resource`]: chain, codecs, verbs, admission, authentication and authorization, discovery, OpenAPI,
//! tables and streams. It is one machine: a built-in kind and a custom resource are both a `Resource` value with a [`Strategy`].
//!
//! Not here: controllers, scheduling, the node. Whatever those do, they do through this API as any client could.

pub mod admission;
mod advice;
pub mod authn;
pub mod authz;
mod body;
pub mod bootstrap;
mod chain;
mod codec;
mod connection;
pub mod context;
mod discovery;
mod documents;
pub mod handshake;
mod health;
mod impersonation;
pub mod kinds;
mod limits;
mod metadata;
mod metrics;
pub mod negotiate;
pub mod nodes;
mod openapi;
mod pace;
pub mod payload;
pub mod pki;
pub mod registry;
mod reply;
mod request;
pub mod resource;
mod reviews;
mod select;
mod server;
pub mod strategy;
mod table;
pub mod tls;
pub mod tokens;
mod typemeta;
mod verbs;
pub mod version;

pub use advice::ImageAdvice;
pub use context::{Context, Ids, Objects, Settings, User};
pub use payload::Item;
pub use resource::{Column, Resource, Subresource, Verb};
pub use server::{Options, Server, Service};
pub use strategy::{Reservation, Strategy};
