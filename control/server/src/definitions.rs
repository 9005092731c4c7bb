//! Resources that stored objects define: custom resources. A change of a definition counts for the next request after its write was
//! acknowledged, and costs as much as the changed definition and a new table of what is served. Watches of what was defined before end with it.

use crate::{Delta, Resource, registry::Registry};
use api::Object;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};
use store::{Changes, Revision};
use tokio_util::sync::CancellationToken;

/// What makes resources of stored objects.
pub trait Definitions: Send + Sync + 'static {
    /// Group and resource of the defining objects.
    fn source(&self) -> (&'static str, &'static str);

    /// The resources that an object defines, one for each served version, the preferred one first; none while the object is not in force.
    fn resources(&self, definition: &Object) -> Vec<Resource>;

    /// The fields by which what was defined becomes something else: a client that watches it must start anew. Neither a label of the definition
    /// nor its deletion is such a change.
    fn decisive(&self) -> &'static [&'static [&'static str]];
}

/// The table of what is served: the built-in resources, and those that stored objects define.
pub(crate) struct Served {
    builtin: Vec<Arc<Resource>>,
    current: ArcSwap<Table>,
    defined: Option<Defined>,
}

/// A table, and the revision of the definitions that it includes.
struct Table {
    at: Revision,
    registry: Arc<Registry>,
}

struct Defined {
    definitions: Arc<dyn Definitions>,
    changes: Changes,
    /// When nothing is served any more.
    shutdown: CancellationToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Up to which revision the definitions are known.
    at: Option<Revision>,
    /// By the name of the definition; those that define nothing are left out.
    known: BTreeMap<String, Known>,
}

/// What one definition defines.
struct Known {
    resources: Vec<Arc<Resource>>,
    /// Of the decisive fields.
    hash: u64,
    /// Cancelled when it defines something else.
    current: CancellationToken,
}

impl Served {
    /// Only the built-in resources, in the order of discovery.
    pub(crate) fn new(builtin: Vec<Resource>) -> Self {
        let builtin: Vec<Arc<Resource>> = builtin.into_iter().map(Arc::new).collect();
        let registry = Arc::new(Registry::new(builtin.clone()));
        Self { current: ArcSwap::from_pointee(Table { at: 0, registry }), builtin, defined: None }
    }

    /// The built-in resources.
    pub(crate) fn builtin(&self) -> &[Arc<Resource>] {
        &self.builtin
    }

    /// Serves what stored objects define as well, until `shutdown`. `changes` are those of their source.
    pub(crate) fn defined_by(
        &mut self,
        definitions: Arc<dyn Definitions>,
        changes: Changes,
        shutdown: CancellationToken,
    ) {
        self.defined = Some(Defined { definitions, changes, shutdown, state: Mutex::default() });
    }

    /// The current table. `since` lists what changed of the definitions after a revision.
    pub(crate) fn registry(&self, since: impl FnOnce(Option<Revision>) -> Delta) -> Arc<Registry> {
        let table = self.current.load();
        let Some(defined) = &self.defined else { return table.registry.clone() };
        if table.at >= defined.changes.last() {
            return table.registry.clone();
        }
        let mut state = defined.state.lock();
        let table = self.current.load();
        if table.at >= defined.changes.last() {
            // Another reader has done it meanwhile.
            return table.registry.clone();
        }
        let delta = since(state.at);
        let changed = state.take_over(defined, &delta);
        let registry = if changed { Arc::new(self.table(&state)) } else { table.registry.clone() };
        self.current.store(Arc::new(Table { at: delta.revision, registry: registry.clone() }));
        registry
    }

    /// Built-in resources come first, then the defined ones, sorted by group; a definition cannot take the place of a built-in resource.
    fn table(&self, state: &State) -> Registry {
        let taken: HashSet<(&str, &str)> =
            self.builtin.iter().map(|r| (r.gvr.group.as_str(), r.gvr.resource.as_str())).collect();
        let defined = state.known.values().flat_map(|known| &known.resources);
        let mut defined: Vec<&Arc<Resource>> =
            defined.filter(|r| !taken.contains(&(r.gvr.group.as_str(), r.gvr.resource.as_str()))).collect();
        // Stable: within a group the order of versions is decided by their names, within a version by the names of the definitions.
        defined.sort_by(|a, b| {
            let versions = || api::version::compare(&b.gvr.version, &a.gvr.version);
            a.gvr.group.cmp(&b.gvr.group).then_with(versions)
        });
        Registry::new(self.builtin.iter().chain(defined).cloned())
    }
}

impl State {
    /// Takes over what has changed. Returns whether other resources are served than before.
    fn take_over(&mut self, defined: &Defined, delta: &Delta) -> bool {
        let mut changed = false;
        // After a gap in the changes, what is not listed is gone.
        let mut earlier = if delta.whole { std::mem::take(&mut self.known) } else { BTreeMap::new() };
        for (_, name, object) in &delta.changes {
            let before = earlier.remove(name).or_else(|| self.known.remove(name));
            changed |= before.is_some();
            let Some(known) = object.as_ref().and_then(|object| Known::new(defined, object, before.as_ref())) else {
                before.iter().for_each(|before| before.current.cancel());
                continue;
            };
            if let Some(before) = before.filter(|before| before.hash != known.hash) {
                before.current.cancel();
            }
            changed = true;
            self.known.insert(name.clone(), known);
        }
        changed |= !earlier.is_empty();
        earlier.values().for_each(|gone| gone.current.cancel());
        self.at = Some(delta.revision);
        changed
    }
}

