//! The nodes with their pods at one moment, on which a decision is made. Pure.
//!
//! A snapshot is immutable, and taking one costs a reference count. The cache copies *on write*: without other holders it changes in place;
//! otherwise it copies the list of references and the changed nodes, and shares the rest. So a cycle copies no node, and a plugin that keeps a
//! snapshot after its cycle costs a copy of what changes meanwhile.
//!
//! A plugin that sums over all pods need not look at all of them in each cycle: it keeps its sums, and takes what has changed since from
//! [`Snapshot::changes_since`].

use crate::{node::NodeInfo, pod::PodInfo, terms::Labels};
use k8s_openapi::api::core::v1::{Node, Pod};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// How many changes of pods are remembered. A plugin that has missed more counts anew.
const JOURNAL: usize = 512;

/// All nodes with their pods at one moment. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    inner: Arc<Inner>,
}

/// A pod that came to a node or left it. A pod that changed left and came.
#[derive(Clone, Debug)]
pub struct Change {
    /// The snapshot's generation after the change.
    pub generation: u64,
    /// The [`NodeInfo::slot`] of the node.
    pub slot: usize,
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// Whether it came.
    pub added: bool,
}

/// What a plugin's sums hold for: they stay right while only pods come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    cache: u64,
    structure: u64,
    namespaces: u64,
}

#[derive(Clone, Debug)]
struct Inner {
    /// Tells the caches of a process apart.
    cache: u64,
    /// By slot: all nodes, also those of which only pods are known, and unused slots.
    infos: Vec<Arc<NodeInfo>>,
    /// Slots by name.
    names: Arc<HashMap<String, usize>>,
    /// Unused slots.
    free: Vec<usize>,
    /// How many of `infos` have a node.
    known: usize,
    generation: u64,
    /// The generation of the last change of a node's existence, labels or taints.
    structure: u64,
    /// The last changes of pods, the oldest first.
    journal: VecDeque<Change>,
    /// The generation of the last change that is no longer in `journal`.
    forgotten: u64,
    /// Slots with pods that have affinity or anti-affinity terms.
    with_terms: BTreeSet<usize>,
    /// Slots with pods that have required anti-affinity terms.
    with_anti_affinity: BTreeSet<usize>,
    namespaces: Arc<BTreeMap<String, Labels>>,
    /// Counts changes of `namespaces`.
    namespaces_version: u64,
    /// How many nodes have an image, by its name.
    images: Arc<HashMap<String, usize>>,
    /// Pods that are nominated to a node, by its name.
    nominated: Arc<HashMap<String, Vec<Arc<PodInfo>>>>,
}

impl Default for Inner {
    fn default() -> Self {
        static CACHES: AtomicU64 = AtomicU64::new(0);
        Self {
            cache: CACHES.fetch_add(1, Ordering::Relaxed),
            infos: Vec::new(),
            names: Arc::default(),
            free: Vec::new(),
            known: 0,
            generation: 0,
            structure: 0,
            journal: VecDeque::new(),
            forgotten: 0,
            with_terms: BTreeSet::new(),
            with_anti_affinity: BTreeSet::new(),
            namespaces: Arc::default(),
            namespaces_version: 0,
            images: Arc::default(),
            nominated: Arc::default(),
        }
    }
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

    /// One known node by its [`NodeInfo::slot`].
    pub fn at(&self, slot: usize) -> Option<&NodeInfo> {
        self.inner.infos.get(slot).map(|info| &**info).filter(|info| info.node.is_some())
    }

    /// All slots are less than this.
    pub fn slots(&self) -> usize {
        self.inner.infos.len()
    }

    /// The known nodes with pods that have affinity or anti-affinity terms.
    pub fn with_terms(&self) -> impl Iterator<Item = &NodeInfo> {
        self.inner.with_terms.iter().filter_map(|slot| self.at(*slot))
    }

    /// The known nodes with pods that have required anti-affinity terms.
    pub fn with_anti_affinity(&self) -> impl Iterator<Item = &NodeInfo> {
        self.inner.with_anti_affinity.iter().filter_map(|slot| self.at(*slot))
    }

    /// Grows with each change: the greatest generation of its nodes, or greater after a node was removed.
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// What sums over pods hold for.
    pub fn base(&self) -> Base {
        let Inner { cache, structure, namespaces_version, .. } = &*self.inner;
        Base { cache: *cache, structure: *structure, namespaces: *namespaces_version }
    }

