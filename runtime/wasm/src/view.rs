//! What host functions of our own see of a component instance.

use crate::pairs::Pairs;
use container::{log::Log, net::Sockets};
use std::sync::Arc;
use wasmtime::component::{HasData, ResourceTable};

/// The table of the instance, and what it shares with the others of its container.
pub(crate) struct View<'a> {
    pub(crate) table: &'a mut ResourceTable,
    pub(crate) sockets: &'a Arc<dyn Sockets>,
    pub(crate) log: &'a Log,
    pub(crate) env: &'a [(String, String)],
    /// Of its pod.
    pub(crate) pairs: &'a Arc<Pairs>,
}

/// Names [`View`] for wasmtime.
pub(crate) struct Here;

impl HasData for Here {
    type Data<'a> = View<'a>;
}
