//! Who owns whom, across all kinds. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/architecture/garbage-collection/>.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde::Deserialize;

use crate::discovery::Resource;

/// The finalizer of a deletion that waits for blocking dependents.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of a deletion that sets dependents free.
pub const ORPHAN: &str = "orphan";

/// An owner as a dependent names it.
#[derive(Clone, Debug, Deserialize, serde::Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// `group/version`.
    #[serde(default)]
    pub api_version: String,
    /// Kind.
    #[serde(default)]
    pub kind: String,
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Uid.
    #[serde(default)]
    pub uid: String,
    /// Whether it manages the dependent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// Whether it may not go before the dependent, when deleted in the foreground.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

/// The metadata that matter here.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Revision.
    pub resource_version: String,
    /// Set while being deleted.
    pub deletion_timestamp: Option<String>,
    /// What the deletion waits for.
    pub finalizers: Vec<String>,
    /// Who owns it.
    pub owner_references: Vec<Owner>,
}

impl Meta {
    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }

    /// Whether it waits for its blocking dependents to go.
    pub fn waits_for_dependents(&self) -> bool {
        self.deletion_timestamp.is_some() && self.has(FOREGROUND)
    }

    /// Whether its dependents are to be set free.
    pub fn orphans_dependents(&self) -> bool {
        self.deletion_timestamp.is_some() && self.has(ORPHAN)
    }
}

/// An object.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its kind.
    pub resource: Arc<Resource>,
    /// Its metadata.
    pub meta: Meta,
}

/// What must be looked at because something changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// Should this object go, or, if it waits for dependents, can it?
    Delete(String),
    /// Set this object's dependents free.
    Orphan(String),
}

/// All objects by uid, with edges from owners to dependents.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, HashSet<String>>,
    /// Owners that do not exist; uids are never used twice, so this stays true.
    absent: HashSet<String>,
}

impl Graph {
    /// An object by uid.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The objects that name `uid` as an owner.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|d| self.nodes.get(d))
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The uids of a kind.
    pub fn of(&self, resource: &Resource) -> Vec<String> {
        self.nodes.iter().filter(|(_, n)| *n.resource == *resource).map(|(uid, _)| uid.clone()).collect()
    }

    /// Takes a new or changed object; answers what must be looked at.
    pub fn set(&mut self, resource: &Arc<Resource>, meta: Meta) -> Vec<Task> {
        let uid = meta.uid.clone();
        let old = self.nodes.get(&uid).map(|n| n.meta.clone());
        let mut tasks = Vec::new();
        if let Some(old) = &old {
            for owner in &old.owner_references {
                self.unlink(&owner.uid, &uid);
            }
            self.freed(old, &meta, &mut tasks);
        }
        for owner in &meta.owner_references {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let unknown = meta.owner_references.iter().any(|o| !self.nodes.contains_key(&o.uid));
        let new_owners = old.as_ref().is_none_or(|o| o.owner_references != meta.owner_references);
        let waits = |m: &Meta| m.waits_for_dependents();
        let joined = meta.owner_references.iter().any(|o| self.nodes.get(&o.uid).is_some_and(|n| waits(&n.meta)));
        if new_owners && (unknown || joined) {
            tasks.push(Task::Delete(uid.clone()));
        }
        if waits(&meta) && !old.as_ref().is_some_and(waits) {
            tasks.push(Task::Delete(uid.clone()));
            tasks.extend(self.dependents(&uid).map(|d| Task::Delete(d.meta.uid.clone())));
        }
        // a dependent that starts to wait itself no longer needs to be deleted by its owner
        if meta.orphans_dependents() && !old.as_ref().is_some_and(Meta::orphans_dependents) {
            tasks.push(Task::Orphan(uid.clone()));
        }
        self.nodes.insert(uid, Node { resource: resource.clone(), meta });
        tasks
    }

    /// Forgets an object that is gone; answers what must be looked at.
    pub fn remove(&mut self, uid: &str) -> Vec<Task> {
        self.absent.insert(uid.to_owned());
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut tasks: Vec<Task> = self.dependents(uid).map(|d| Task::Delete(d.meta.uid.clone())).collect();
        if tasks.is_empty() {
            // nobody will ask about it again
            self.absent.remove(uid);
        }
        for owner in &node.meta.owner_references {
            self.unlink(&owner.uid, uid);
            if self.nodes.get(&owner.uid).is_some_and(|n| n.meta.waits_for_dependents()) {
                tasks.push(Task::Delete(owner.uid.clone()));
            }
        }
        tasks
    }

    /// Remembers that an owner does not exist.
    pub fn set_absent(&mut self, uid: &str) {
        if !self.nodes.contains_key(uid) && self.dependents.contains_key(uid) {
            self.absent.insert(uid.to_owned());
        }
    }

    /// Whether the owner is known not to exist.
    pub fn is_absent(&self, uid: &str) -> bool {
        self.absent.contains(uid)
    }

    /// Owners that `new` no longer blocks may go now.
    fn freed(&self, old: &Meta, new: &Meta, tasks: &mut Vec<Task>) {
        let blocks = |m: &Meta, uid: &str| {
            m.owner_references.iter().any(|o| o.uid == uid && o.block_owner_deletion == Some(true))
        };
        for owner in old.owner_references.iter().filter(|o| blocks(old, &o.uid) && !blocks(new, &o.uid)) {
            if self.nodes.get(&owner.uid).is_some_and(|n| n.meta.waits_for_dependents()) {
                tasks.push(Task::Delete(owner.uid.clone()));
            }
        }
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(dependent);
            if set.is_empty() {
                self.dependents.remove(owner);
                self.absent.remove(owner);
            }
        }
    }
}

