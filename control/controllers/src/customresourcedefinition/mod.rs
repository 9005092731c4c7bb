//! Puts CustomResourceDefinitions in force: accepts their names and sets their conditions; and deletes the objects of those that are being
//! deleted, before they go. In upstream this is a part of the API server, so that it always runs.
//!
//! Follows <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/>.

mod definition;
mod plan;

pub(crate) use self::definition::Definition;

use self::definition::Status;
use crate::{Context, meta};
use client::{
    Client, Controller, Error, Informer, Key, Next, PartialObjectMetadata, Patch, Target, Wakeups, discovery::Resource,
};
use http::Method;
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// How long the objects of a deleted definition are waited for between two looks. Nothing tells of them: no informer follows each kind here.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Accepts definitions, and empties them.
pub(crate) struct CustomResourceDefinitionController {
    client: Client,
    clock: api::Clock,
    definitions: Informer<Definition>,
}

impl CustomResourceDefinitionController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            definitions: cx.informers.over(Target::of::<Definition>()),
        }
    }

    async fn write(&self, definition: &Definition, status: &Status) -> Result<(), Error> {
        let version = &definition.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version},
            "status": {"acceptedNames": status.accepted_names, "conditions": status.conditions}});
        let name = meta::name(&definition.metadata);
        self.client.submit_status::<Definition>("", name, Patch::Merge(patch)).await
    }

    /// The resource of a definition, in a version in which its objects can be listed.
    fn resource(definition: &Definition) -> Option<Resource> {
        let (spec, names) = (&definition.spec, &definition.status.accepted_names);
        let version = spec.versions.iter().find(|v| v.served).or_else(|| spec.versions.iter().find(|v| v.storage))?;
        Some(Resource {
            group: spec.group.clone(),
            version: version.name.clone(),
            others: Vec::new(),
            resource: names.plural.clone(),
            kind: names.kind.clone(),
            namespaced: spec.scope != "Cluster",
            verbs: Vec::new(),
        })
    }

    /// Deletes all objects; returns how many are left.
    async fn empty(&self, resource: &Resource) -> Result<usize, Error> {
        let target = Target::resource(resource);
        let list = self.client.list_target::<PartialObjectMetadata>(&target).await?;
        let mut left: BTreeSet<String> = list.items.into_iter().map(|item| item.namespace).collect();
        // What cannot be read is there nevertheless.
        left.extend(list.undecodable.into_iter().map(|bad| bad.key.namespace));
        for namespace in &left {
            self.client.raw(Method::DELETE, &resource.path(namespace, ""), None).await?;
        }
        if left.is_empty() {
            return Ok(0);
        }
        let list = self.client.list_target::<PartialObjectMetadata>(&target).await?;
        Ok(list.items.len() + list.undecodable.len())
    }

    /// One step of a deletion.
    async fn clean(&self, definition: &Definition) -> anyhow::Result<Next> {
        let mut status = definition.status.clone();
        let now = self.clock.now();
        let resource = Self::resource(definition).filter(|_| definition.is_true("Established"));
        let (done, reason, message) = match &resource {
            None => (true, "NeverEstablished", "resource was never established".to_owned()),
            Some(resource) => match self.empty(resource).await {
                Ok(0) => (true, "InstanceDeletionCompleted", "removed all instances".to_owned()),
                Ok(_) => (false, "InstanceDeletionInProgress", "CustomResource deletion is in progress".to_owned()),
                Err(error) => (false, "InstanceDeletionFailed", format!("could not issue all deletes: {error}")),
            },
        };
        plan::set(&mut status, "Terminating", !done, reason, &message, now);
        if status != definition.status {
            // A conflict wakes this again.
            match self.write(definition, &status).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error.into()),
                _ => {}
            }
        }
        if !done {
            return Ok(Next::After(LOOK_AGAIN));
        }
        let finalizers = definition.metadata.finalizers.iter().flatten().filter(|name| *name != CLEANUP);
        let finalizers: Vec<Value> = finalizers.map(|name| json!(name)).collect();
        let patch = json!({"metadata": {"uid": definition.metadata.uid, "finalizers": finalizers}});
        match self.client.patch::<Definition>("", meta::name(&definition.metadata), Patch::Merge(patch)).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(Next::Done),
        }
    }
}

#[async_trait::async_trait]
impl Controller for CustomResourceDefinitionController {
    const NAME: &'static str = "customresourcedefinition-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.definitions);
        // A name that is given back or taken concerns the others of the group.
        let definitions = self.definitions.clone();
        wakeups.on(&self.definitions, move |delta| {
            let changed = delta.object();
            let names = |definition: &Arc<Definition>| definition.status.accepted_names.clone();
            if delta.old().is_some_and(|old| names(old) == names(changed)) {
                return Vec::new();
            }
            let waits = |other: &&Arc<Definition>| {
                other.spec.group == changed.spec.group
                    && other.metadata.name != changed.metadata.name
                    && !other.is_true("NamesAccepted")
            };
            definitions.list().iter().filter(waits).map(|other| Key::of(&**other)).collect()
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(definition) = self.definitions.find(key) else { return Ok(Next::Done) };
        if definition.metadata.deletion_timestamp.is_some() {
            let waits = definition.metadata.finalizers.iter().flatten().any(|name| name == CLEANUP);
            return if waits { self.clean(&definition).await } else { Ok(Next::Done) };
        }
        let all = self.definitions.list();
        if let Some(status) = plan::plan(&definition, &all, self.clock.now()) {
            match self.write(&definition, &status).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(Next::Done)
    }
}
