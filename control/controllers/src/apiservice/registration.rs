//! Keeps an APIService for each version that a CustomResourceDefinition serves.

use super::plan::{self, Write};
use crate::{Context, customresourcedefinition::Definition};
use client::{Client, Controller, DeleteOptions, Informer, Key, Next, Patch, Target, Wakeups};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde_json::json;

/// Keeps them.
pub(crate) struct RegistrationController {
    client: Client,
    registered: Informer<APIService>,
    definitions: Informer<Definition>,
}

impl RegistrationController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self {
            client: cx.client.clone(),
            registered: cx.informers.of::<APIService>(),
            definitions: cx.informers.over(Target::of::<Definition>()),
        }
    }
}

fn names(definition: &Definition) -> impl Iterator<Item = Key> {
    definition.spec.versions.iter().map(|version| Key::new("", format!("{}.{}", version.name, definition.spec.group)))
}

#[async_trait::async_trait]
impl Controller for RegistrationController {
    const NAME: &'static str = "crd-autoregister-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.registered);
        wakeups.on(&self.definitions, |delta| {
            names(delta.object()).chain(delta.old().into_iter().flat_map(|old| names(old))).collect()
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let (stored, name) = (self.registered.find(key), key.name.as_str());
        let done = match plan::register(name, stored.as_deref(), &self.definitions.list()) {
            None => Ok(()),
            Some(Write::Create(new)) => self.client.create(&*new).await.map(drop),
            Some(Write::Update(spec)) => {
                let version = stored.as_ref().and_then(|stored| stored.metadata.resource_version.clone());
                // What it does not name is to go: it is served here.
                let mut patch = json!({"metadata": {"resourceVersion": version}, "spec": &*spec});
                for field in ["service", "caBundle", "insecureSkipTLSVerify"] {
                    patch["spec"][field] = json!(null);
                }
                self.client.patch::<APIService>("", name, Patch::Merge(patch)).await.map(drop)
            }
            Some(Write::Delete) => {
                let uid = stored.as_ref().and_then(|stored| stored.metadata.uid.clone()).unwrap_or_default();
                let options = DeleteOptions::uid(uid);
                self.client.delete::<APIService>("", name, &options).await
            }
        };
        match done {
            // Somebody was faster: that wakes this again.
            Err(error) if !error.is_not_found() && !error.is_conflict() && !error.is_already_exists() => {
                Err(error.into())
            }
            _ => Ok(Next::Done),
        }
    }
}