    /// The pods that came and went after `generation`, in order; `None` if that is too long ago.
    pub fn changes_since(&self, generation: u64) -> Option<impl Iterator<Item = &Change>> {
        if generation < self.inner.forgotten {
            return None;
        }
        let journal = &self.inner.journal;
        let from = journal.partition_point(|change| change.generation <= generation);
        Some(journal.range(from..))
    }

    /// How many nodes report an image under this name.
    pub fn nodes_with_image(&self, name: &str) -> usize {
        self.inner.images.get(name).copied().unwrap_or(0)
    }

    /// The labels of a namespace; `None` if it is unknown.
    pub fn namespace_labels(&self, namespace: &str) -> Option<&Labels> {
        self.inner.namespaces.get(namespace)
    }

    /// The labels of all known namespaces, for a state that is kept after the cycle: a snapshot must not be.
    pub fn namespaces(&self) -> Arc<BTreeMap<String, Labels>> {
        self.inner.namespaces.clone()
    }

    /// The pods that are nominated to a node: they wait until there is room for them.
    pub fn nominated(&self, node: &str) -> &[Arc<PodInfo>] {
        if self.inner.nominated.is_empty() {
            return &[];
        }
        self.inner.nominated.get(node).map_or(&[], Vec::as_slice)
    }

    /// One node by name, also if only pods of it are known.
    pub(crate) fn info(&self, name: &str) -> Option<&NodeInfo> {
        self.inner.names.get(name).map(|index| &*self.inner.infos[*index])
    }

    /// Adds or replaces a node; returns its previous state.
    pub(crate) fn set_node(&mut self, name: &str, node: Arc<Node>) -> Option<Arc<Node>> {
        let inner = Arc::make_mut(&mut self.inner);
        let slot = inner.entry(name);
        let info = inner.info(slot);
        let old = info.node.take();
        let taints = |node: &Node| node.spec.as_ref().and_then(|s| s.taints.clone());
        let same = |old: &Node| old.metadata.labels == node.metadata.labels && taints(old) == taints(&node);
        let same = old.as_deref().is_some_and(same);
        let images = |node: &Node| node.status.as_ref().and_then(|s| s.images.clone()).unwrap_or_default();
        let before = old.as_deref().map(images).unwrap_or_default();
        let has_new_images = before != images(&node);
        info.set_node(node);
        if has_new_images {
            inner.count_images(slot);
        }
        inner.known += usize::from(old.is_none());
        if !same {
            inner.structure = inner.generation;
        }
        old
    }

    /// Removes a node; its pods stay.
    pub(crate) fn remove_node(&mut self, name: &str) {
        if self.get(name).is_some() {
            let inner = Arc::make_mut(&mut self.inner);
            let slot = inner.entry(name);
            inner.info(slot).node = None;
            inner.count_images(slot);
            inner.known -= 1;
            inner.structure = inner.generation;
            inner.drop_if_unused(name, slot);
        }
    }

    /// Adds or replaces a pod on a node.
    pub(crate) fn add_pod(&mut self, name: &str, pod: Arc<PodInfo>) {
        let inner = Arc::make_mut(&mut self.inner);
        let slot = inner.entry(name);
        let old = inner.info(slot).add(pod.clone());
        if let Some(old) = old {
            inner.note(slot, old, false);
        }
        inner.note(slot, pod, true);
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
        let slot = inner.entry(name);
        let pod = inner.info(slot).remove(uid);
        if let Some(pod) = &pod {
            inner.note(slot, pod.clone(), false);
        }
        inner.drop_if_unused(name, slot);
        pod
    }

    /// Sets the labels of a namespace, or forgets it.
    pub(crate) fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        if self.inner.namespaces.get(name) == labels.as_ref() {
            return;
        }
        let inner = Arc::make_mut(&mut self.inner);
        inner.namespaces_version += 1;
        let namespaces = Arc::make_mut(&mut inner.namespaces);
        match labels {
            Some(labels) => drop(namespaces.insert(name.to_owned(), labels)),
            None => drop(namespaces.remove(name)),
        }
    }

    /// Replaces the pods that are nominated to a node.
    pub(crate) fn set_nominated(&mut self, node: &str, change: impl FnOnce(&mut Vec<Arc<PodInfo>>)) {
        let nominated = Arc::make_mut(&mut Arc::make_mut(&mut self.inner).nominated);
        let pods = nominated.entry(node.to_owned()).or_default();
        change(pods);
        if pods.is_empty() {
            nominated.remove(node);
        }
    }
}

