//! Resources that stored objects define: custom resources. A change of a definition counts for the next request after its write was
//! acknowledged, and costs as much as the changed definition and a new table of what is served.

use crate::{Delta, Resource, registry::Registry};
use api::Object;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};
use store::{Changes, Revision};

/// What makes resources of stored objects.
pub trait Definitions: Send + Sync + 'static {
    /// Group and resource of the defining objects.
    fn source(&self) -> (&'static str, &'static str);

    /// The resources that an object defines, one for each served version, the preferred one first; none while the object is not in force.
    fn resources(&self, definition: &Object) -> Vec<Resource>;
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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Up to which revision the definitions are known.
    at: Option<Revision>,
    /// By the name of the definition; those that define nothing are left out.
    resources: BTreeMap<String, Vec<Arc<Resource>>>,
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

    /// Serves what stored objects define as well. `changes` are those of their source.
    pub(crate) fn defined_by(&mut self, definitions: Arc<dyn Definitions>, changes: Changes) {
        self.defined = Some(Defined { definitions, changes, state: Mutex::default() });
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
        let changed = state.take_over(&*defined.definitions, &delta);
        let registry = if changed { Arc::new(self.table(&state)) } else { table.registry.clone() };
        self.current.store(Arc::new(Table { at: delta.revision, registry: registry.clone() }));
        registry
    }

    /// Built-in resources come first, then the defined ones, sorted by group; a definition cannot take the place of a built-in resource.
    fn table(&self, state: &State) -> Registry {
        let taken: HashSet<(&str, &str)> =
            self.builtin.iter().map(|r| (r.gvr.group.as_str(), r.gvr.resource.as_str())).collect();
        let defined = state.resources.values().flatten();
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
    fn take_over(&mut self, definitions: &dyn Definitions, delta: &Delta) -> bool {
        let mut changed = false;
        let known = if delta.whole { std::mem::take(&mut self.resources) } else { BTreeMap::new() };
        changed |= !known.is_empty();
        for (_, name, object) in &delta.changes {
            let resources = object.as_ref().map(|object| definitions.resources(object)).unwrap_or_default();
            if resources.is_empty() {
                changed |= self.resources.remove(name).is_some();
            } else {
                changed = true;
                let custom = |mut resource: Resource| {
                    resource.custom = true;
                    Arc::new(resource)
                };
                self.resources.insert(name.clone(), resources.into_iter().map(custom).collect());
            }
        }
        self.at = Some(delta.revision);
        changed
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
    }

    fn shown(registry: &Registry) -> String {
        registry.all().iter().map(|r| r.gvr.api_version()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_defined_follows_what_is_built_in_and_cannot_replace_it() {
        let mut served = Served::new(vec![Resource::new("apps", "v1", "things", "Thing", Plain)]);
        assert_eq!(shown(&served.registry(|_| unreachable!("nothing defines resources"))), "apps/v1");
        served.defined_by(Arc::new(Groups), Changes::default());
        // What changes begins with the whole, whatever the revision.
        let object = |name: &str, versions: &[&str]| {
            let object = json!({"metadata": {"name": name}, "versions": versions});
            (String::new(), name.to_owned(), Some(Arc::new(Object::from_value(object).expect("an object"))))
        };
        let mut state = State::default();
        let delta = |changes| Delta { revision: 7, whole: false, changes };
        let all =
            vec![object("z.com", &["v1"]), object("apps", &["v1"]), object("a.com", &["v1beta1", "v1", "v2alpha1"])];
        assert!(state.take_over(&Groups, &delta(all)));
        assert_eq!(shown(&served.table(&state)), "apps/v1 a.com/v1 a.com/v1beta1 a.com/v2alpha1 z.com/v1");
        assert!(!state.take_over(&Groups, &delta(vec![object("none.com", &[])])), "it defines nothing");
        let gone = vec![("".to_owned(), "a.com".to_owned(), None), object("z.com", &[])];
        assert!(state.take_over(&Groups, &delta(gone)));
        assert_eq!(shown(&served.table(&state)), "apps/v1");
    }
}
