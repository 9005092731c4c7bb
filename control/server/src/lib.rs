//! The API server, generic over [`Resource`]: chain, codecs, verbs, admission, authentication and authorization, discovery, OpenAPI,
//! tables and streams. It is one machine: a built-in kind and a custom resource are both a `Resource` value with a [`Strategy`].
//!
//! Not here: controllers, scheduling, the node. Whatever those do, they do through this API as any client could.
#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

pub mod action;
pub mod admission;
mod aggregation;
pub mod audit;
pub mod authn;
pub mod authz;
mod body;
mod call;
mod caller;
mod chain;
mod coalesce;
mod codec;
pub mod columns;
mod connection;
pub mod context;
mod definitions;
mod deleteoptions;
mod derived;
pub mod dialer;
mod discovery;
mod documents;
pub mod handshake;
mod health;
mod impersonation;
mod indexed;
mod lazy;
mod limits;
mod metadata;
mod metrics;
mod names;
pub mod negotiate;
pub mod nodes;
mod notes;
mod openapi;
pub mod outbound;
mod parsed;
pub mod payload;
mod pick;
pub mod pki;
mod proxy;
pub mod registry;
pub mod reply;
mod request;
pub mod resource;
mod route;
mod scope;
mod select;
mod server;
mod service;
mod stall;
pub mod strategy;
pub mod stream;
mod table;
pub mod tls;
mod typemeta;
mod verbs;
pub mod version;
mod versions;
pub mod webhook;

pub use action::{Action, Api, Subresource};
pub use aggregation::{Aggregation, FrontProxy, Registered, Registration, Remote};
pub use body::text as text_of;
pub use call::Call;
pub use columns::{Column, TableConvertor};
pub use context::{Context, Delta, Ids, Objects, Operation, User, Warnings};
pub use definitions::Definitions;
pub use deleteoptions::DeleteOptions;
pub use derived::Derived;
pub use indexed::{Index, Indexed};
pub use metadata::match_namespace;
pub use names::{Names, Verb};
pub use payload::Item;
pub use proxy::Backend;
pub use request::Query;
pub use resource::Resource;
pub use scope::Scope;
pub use server::{Document, Options, Parts, Server};
pub use service::Service;
pub use stall::AllowSlowReader;
pub use store::Changes;
pub use strategy::{Allocator, Convertor, Reservation, Strategy};