impl Inner {
    /// The slot of a node, for a change.
    fn entry(&mut self, name: &str) -> usize {
        self.generation += 1;
        if let Some(slot) = self.names.get(name) {
            return *slot;
        }
        let slot = self.free.pop().unwrap_or(self.infos.len());
        let info = Arc::new(NodeInfo { slot, ..NodeInfo::default() });
        match self.infos.get_mut(slot) {
            Some(unused) => *unused = info,
            None => self.infos.push(info),
        }
        Arc::make_mut(&mut self.names).insert(name.to_owned(), slot);
        slot
    }

    fn info(&mut self, slot: usize) -> &mut NodeInfo {
        let info = Arc::make_mut(&mut self.infos[slot]);
        info.generation = self.generation;
        info
    }

    /// Takes over what a node reports of images.
    fn count_images(&mut self, slot: usize) {
        let (before, after) = {
            let info = self.info(slot);
            (info.set_images(), info.images.clone())
        };
        let images = Arc::make_mut(&mut self.images);
        for name in after.keys() {
            *images.entry(name.clone()).or_default() += 1;
        }
        for name in before.keys() {
            if let Some(count) = images.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    images.remove(name);
                }
            }
        }
    }

    /// Notes that a pod came or went.
    fn note(&mut self, slot: usize, pod: Arc<PodInfo>, added: bool) {
        if !pod.terms.is_empty() {
            let pods = &self.infos[slot].pods;
            let any = |wanted: fn(&PodInfo) -> bool| pods.values().any(|pod| wanted(pod));
            let (terms, anti) = (any(|p| !p.terms.is_empty()), any(|p| !p.terms.anti_affinity.is_empty()));
            for (set, has) in [(&mut self.with_terms, terms), (&mut self.with_anti_affinity, anti)] {
                if has {
                    set.insert(slot)
                } else {
                    set.remove(&slot)
                };
            }
        }
        if self.journal.len() == JOURNAL {
            self.forgotten = self.journal.pop_front().map_or(0, |oldest| oldest.generation);
        }
        self.journal.push_back(Change { generation: self.generation, slot, pod, added });
    }

    fn drop_if_unused(&mut self, name: &str, slot: usize) {
        if self.infos[slot].node.is_none() && self.infos[slot].pods.is_empty() {
            Arc::make_mut(&mut self.names).remove(name);
            self.infos[slot] = Arc::default();
            self.free.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str) -> Arc<PodInfo> {
        let value = json!({"metadata": {"name": uid, "uid": uid}, "spec": {"containers": []}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).expect("a pod"))))
    }

    fn changes(snapshot: &Snapshot, since: u64) -> Option<Vec<String>> {
        let text = |c: &Change| format!("{}{}@{}", if c.added { "+" } else { "-" }, c.pod.uid(), c.slot);
        Some(snapshot.changes_since(since)?.map(text).collect())
    }

    #[test]
    fn who_has_seen_a_generation_learns_what_came_after() {
        let mut s = Snapshot::default();
        s.add_pod("a", pod("p"));
        let seen = s.generation();
        assert_eq!(changes(&s, seen), Some(vec![]));
        s.add_pod("b", pod("q"));
        s.add_pod("a", pod("p"));
        s.remove_pod("b", "q");
        assert_eq!(changes(&s, seen), Some(["+q@1", "-p@0", "+p@0", "-q@1"].map(str::to_owned).to_vec()));
        s.add_pod("c", pod("r"));
        assert_eq!(s.info("c").map(|info| info.slot), Some(1), "a slot is used again");
        for number in 0..JOURNAL {
            s.add_pod("a", pod(&format!("x{number}")));
        }
        assert_eq!(changes(&s, seen), None);
        assert_eq!(changes(&s, s.generation()), Some(vec![]));
    }

    #[test]
    fn sums_hold_until_nodes_or_namespaces_change() {
        let node = |labels: serde_json::Value| {
            let value = json!({"metadata": {"name": "n", "labels": labels}});
            Arc::new(serde_json::from_value::<Node>(value).expect("a node"))
        };
        let mut s = Snapshot::default();
        assert_ne!(s.base(), Snapshot::default().base(), "another cache");
        s.set_node("n", node(json!({"zone": "a"})));
        let base = s.base();
        s.set_node("n", node(json!({"zone": "a"})));
        s.add_pod("n", pod("p"));
        s.remove_pod("n", "p");
        assert_eq!(s.base(), base);
        s.set_node("n", node(json!({"zone": "b"})));
        assert_ne!(s.base(), base);
        let base = s.base();
        s.set_namespace("d", Some(Labels::new()));
        assert_ne!(s.base(), base);
        let base = s.base();
        s.set_namespace("d", Some(Labels::new()));
        assert_eq!(s.base(), base);
    }
}
