//! Bindings: where a policy is in force, and with which parameters.

use crate::{admission::matching::Criteria, at::At};
use api::{Object, selector::Selector};
use server::Index;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Which objects are the parameters.
#[derive(Debug)]
pub(super) struct Reference {
    /// The name of the only one; empty where a selector selects.
    pub(super) name: String,
    /// Their namespace; that of the request if it is empty.
    pub(super) namespace: String,
    pub(super) selector: Option<Result<Selector, String>>,
    /// A request is refused if there are none.
    pub(super) denies_missing: bool,
}

/// A binding.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) name: String,
    /// For which of the policy's requests; none for all.
    pub(super) criteria: Option<Criteria>,
    pub(super) reference: Option<Reference>,
    /// `Deny`, `Warn`, `Audit`; of validating policies only.
    pub(super) actions: Vec<String>,
}

impl Binding {
    fn of(object: &Object) -> Self {
        let spec = At::of(object, "spec");
        let (resources, reference) = (spec.get("matchResources"), spec.get("paramRef"));
        let selector = reference.get("selector");
        Self {
            name: object.name().to_owned(),
            criteria: resources.is_set().then(|| Criteria::of(resources)),
            reference: reference.is_set().then(|| Reference {
                name: reference.get("name").str().to_owned(),
                namespace: reference.get("namespace").str().to_owned(),
                selector: selector.is_set().then(|| Selector::from_label_selector(selector.value())),
                denies_missing: reference.get("parameterNotFoundAction").str() == "Deny",
            }),
            actions: spec.get("validationActions").items().map(|action| action.str().to_owned()).collect(),
        }
    }
}

/// Bindings by the name of their policy, then by their own.
pub(super) type ByPolicy = BTreeMap<String, BTreeMap<String, Arc<Binding>>>;

/// All bindings of a kind.
#[derive(Default)]
pub(super) struct Bindings {
    pub(super) all: Arc<ByPolicy>,
    /// The policy of each.
    policies: HashMap<String, String>,
}

impl Index for Bindings {
    fn put(&mut self, _: &str, name: &str, object: Option<&Object>) {
        let all = Arc::make_mut(&mut self.all);
        if let Some(policy) = self.policies.remove(name)
            && let Some(of) = all.get_mut(&policy)
        {
            of.remove(name);
            if of.is_empty() {
                all.remove(&policy);
            }
        }
        let Some(object) = object else { return };
        let policy = object.str_at(&["spec", "policyName"]).unwrap_or_default().to_owned();
        all.entry(policy.clone()).or_default().insert(name.to_owned(), Arc::new(Binding::of(object)));
        self.policies.insert(name.to_owned(), policy);
    }
}
