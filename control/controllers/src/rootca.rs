//! Publishes the ConfigMap `kube-root-ca.crt` in every namespace: the certificate authority that pods trust.
//!
//! Follows "Bound service account tokens" (KEP-1205).

use crate::{Context, namespace::is_active};
use client::{Client, Controller, Informer, Key, Next, Target, Wakeups};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// Publishes the certificate. Upstream's `root-ca-certificate-publisher-controller`.
pub(crate) struct RootCaPublisher {
    client: Client,
    pem: String,
    namespaces: Informer<Namespace>,
    maps: Informer<ConfigMap>,
}

impl RootCaPublisher {
    /// Over the shared informers; of ConfigMaps only the published ones are watched.
    pub(crate) fn new(cx: &Context) -> Self {
        Self {
            client: cx.client.clone(),
            pem: cx.options.root_ca_pem.clone(),
            namespaces: cx.informers.of(),
            maps: cx.informers.over(Target::of::<ConfigMap>().fields(format!("metadata.name={NAME}"))),
        }
    }
}

/// The ConfigMap as it should be; `None` when `current` is that.
pub(crate) fn plan(namespace: &str, pem: &str, current: Option<&ConfigMap>) -> Option<ConfigMap> {
    let mut map = current.cloned().unwrap_or_default();
    map.metadata.namespace = Some(namespace.to_owned());
    map.metadata.name = Some(NAME.to_owned());
    map.metadata.annotations.get_or_insert_default().insert(DESCRIPTION.to_owned(), TEXT.to_owned());
    map.data = Some([("ca.crt".to_owned(), pem.to_owned())].into());
    map.binary_data = None;
    (current != Some(&map)).then_some(map)
}

#[async_trait::async_trait]
impl Controller for RootCaPublisher {
    const NAME: &'static str = "root-ca-certificate-publisher-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.namespaces);
        wakeups.on(&self.maps, |delta| {
            let meta = &delta.object().metadata;
            vec![Key::new("", meta.namespace.clone().unwrap_or_default())]
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        if !self.namespaces.find(key).is_some_and(|n| is_active(&n)) {
            return Ok(Next::Done);
        }
        let current = self.maps.get(&key.name, NAME);
        let Some(map) = plan(&key.name, &self.pem, current.as_deref()) else { return Ok(Next::Done) };
        let result = if current.is_some() { self.client.update(&map).await } else { self.client.create(&map).await };
        match result {
            Err(error) if !(error.is_already_exists() || error.is_namespace_terminating()) => Err(error.into()),
            _ => Ok(Next::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_made_kept_and_restored() {
        let made = plan("ns", "PEM", None).expect("a map");
        assert_eq!(made.data.as_ref().expect("data")["ca.crt"], "PEM");
        assert_eq!(plan("ns", "PEM", Some(&made)), None);
        let mut spoilt = made.clone();
        spoilt.data = Some([("ca.crt".to_owned(), "other".to_owned()), ("x".to_owned(), "y".to_owned())].into());
        assert_eq!(plan("ns", "PEM", Some(&spoilt)), Some(made));
    }
}
