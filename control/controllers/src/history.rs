//! ControllerRevisions: the templates that a StatefulSet or DaemonSet had, for its updates and for `kubectl rollout undo`.
//!
//! Follows upstream's `pkg/controller/history`. The hash in a name is ours, since upstream's is of Go's memory; nothing compares them.

use crate::{
    claim::{Claims, candidates},
    labels::{self, Labels},
    meta,
};
use client::{Client, DeleteOptions, Informer, Kind};
use k8s_openapi::{
    api::{
        apps::v1::ControllerRevision,
        core::v1::{Pod, PodTemplateSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        runtime::RawExtension,
    },
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};

/// The label of a StatefulSet's revision with the hash of its data.
pub(crate) const HASH: &str = "controller.kubernetes.io/hash";
/// The label of a pod with its revision: with the name in a StatefulSet, and with the hash in a DaemonSet, whose revisions have it too.
pub(crate) const POD_REVISION: &str = "controller-revision-hash";
/// The longest beginning of a revision's name.
const MAX_PREFIX: usize = 223;

/// The revision of a template: what it is, without a number.
pub(crate) struct Draft {
    /// The labels of the revision, to which its hash is added.
    pub labels: Labels,
    /// The label for it.
    pub hash_label: &'static str,
    /// The annotations, those of the owner.
    pub annotations: Option<Labels>,
    /// The patch that restores the template.
    pub data: Value,
}

impl Draft {
    /// Of the template of an owner.
    pub(crate) fn new(owner: &ObjectMeta, template: &PodTemplateSpec, hash_label: &'static str) -> Self {
        let mut whole = serde_json::to_value(template).expect("a template is JSON");
        whole["$patch"] = json!("replace");
        let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        Self { labels, hash_label, annotations: owner.annotations.clone(), data: json!({"spec": {"template": whole}}) }
    }

    fn hash(&self, collisions: i32) -> String {
        let seed = if collisions > 0 { collisions.to_string() } else { String::new() };
        meta::encode(meta::hash(&self.data, seed.as_bytes()))
    }

    fn revision<O: Kind>(&self, owner: &O, number: i64, collisions: i32) -> ControllerRevision {
        let hash = self.hash(collisions);
        let name: String = meta::name(owner.metadata()).chars().take(MAX_PREFIX).collect();
        let mut labels = self.labels.clone();
        labels.insert(self.hash_label.to_owned(), hash.clone());
        ControllerRevision {
            metadata: ObjectMeta {
                name: Some(format!("{name}-{hash}")),
                namespace: owner.metadata().namespace.clone(),
                labels: Some(labels),
                annotations: self.annotations.clone(),
                owner_references: Some(vec![meta::controller_ref(owner)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(self.data.clone())),
            revision: number,
        }
    }

    fn is(&self, revision: &ControllerRevision) -> bool {
        revision.data.as_ref().is_some_and(|data| meta::same(&data.0, &self.data))
    }
}

/// The hash of a DaemonSet's revision, as its pods have it.
pub(crate) fn hash_of(revision: &ControllerRevision) -> &str {
    let labels = revision.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(POD_REVISION)).map_or_else(|| meta::name(&revision.metadata), String::as_str)
}

/// The revision of a pod, as its label has it.
pub(crate) fn revision_of(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(POD_REVISION)).map_or("", String::as_str)
}

/// The template of a revision.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    serde_json::from_value(revision.data.as_ref()?.0.pointer("/spec/template")?.clone()).ok()
}

/// What to do so that a draft is the newest revision.
#[derive(Debug, PartialEq)]
enum Step {
    /// It is.
    Newest(Arc<ControllerRevision>),
    /// It is an older one, which gets this number: a rollback.
    Renumber(Arc<ControllerRevision>, i64),
    /// There is none, and it gets this number.
    Create(i64),
}

fn step(draft: &Draft, revisions: &[Arc<ControllerRevision>]) -> Step {
    let next = revisions.last().map_or(1, |newest| newest.revision + 1);
    match revisions.iter().rposition(|revision| draft.is(revision)) {
        Some(at) if at + 1 == revisions.len() => Step::Newest(revisions[at].clone()),
        Some(at) => Step::Renumber(revisions[at].clone(), next),
        None => Step::Create(next),
    }
}

/// Those that are too many, oldest first: neither live nor among the newest `limit` others. A negative limit keeps all.
fn superfluous(
    revisions: &[Arc<ControllerRevision>],
    live: &BTreeSet<&str>,
    limit: i32,
) -> Vec<Arc<ControllerRevision>> {
    let Ok(limit) = usize::try_from(limit) else { return Vec::new() };
    let old: Vec<_> = revisions.iter().filter(|revision| !live.contains(meta::name(&revision.metadata))).collect();
    let count = old.len().saturating_sub(limit);
    old.into_iter().take(count).cloned().collect()
}

/// The history of the owners of a kind.
pub(crate) struct History {
    client: Client,
    revisions: Informer<ControllerRevision>,
}

impl History {
    pub(crate) fn new(client: Client, revisions: Informer<ControllerRevision>) -> Self {
        labels::index_orphans(&revisions);
        Self { client, revisions }
    }

