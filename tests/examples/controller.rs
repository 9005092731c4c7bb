//! A controller: each Namespace with the annotation `example.com/team` has a ConfigMap `team` that says it.

use client::{Client, Controller, Informer, Informers, Key, Next, Wakeups};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// What is to be written, if anything: decided without clock, API or any other surprise, so that a test is a table.
pub fn plan(namespace: &Namespace, current: Option<&ConfigMap>) -> Option<ConfigMap> {
    let team = client::meta::annotation(&namespace.metadata, "example.com/team")?;
    let data = Some([("name".to_owned(), team.to_owned())].into());
    if current.is_some_and(|map| map.data == data) {
        return None;
    }
    let (name, namespace) = (Some("team".to_owned()), namespace.metadata.name.clone());
    let new =
        || ConfigMap { metadata: ObjectMeta { name, namespace, ..ObjectMeta::default() }, ..ConfigMap::default() };
    Some(ConfigMap { data, ..current.cloned().unwrap_or_else(new) })
}

/// The controller.
pub struct TeamController {
    client: Client,
    namespaces: Informer<Namespace>,
    maps: Informer<ConfigMap>,
}

impl TeamController {
    /// Over the shared informers.
    pub fn new(client: Client, informers: &Informers) -> Self {
        Self { client, namespaces: informers.of(), maps: informers.of() }
    }
}

#[async_trait::async_trait]
impl Controller for TeamController {
    const NAME: &'static str = "team-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.namespaces);
        wakeups.on(&self.maps, |delta| vec![Key::new("", Key::of(&**delta.object()).namespace)]);
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(namespace) = self.namespaces.find(key) else { return Ok(Next::Done) };
        match plan(&namespace, self.maps.get(&key.name, "team").as_deref()) {
            Some(map) if map.metadata.uid.is_some() => drop(self.client.update(&map).await?),
            Some(map) => drop(self.client.create(&map).await?),
            None => {}
        }
        Ok(Next::Done)
    }
}
