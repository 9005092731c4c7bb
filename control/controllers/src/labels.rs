//! Informer indexes by labels: a selector finds its objects, and an object its selectors, without a walk of the namespace.

use crate::meta;
use client::{Informer, Kind};
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::Job,
        core::v1::{ReplicationController, Service},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Index of objects by each of their labels.
const LABELS: &str = "controllers/labels";
/// Index of objects without a controller, by each of their labels and by namespace.
const ORPHANS: &str = "controllers/orphans";
/// Index of selecting objects (Services, workloads) by the first label of their selector.
const SELECTORS: &str = "controllers/selectors";

/// Labels, as in metadata and selectors.
pub(crate) type Labels = BTreeMap<String, String>;

/// A kind that selects objects of its namespace by labels.
pub(crate) trait Selects: Kind {
    /// Labels that a selected object must have; the selector may require more. `None` selects nothing.
    fn wanted(&self) -> Option<&Labels>;
}

static NO_LABELS: Labels = Labels::new();

/// The `matchLabels` of a selector; its expressions may require more.
pub(crate) fn wanted(selector: &LabelSelector) -> &Labels {
    selector.match_labels.as_ref().unwrap_or(&NO_LABELS)
}

impl Selects for Service {
    fn wanted(&self) -> Option<&Labels> {
        self.spec.as_ref()?.selector.as_ref()
    }
}

impl Selects for Deployment {
    fn wanted(&self) -> Option<&Labels> {
        Some(wanted(&self.spec.as_ref()?.selector))
    }
}

impl Selects for ReplicaSet {
    fn wanted(&self) -> Option<&Labels> {
        Some(wanted(&self.spec.as_ref()?.selector))
    }
}

impl Selects for ReplicationController {
    fn wanted(&self) -> Option<&Labels> {
        self.spec.as_ref()?.selector.as_ref()
    }
}

impl Selects for StatefulSet {
    fn wanted(&self) -> Option<&Labels> {
        Some(wanted(&self.spec.as_ref()?.selector))
    }
}

impl Selects for DaemonSet {
    fn wanted(&self) -> Option<&Labels> {
        Some(wanted(&self.spec.as_ref()?.selector))
    }
}

impl Selects for Job {
    fn wanted(&self) -> Option<&Labels> {
        self.spec.as_ref()?.selector.as_ref().map(wanted)
    }
}

impl Selects for PodDisruptionBudget {
    fn wanted(&self) -> Option<&Labels> {
        self.spec.as_ref()?.selector.as_ref().map(wanted)
    }
}

/// The index value for a label in a namespace; without a label, that for the whole namespace.
fn place(namespace: &str, label: Option<(&String, &String)>) -> String {
    label.map_or_else(|| format!("{namespace}/"), |(key, value)| format!("{namespace}/{key}={value}"))
}

fn places(namespace: &str, labels: Option<&Labels>) -> impl Iterator<Item = String> {
    labels.into_iter().flatten().map(move |label| place(namespace, Some(label)))
}

/// Indexes objects by their labels, for [`selected`].
pub(crate) fn index<K: Kind>(objects: &Informer<K>) {
    objects.index(LABELS, |object| {
        let meta = object.metadata();
        places(meta::namespace(meta), meta.labels.as_ref()).collect()
    });
}

/// A superset of the objects of a namespace with these labels: those with the rarest of the labels.
pub(crate) fn selected<K: Kind>(objects: &Informer<K>, namespace: &str, wanted: &Labels) -> Vec<Arc<K>> {
    if wanted.is_empty() {
        return objects.list_in(namespace);
    }
    objects.by_rarest(LABELS, places(namespace, Some(wanted)))
}

/// Indexes objects without a controller, for [`orphans`].
pub(crate) fn index_orphans<K: Kind>(objects: &Informer<K>) {
    objects.index(ORPHANS, |object| {
        let meta = object.metadata();
        if meta::controller_of(meta).is_some() {
            return Vec::new();
        }
        let namespace = meta::namespace(meta);
        places(namespace, meta.labels.as_ref()).chain([place(namespace, None)]).collect()
    });
}

/// A superset of the objects of a namespace with these labels and without a controller.
pub(crate) fn orphans<K: Kind>(objects: &Informer<K>, namespace: &str, wanted: &Labels) -> Vec<Arc<K>> {
    if wanted.is_empty() {
        return objects.by_index(ORPHANS, &place(namespace, None));
    }
    objects.by_rarest(ORPHANS, places(namespace, Some(wanted)))
}

/// Indexes selecting objects, for [`selecting`].
pub(crate) fn index_selectors<K: Selects>(objects: &Informer<K>) {
    objects.index(SELECTORS, |object| {
        let namespace = meta::namespace(object.metadata());
        object.wanted().map(|labels| place(namespace, labels.first_key_value())).into_iter().collect()
    });
}