    /// The owner's revisions, oldest first. Those that have no owner and match are adopted.
    ///
    /// # Errors
    /// A call fails, or the owner does not exist any more.
    pub(crate) async fn of<O: Kind>(
        &self,
        owner: &O,
        selector: &LabelSelector,
    ) -> anyhow::Result<Vec<Arc<ControllerRevision>>> {
        let parsed = meta::selector(selector).map_err(anyhow::Error::msg)?;
        let all = candidates(&self.revisions, owner.metadata(), labels::wanted(selector));
        let claims = Claims { client: &self.client, owner, finalizer: None };
        let mut own = claims.settle(&parsed, all).await?;
        own.sort_by(|a, b| {
            let key = |one: &ControllerRevision| (one.revision, meta::created(&one.metadata));
            key(a).cmp(&key(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
        });
        Ok(own)
    }

    /// Makes a draft the newest revision, and returns it. `collisions` counts the other objects that have its name.
    ///
    /// # Errors
    /// A call fails.
    pub(crate) async fn newest<O: Kind>(
        &self,
        owner: &O,
        draft: &Draft,
        revisions: &[Arc<ControllerRevision>],
        collisions: &mut i32,
    ) -> Result<Arc<ControllerRevision>, client::Error> {
        match step(draft, revisions) {
            Step::Newest(revision) => Ok(revision),
            Step::Renumber(revision, number) => {
                let changed = ControllerRevision { revision: number, ..(*revision).clone() };
                self.client.update(&changed).await.map(Arc::new)
            }
            Step::Create(number) => self.create(owner, draft, number, collisions).await,
        }
    }

    async fn create<O: Kind>(
        &self,
        owner: &O,
        draft: &Draft,
        number: i64,
        collisions: &mut i32,
    ) -> Result<Arc<ControllerRevision>, client::Error> {
        loop {
            let revision = draft.revision(owner, number, *collisions);
            let error = match self.client.create(&revision).await {
                Ok(created) => return Ok(Arc::new(created)),
                Err(error) if error.is_already_exists() => error,
                Err(error) => return Err(error),
            };
            let (namespace, name) = (meta::namespace(&revision.metadata), meta::name(&revision.metadata));
            let Some(there) = self.client.find::<ControllerRevision>(namespace, name).await? else { return Err(error) };
            if draft.is(&there) && meta::is_controlled_by(&there.metadata, meta::uid(owner.metadata())) {
                return Ok(Arc::new(there));
            }
            *collisions += 1;
        }
    }

    /// Deletes the oldest revisions that are too many.
    ///
    /// # Errors
    /// A call fails.
    pub(crate) async fn truncate(
        &self,
        revisions: &[Arc<ControllerRevision>],
        live: &BTreeSet<&str>,
        limit: i32,
    ) -> Result<(), client::Error> {
        for revision in superfluous(revisions, live, limit) {
            let (namespace, name) = (meta::namespace(&revision.metadata), meta::name(&revision.metadata));
            let options = DeleteOptions::uid(meta::uid(&revision.metadata));
            match self.client.delete::<ControllerRevision>(namespace, name, &options).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::StatefulSet;

    fn owner() -> StatefulSet {
        serde_json::from_value(
            json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u", "annotations": {"a": "1"}}}),
        )
        .unwrap()
    }

    fn draft(image: &str) -> Draft {
        let template =
            json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}});
        Draft::new(&owner().metadata, &serde_json::from_value(template).unwrap(), HASH)
    }

    fn revisions(images: &[&str]) -> Vec<Arc<ControllerRevision>> {
        let numbered = images.iter().zip(1..);
        numbered.map(|(image, number)| Arc::new(draft(image).revision(&owner(), number, 0))).collect()
    }

    #[test]
    fn a_revision_has_the_template_its_labels_and_a_name_of_its_hash() {
        let revision = draft("a:1").revision(&owner(), 3, 0);
        let labels = revision.metadata.labels.clone().unwrap();
        assert_eq!((labels["app"].as_str(), revision.revision), ("web", 3));
        assert_eq!(revision.metadata.name, Some(format!("web-{}", labels[HASH])));
        assert_eq!(revision.data.as_ref().unwrap().0["spec"]["template"]["$patch"], "replace");
        assert_eq!(template(&revision).unwrap().spec.unwrap().containers[0].image.as_deref(), Some("a:1"));
        assert_ne!(draft("a:1").revision(&owner(), 3, 1).metadata.name, revision.metadata.name, "a collision");
    }

    #[test]
    fn a_template_is_new_the_newest_or_an_older_one() {
        let all = revisions(&["a:1", "a:2", "a:3"]);
        assert_eq!(step(&draft("a:1"), &[]), Step::Create(1));
        assert_eq!(step(&draft("a:3"), &all), Step::Newest(all[2].clone()));
        assert_eq!(step(&draft("a:1"), &all), Step::Renumber(all[0].clone(), 4));
        assert_eq!(step(&draft("a:4"), &all), Step::Create(4));
    }

    #[test]
    fn the_oldest_that_nobody_needs_are_too_many() {
        let all = revisions(&["a:1", "a:2", "a:3", "a:4"]);
        let live = BTreeSet::from([meta::name(&all[0].metadata), meta::name(&all[3].metadata)]);
        for (limit, expected) in [(10, 0..0), (2, 0..0), (1, 1..2), (0, 1..3), (-1, 0..0)] {
            assert_eq!(superfluous(&all, &live, limit), all[expected], "{limit}");
        }
    }
}
