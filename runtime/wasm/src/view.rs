//! The part of a component instance that the host functions of this crate use.

use crate::pairs::Pairs;
use container::{log::Log, net::Sockets};
use std::sync::Arc;
use wasmtime::component::{HasData, ResourceTable};

/// The table of the instance, and state that it shares with other instances of the container.
pub(crate) struct View<'a> {
    pub(crate) table: &'a mut ResourceTable,
    pub(crate) sockets: &'a Arc<dyn Sockets>,
    pub(crate) log: &'a Log,
    pub(crate) env: &'a [(String, String)],
    /// The wasi:keyvalue store of the pod.
    pub(crate) pairs: &'a Arc<Pairs>,
}

/// Selects [`View`] as the host data of the bindings.
pub(crate) struct Here;

impl HasData for Here {
    type Data<'a> = View<'a>;
}