/// What an owner means to a dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It exists.
    Solid,
    /// It exists, and waits for its dependents to go.
    Waiting,
    /// It does not exist.
    Dangling,
}

/// What to do about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it.
    Keep,
    /// Keep it, without these owners.
    Disown(Vec<String>),
    /// Delete it; its dependents first, when `foreground`.
    Delete {
        /// Whether its dependents go before it.
        foreground: bool,
    },
    /// Nothing blocks it any more: take the foreground finalizer away.
    Release,
    /// Its blocking dependents must go first.
    Await(Vec<String>),
}

/// Decides about the live object `meta`, given what its owners are.
pub fn judge(graph: &Graph, meta: &Meta, owners: &[(String, Standing)]) -> Verdict {
    let uid = &meta.uid;
    if meta.waits_for_dependents() {
        let blocking =
            |d: &&Node| d.meta.owner_references.iter().any(|o| o.uid == *uid && o.block_owner_deletion == Some(true));
        let blocking: Vec<&Node> = graph.dependents(uid).filter(blocking).collect();
        if blocking.is_empty() {
            return Verdict::Release;
        }
        let untouched = blocking.iter().filter(|d| d.meta.deletion_timestamp.is_none());
        return Verdict::Await(untouched.map(|d| d.meta.uid.clone()).collect());
    }
    if meta.deletion_timestamp.is_some() || owners.is_empty() {
        return Verdict::Keep;
    }
    let with = |s: Standing| owners.iter().filter(move |(_, o)| *o == s);
    if with(Standing::Solid).next().is_some() {
        let gone: Vec<String> = owners.iter().filter(|(_, s)| *s != Standing::Solid).map(|(u, _)| u.clone()).collect();
        return if gone.is_empty() { Verdict::Keep } else { Verdict::Disown(gone) };
    }
    let waiting = with(Standing::Waiting).next().is_some();
    Verdict::Delete { foreground: waiting && graph.dependents(uid).next().is_some() || meta.has(FOREGROUND) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind() -> Arc<Resource> {
        Arc::new(Resource {
            group: String::new(),
            version: "v1".into(),
            resource: "things".into(),
            kind: "Thing".into(),
            namespaced: true,
            verbs: Vec::new(),
        })
    }

    fn object(uid: &str, owners: &[&str]) -> Meta {
        let owner = |uid: &&str| Owner {
            api_version: "v1".into(),
            kind: "Thing".into(),
            name: (*uid).into(),
            uid: (*uid).into(),
            controller: None,
            block_owner_deletion: Some(true),
        };
        Meta {
            uid: uid.into(),
            name: uid.into(),
            owner_references: owners.iter().map(owner).collect(),
            ..Meta::default()
        }
    }

    fn deleting(mut meta: Meta, finalizer: &str) -> Meta {
        meta.deletion_timestamp = Some("2026-01-01T00:00:00Z".into());
        meta.finalizers = if finalizer.is_empty() { Vec::new() } else { vec![finalizer.into()] };
        meta
    }

    fn delete(uid: &str) -> Task {
        Task::Delete(uid.into())
    }

    #[test]
    fn dependents_are_looked_at_when_their_owner_is_gone() {
        let mut g = Graph::default();
        assert!(g.set(&kind(), object("a", &[])).is_empty());
        assert!(g.set(&kind(), object("b", &["a"])).is_empty(), "the owner is known");
        assert_eq!(g.remove("a"), [delete("b")]);
        assert!(g.is_absent("a"));
        let verdict = judge(&g, &object("b", &["a"]), &[("a".into(), Standing::Dangling)]);
        assert_eq!(verdict, Verdict::Delete { foreground: false });
        g.remove("b");
        assert!(!g.is_absent("a") && g.is_empty(), "nothing is remembered for nobody");
    }

    #[test]
    fn an_owner_that_was_never_seen_is_looked_for() {
        let mut g = Graph::default();
        assert_eq!(g.set(&kind(), object("b", &["ghost"])), [delete("b")]);
        assert!(g.set(&kind(), object("b", &["ghost"])).is_empty(), "once");
    }

    #[test]
    fn foreground_deletion_waits_for_blocking_dependents() {
        let mut g = Graph::default();
        g.set(&kind(), object("a", &[]));
        g.set(&kind(), object("b", &["a"]));
        let waiting = deleting(object("a", &[]), FOREGROUND);
        assert_eq!(g.set(&kind(), waiting.clone()), [delete("a"), delete("b")]);
        assert_eq!(judge(&g, &waiting, &[]), Verdict::Await(vec!["b".into()]));
        let verdict = judge(&g, &object("b", &["a"]), &[("a".into(), Standing::Waiting)]);
        assert_eq!(verdict, Verdict::Delete { foreground: false }, "it has no dependents itself");
        assert_eq!(g.remove("b"), [delete("a")]);
        assert_eq!(judge(&g, &waiting, &[]), Verdict::Release);
    }

    #[test]
    fn foreground_deletion_goes_down_the_tree() {
        let mut g = Graph::default();
        g.set(&kind(), object("a", &[]));
        g.set(&kind(), object("b", &["a"]));
        g.set(&kind(), object("c", &["b"]));
        let verdict = judge(&g, &object("b", &["a"]), &[("a".into(), Standing::Waiting)]);
        assert_eq!(verdict, Verdict::Delete { foreground: true });
    }

    #[test]
    fn a_dependent_that_stops_blocking_lets_its_owner_go() {
        let mut g = Graph::default();
        g.set(&kind(), object("a", &[]));
        g.set(&kind(), object("b", &["a"]));
        g.set(&kind(), deleting(object("a", &[]), FOREGROUND));
        let mut freed = object("b", &["a"]);
        freed.owner_references[0].block_owner_deletion = Some(false);
        assert!(g.set(&kind(), freed).contains(&delete("a")));
    }

    #[test]
    fn orphaning_is_asked_for_once() {
        let mut g = Graph::default();
        g.set(&kind(), object("a", &[]));
        assert_eq!(g.set(&kind(), deleting(object("a", &[]), ORPHAN)), [Task::Orphan("a".into())]);
        assert!(g.set(&kind(), deleting(object("a", &[]), ORPHAN)).is_empty());
    }

    #[test]
    fn an_object_with_one_living_owner_only_loses_the_others() {
        let g = Graph::default();
        let owners = [
            ("a".to_owned(), Standing::Solid),
            ("b".to_owned(), Standing::Dangling),
            ("c".to_owned(), Standing::Waiting),
        ];
        assert_eq!(judge(&g, &object("x", &["a", "b", "c"]), &owners), Verdict::Disown(vec!["b".into(), "c".into()]));
        assert_eq!(judge(&g, &object("x", &["a"]), &owners[..1]), Verdict::Keep);
        assert_eq!(judge(&g, &deleting(object("x", &["b"]), ""), &owners[1..2]), Verdict::Keep, "it goes already");
        assert_eq!(judge(&g, &object("x", &[]), &[]), Verdict::Keep);
    }
}