/// The objects of a namespace that may select an object with one of these sets of labels.
pub(crate) fn selecting<K: Selects>(objects: &Informer<K>, namespace: &str, sets: &[Option<&Labels>]) -> Vec<Arc<K>> {
    let labelled = sets.iter().flat_map(|labels| places(namespace, *labels));
    let all: BTreeSet<String> = labelled.chain([place(namespace, None)]).collect();
    all.iter().flat_map(|place| objects.by_index(SELECTORS, place)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
    use serde_json::{Value, json};

    const MANY: usize = 1000;

    fn filled<K: Kind>(objects: impl IntoIterator<Item = Value>) -> Informer<K> {
        let informer = Informer::new();
        informer.replace(objects.into_iter().map(|o| K::from_json(&o.to_string()).expect("an object")).collect(), 1);
        informer
    }

    fn pod(i: usize, owner: Option<&str>) -> Value {
        let owners = owner.map(
            |uid| json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid, "controller": true}]),
        );
        json!({"metadata": {"name": format!("p{i}"), "namespace": "n", "uid": i.to_string(),
            "labels": {"app": format!("a{i}"), "tier": "web"}, "ownerReferences": owners}})
    }

    fn names<K: Kind>(objects: &[Arc<K>]) -> Vec<String> {
        objects.iter().map(|o| meta::name(o.metadata()).to_owned()).collect()
    }

    fn labels(of: &[(&str, &str)]) -> Labels {
        of.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_selector_looks_only_at_what_has_its_rarest_label() {
        let pods = filled::<Pod>((0..MANY).map(|i| pod(i, None)));
        index(&pods);
        index_orphans(&pods);
        for find in [selected::<Pod>, orphans::<Pod>] {
            assert_eq!(names(&find(&pods, "n", &labels(&[("app", "a7"), ("tier", "web")]))), ["p7"]);
            assert!(find(&pods, "other", &labels(&[("app", "a7")])).is_empty());
            assert!(find(&pods, "n", &labels(&[("app", "nobody"), ("tier", "web")])).is_empty());
            assert_eq!(find(&pods, "n", &labels(&[("tier", "web")])).len(), MANY);
            assert_eq!(find(&pods, "n", &Labels::new()).len(), MANY, "no label is asked for");
        }
    }

    #[test]
    fn what_has_a_controller_is_no_orphan_and_what_loses_it_is_one() {
        let pods = filled::<Pod>((0..MANY).map(|i| pod(i, Some("rs"))));
        index_orphans(&pods);
        assert!(orphans(&pods, "n", &Labels::new()).is_empty());
        let free: Pod = serde_json::from_value(pod(3, None)).expect("a pod");
        let metadata = ObjectMeta { resource_version: Some("2".to_owned()), ..free.metadata };
        pods.apply(client::WatchEvent::Modified(Pod { metadata, ..free }));
        assert_eq!(names(&orphans(&pods, "n", &labels(&[("app", "a3")]))), ["p3"]);
        assert!(orphans(&pods, "n", &labels(&[("app", "a4")])).is_empty());
    }

    #[test]
    fn a_pod_looks_only_at_what_asks_for_its_labels() {
        let service = |i: usize, selector: Value| json!({"metadata": {"name": format!("s{i}"), "namespace": "n"}, "spec": {"selector": selector}});
        let some = (0..MANY).map(|i| service(i, json!({"app": format!("a{i}"), "tier": "web"})));
        let services = filled::<Service>(some.chain([service(MANY, json!({})), service(MANY + 1, Value::Null)]));
        index_selectors(&services);
        let (now, before) = (labels(&[("app", "a7"), ("tier", "web")]), labels(&[("app", "a8")]));
        assert_eq!(names(&selecting(&services, "n", &[Some(&now), Some(&before)])), ["s1000", "s7", "s8"]);
        assert_eq!(names(&selecting(&services, "n", &[None])), ["s1000"], "that selects everything");
        assert!(selecting(&services, "other", &[Some(&now)]).is_empty());
        let owner = |i: usize| json!({"metadata": {"name": format!("rs{i}"), "namespace": "n"}, "spec": {"selector": {"matchLabels": {"app": format!("a{i}")}}}});
        let expressions = json!({"metadata": {"name": "any", "namespace": "n"}, "spec": {"selector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}});
        let sets = filled::<ReplicaSet>((0..MANY).map(owner).chain([expressions]));
        index_selectors(&sets);
        assert_eq!(names(&selecting(&sets, "n", &[Some(&now)])), ["any", "rs7"]);
    }
}
