//! Sets the condition `Available` of APIServices. Whether a server answers is asked through the API server, at a path of its own: a controller has
//! no way to Services, and no certificate of the front proxy.

use super::plan::{self, Verdict};
use crate::{Context, meta};
use client::{Client, Controller, Error, Informer, Key, Next, Patch, Wakeups};
use http::Method;
use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// How often a server is asked, for nothing tells when it ends.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How soon one that did not answer is asked again.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The index of APIServices and of slices by their Services.
const BY_SERVICE: &str = "service";

/// Keeps the conditions.
pub(crate) struct AvailabilityController {
    client: Client,
    clock: api::Clock,
    registered: Informer<APIService>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
}

fn place(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// The Service of an APIService.
fn service_of(registered: &APIService) -> Option<(&str, &str)> {
    let reference = registered.spec.as_ref()?.service.as_ref()?;
    Some((reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default()))
}

/// The place of a slice's Service.
fn place_of(slice: &EndpointSlice) -> Option<String> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(place(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

impl AvailabilityController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let registered = cx.informers.of::<APIService>();
        registered.index(BY_SERVICE, |one| {
            service_of(one).map(|(namespace, name)| place(namespace, name)).into_iter().collect()
        });
        let slices = cx.informers.of::<EndpointSlice>();
        slices.index(BY_SERVICE, |slice| place_of(slice).into_iter().collect());
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            registered,
            services: cx.informers.of::<Service>(),
            slices,
        }
    }

    /// Asks the server of an APIService.
    async fn ask(&self, name: &str) -> Result<Verdict, Error> {
        match self.client.raw(Method::GET, &format!("/aggregator/checks/{name}"), None).await {
            Ok(_) => Ok(plan::passed()),
            Err(Error::Api(status)) if status.code == 503 => Ok(plan::failed(&status.message)),
            Err(error) => Err(error),
        }
    }
}

#[async_trait::async_trait]
impl Controller for AvailabilityController {
    const NAME: &'static str = "apiservice-availability-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.registered);
        let registered = self.registered.clone();
        let of = move |place: Option<String>| -> Vec<Key> {
            let all = place.map(|place| registered.by_index(BY_SERVICE, &place)).unwrap_or_default();
            all.iter().map(|one| Key::of(&**one)).collect()
        };
        let keys = of.clone();
        wakeups.on(&self.services, move |delta| {
            let meta = &delta.object().metadata;
            keys(Some(place(meta.namespace.as_deref().unwrap_or_default(), meta::name(meta))))
        });
        wakeups.on(&self.slices, move |delta| {
            let mut keys = of(place_of(delta.object()));
            keys.extend(delta.old().map(|old| of(place_of(old))).unwrap_or_default());
            keys
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(registered) = self.registered.find(key) else { return Ok(Next::Done) };
        let reference = registered.spec.as_ref().and_then(|spec| spec.service.as_ref());
        let (mut service, mut slices) = (None, Vec::<Arc<EndpointSlice>>::new());
        if let Some((namespace, name)) = service_of(&registered) {
            service = self.services.get(namespace, name);
            slices = self.slices.by_index(BY_SERVICE, &place(namespace, name));
        }
        let name = meta::name(&registered.metadata);
        let (verdict, asked) = match plan::judge(reference, service.as_deref(), &slices) {
            Some(verdict) => (verdict, false),
            None => (self.ask(name).await?, true),
        };
        let next = match (&verdict, asked) {
            ((true, ..), true) => Next::After(LOOK_AGAIN),
            ((false, ..), true) => Next::After(TRY_AGAIN),
            _ => Next::Done,
        };
        let old = registered.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        if let Some(conditions) = plan::conditions(old, verdict, self.clock.now()) {
            let version = &registered.metadata.resource_version;
            let patch = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": conditions}});
            // A conflict wakes this again.
            match self.client.submit_status::<APIService>("", name, Patch::Merge(patch)).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(next)
    }
}
