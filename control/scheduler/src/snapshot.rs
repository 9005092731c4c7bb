//! The nodes with their pods at one moment, on which a decision is made. Pure.
//!
//! A snapshot is immutable, and taking one costs a reference count. The cache copies *on write*: without other holders it changes in place;
//! otherwise it copies the list of references and the changed nodes, and shares the rest. So a cycle copies no node, and a plugin that keeps a
//! snapshot after its cycle costs a copy of what changes meanwhile.

use crate::{node::NodeInfo, pod::PodInfo};
use k8s_openapi::api::core::v1::{Node, Pod};
use std::{collections::HashMap, sync::Arc};

/// All nodes with their pods at one moment. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    inner: Arc<Inner>,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    /// All nodes, also those of which only pods are known.
    infos: Vec<Arc<NodeInfo>>,
    /// Index in `infos` by name.
    names: Arc<HashMap<String, usize>>,
    /// How many of `infos` have a node.
    known: usize,
    generation: u64,
}

impl Snapshot {
    /// Every known node, in no particular order, without those of which only pods are known.
    pub fn iter(&self) -> impl Iterator<Item = &NodeInfo> {
        self.inner.infos.iter().map(|info| &**info).filter(|info| info.node.is_some())
    }

    /// How many known nodes there are.
    pub fn count(&self) -> usize {
        self.inner.known
    }

    /// One known node by name.
    pub fn get(&self, name: &str) -> Option<&NodeInfo> {
        self.info(name).filter(|info| info.node.is_some())
    }

    /// Grows with each change: the greatest generation of its nodes, or greater after a node was removed.
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// One node by name, also if only pods of it are known.
    pub(crate) fn info(&self, name: &str) -> Option<&NodeInfo> {
        self.inner.names.get(name).map(|index| &*self.inner.infos[*index])
    }

    /// Adds or replaces a node; returns its previous state.
    pub(crate) fn set_node(&mut self, name: &str, node: Arc<Node>) -> Option<Arc<Node>> {
        let inner = Arc::make_mut(&mut self.inner);
        let info = inner.entry(name);
        let old = info.node.take();
        info.set_node(node);
        inner.known += usize::from(old.is_none());
        old
    }

    /// Removes a node; its pods stay.
    pub(crate) fn remove_node(&mut self, name: &str) {
        if self.get(name).is_some() {
            let inner = Arc::make_mut(&mut self.inner);
            inner.entry(name).node = None;
            inner.known -= 1;
            inner.drop_if_unused(name);
        }
    }

    /// Adds or replaces a pod on a node.
    pub(crate) fn add_pod(&mut self, name: &str, pod: Arc<PodInfo>) {
        Arc::make_mut(&mut self.inner).entry(name).add(pod);
    }

    /// Replaces the object of a pod, unless a copy of the snapshot is in use: that would be copied for it.
    pub(crate) fn refresh_pod(&mut self, name: &str, uid: &str, pod: &Arc<Pod>) {
        let Some(inner) = Arc::get_mut(&mut self.inner) else { return };
        let Some(index) = inner.names.get(name) else { return };
        let info = Arc::get_mut(&mut inner.infos[*index]);
        if let Some(known) = info.and_then(|info| info.pods.get_mut(uid)) {
            Arc::make_mut(known).pod = pod.clone();
        }
    }

    /// Removes a pod from a node.
    pub(crate) fn remove_pod(&mut self, name: &str, uid: &str) -> Option<Arc<PodInfo>> {
        self.info(name)?;
        let inner = Arc::make_mut(&mut self.inner);
        let pod = inner.entry(name).remove(uid);
        inner.drop_if_unused(name);
        pod
    }
}

impl Inner {
    /// The entry of a node, for a change.
    fn entry(&mut self, name: &str) -> &mut NodeInfo {
        let index = match self.names.get(name) {
            Some(index) => *index,
            None => {
                self.infos.push(Arc::default());
                Arc::make_mut(&mut self.names).insert(name.to_owned(), self.infos.len() - 1);
                self.infos.len() - 1
            }
        };
        self.generation += 1;
        let info = Arc::make_mut(&mut self.infos[index]);
        info.generation = self.generation;
        info
    }

    fn drop_if_unused(&mut self, name: &str) {
        let Some(index) = self.names.get(name).copied() else { return };
        if self.infos[index].node.is_some() || !self.infos[index].pods.is_empty() {
            return;
        }
        let names = Arc::make_mut(&mut self.names);
        names.remove(name);
        self.infos.swap_remove(index);
        if let Some(moved) = names.values_mut().find(|i| **i == self.infos.len()) {
            *moved = index;
        }
    }
}
