//! Creates the ServiceAccount `default` in every namespace.
//!
//! Follows <https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/>.

use crate::{Context, namespace::is_active};
use client::{Client, Controller, Informer, Key, Next, Wakeups};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};

/// Creates `default` where it is missing. Upstream's `serviceaccount-controller`.
pub(crate) struct ServiceAccountController {
    client: Client,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

impl ServiceAccountController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self { client: cx.client.clone(), namespaces: cx.informers.of(), accounts: cx.informers.of() }
    }
}

#[async_trait::async_trait]
impl Controller for ServiceAccountController {
    const NAME: &'static str = "serviceaccount-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.namespaces);
        wakeups.on(&self.accounts, |delta| {
            let meta = &delta.object().metadata;
            let key = || Key::new("", meta.namespace.clone().unwrap_or_default());
            (meta.name.as_deref() == Some("default")).then(key).into_iter().collect()
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let active = self.namespaces.find(key).is_some_and(|n| is_active(&n));
        if !active || self.accounts.get(&key.name, "default").is_some() {
            return Ok(Next::Done);
        }
        let mut account = ServiceAccount::default();
        account.metadata.namespace = Some(key.name.clone());
        account.metadata.name = Some("default".to_owned());
        match self.client.create(&account).await {
            Err(error) if !(error.is_already_exists() || error.is_namespace_terminating()) => Err(error.into()),
            _ => Ok(Next::Done),
        }
    }
}