impl Known {
    /// Nothing if the object defines nothing.
    fn new(defined: &Defined, object: &Object, before: Option<&Self>) -> Option<Self> {
        let resources = defined.definitions.resources(object);
        if resources.is_empty() {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        object.uid().hash(&mut hasher);
        for path in defined.definitions.decisive() {
            object.at(path).hash(&mut hasher);
        }
        let hash = hasher.finish();
        let current = match before.filter(|before| before.hash == hash) {
            Some(before) => before.current.clone(),
            None => defined.shutdown.child_token(),
        };
        let custom = |mut resource: Resource| {
            resource.defined = Some(current.clone());
            Arc::new(resource)
        };
        Some(Self { resources: resources.into_iter().map(custom).collect(), hash, current })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::Plain;
    use serde_json::json;

    /// Each object defines a resource in its group, in its versions.
    struct Groups;

    impl Definitions for Groups {
        fn source(&self) -> (&'static str, &'static str) {
            ("", "groups")
        }

        fn resources(&self, definition: &Object) -> Vec<Resource> {
            let versions = definition.at(&["versions"]).and_then(|v| v.as_array()).cloned().unwrap_or_default();
            let made = |version: &serde_json::Value| {
                Resource::new(definition.name(), version.as_str().expect("a text"), "things", "Thing", Plain)
            };
            versions.iter().map(made).collect()
        }

        fn decisive(&self) -> &'static [&'static [&'static str]] {
            &[&["versions"]]
        }
    }

    fn shown(registry: &Registry) -> String {
        registry.all().iter().map(|r| r.gvr.api_version()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_defined_follows_what_is_built_in_and_cannot_replace_it() {
        let served = Served::new(vec![Resource::new("apps", "v1", "things", "Thing", Plain)]);
        assert_eq!(shown(&served.registry(|_| unreachable!("nothing defines resources"))), "apps/v1");
        let defined = defined();
        // What changes begins with the whole, whatever the revision.
        let mut state = State::default();
        let all =
            vec![object("z.com", &["v1"]), object("apps", &["v1"]), object("a.com", &["v1beta1", "v1", "v2alpha1"])];
        assert!(state.take_over(&defined, &delta(all)));
        assert_eq!(shown(&served.table(&state)), "apps/v1 a.com/v1 a.com/v1beta1 a.com/v2alpha1 z.com/v1");
        assert!(!state.take_over(&defined, &delta(vec![object("none.com", &[])])), "it defines nothing");
        let gone = vec![("".to_owned(), "a.com".to_owned(), None), object("z.com", &[])];
        assert!(state.take_over(&defined, &delta(gone)));
        assert_eq!(shown(&served.table(&state)), "apps/v1");
    }

    #[test]
    fn what_was_defined_before_ends_when_it_becomes_something_else() {
        let (defined, mut state) = (defined(), State::default());
        let current = |state: &State, name: &str| state.known[name].resources[0].defined.clone().expect("custom");
        state.take_over(&defined, &delta(["a", "b", "c"].map(|name| object(name, &["v1"])).into()));
        let before = ["a", "b", "c"].map(|name| current(&state, name));
        let ended = || before.each_ref().map(CancellationToken::is_cancelled);
        // The same again, as after a change of its labels or after a gap in the changes.
        state.take_over(&defined, &delta(vec![object("a", &["v1"])]));
        let all = ["a", "b", "c"].map(|name| object(name, &["v1"]));
        state.take_over(&defined, &Delta { revision: 8, whole: true, changes: all.into() });
        assert_eq!(ended(), [false; 3]);
        assert!(!current(&state, "a").is_cancelled());
        state.take_over(&defined, &delta(vec![object("a", &["v2"]), object("b", &[])]));
        assert_eq!(ended(), [true, true, false]);
        assert!(!current(&state, "a").is_cancelled());
        state.take_over(&defined, &Delta { revision: 9, whole: true, changes: vec![object("a", &["v2"])] });
        assert_eq!(ended(), [true; 3]);
        let last = current(&state, "a");
        assert!(!last.is_cancelled());
        defined.shutdown.cancel();
        assert!(last.is_cancelled());
    }

    fn defined() -> Defined {
        let (changes, shutdown) = (Changes::default(), CancellationToken::new());
        Defined { definitions: Arc::new(Groups), changes, shutdown, state: Mutex::default() }
    }

    fn object(name: &str, versions: &[&str]) -> (String, String, Option<Arc<Object>>) {
        let object = json!({"metadata": {"name": name}, "versions": versions});
        (String::new(), name.to_owned(), Some(Arc::new(Object::from_value(object).expect("an object"))))
    }

    fn delta(changes: Vec<(String, String, Option<Arc<Object>>)>) -> Delta {
        Delta { revision: 7, whole: false, changes }
    }
}
