//! Keeps Services and their IPAddresses together: each cluster IP has an IPAddress that names its Service, and each IPAddress of the allocator a
//! Service that has it. The API server writes both in one transaction; what is repaired here was changed by hand, or stored by an older version.
//!
//! Follows upstream's `registry/core/service/ipallocator/controller`, which is a part of its API server. As the caches of both kinds are read one
//! after the other, everything that seems wrong is read again before it is told or changed.

mod address;
mod parent;
mod service;
#[cfg(test)]
mod tests;

use crate::{Context, meta, serviceranges};
use api::Clock;
use client::{
    Client, Controller, DeleteOptions, Delta, Error, EventType, Informer, Key, Next, Preconditions, Recorder, Wakeups,
    reference,
};
use jiff::SignedDuration;
use k8s_openapi::{
    api::{
        core::v1::Service,
        networking::v1::{IPAddress, IPAddressSpec, ParentReference, ServiceCIDR},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use parent::{names_service, parent, text_of};
use service::Told;
use std::{net::IpAddr, sync::Arc, time::Duration};

/// The source of events.
const COMPONENT: &str = "ipallocator-repair-controller";

/// How old a Service is of which something can be wrong: the cache of the other kind is not so far behind.
const SETTLED: SignedDuration = SignedDuration::from_secs(5);

/// Repairs allocations. A key with a namespace is a Service, one without an IPAddress.
pub(crate) struct RepairController {
    client: Client,
    clock: Clock,
    recorder: Recorder,
    services: Informer<Service>,
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
}

/// Where objects are looked up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Caches,
    Server,
}

impl RepairController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            recorder: cx.recorder(COMPONENT),
            services: cx.informers.of(),
            ranges: cx.informers.of(),
            addresses: cx.informers.of(),
        }
    }

    async fn service(&self, from: Source, namespace: &str, name: &str) -> Result<Option<Arc<Service>>, Error> {
        match from {
            Source::Caches => Ok(self.services.get(namespace, name)),
            Source::Server => Ok(self.client.find(namespace, name).await?.map(Arc::new)),
        }
    }

    async fn address(&self, from: Source, ip: &str) -> Result<Option<Arc<IPAddress>>, Error> {
        match from {
            Source::Caches => Ok(self.addresses.get("", ip)),
            Source::Server => Ok(self.client.find("", ip).await?.map(Arc::new)),
        }
    }

    /// A Service and what is wrong with its addresses.
    async fn look(&self, from: Source, key: &Key) -> Result<Option<(Arc<Service>, Vec<service::Step>)>, Error> {
        let Some(service) = self.service(from, &key.namespace, &key.name).await? else { return Ok(None) };
        let mut facts = Vec::new();
        for text in service::cluster_ips(&service) {
            let ip: Option<IpAddr> = text.parse().ok();
            let address = match ip {
                Some(ip) => self.address(from, &ip.to_string()).await?,
                None => None,
            };
            let parent = address.as_deref().map(parent);
            let owner = match parent.filter(|parent| service::is_another(parent, &service)) {
                Some(parent) => self.service(from, text_of(&parent.namespace), &parent.name).await?,
                None => None,
            };
            facts.push(service::Fact { ip, address, owner });
        }
        let steps = service::steps(&service, &self.ranges.list(), &facts);
        Ok(Some((service, steps)))
    }

    async fn repair_service(&self, key: &Key) -> anyhow::Result<Next> {
        let Some((service, steps)) = self.look(Source::Caches, key).await? else { return Ok(Next::Done) };
        let rest = meta::non_negative(SETTLED - self.clock.now().duration_since(meta::created(&service.metadata)));
        match (steps.is_empty(), rest) {
            (true, _) => return Ok(Next::Done),
            (false, Duration::ZERO) => {}
            // Its IPAddress is on its way into the cache, and asks for the Service again.
            (false, rest) => return Ok(Next::After(rest)),
        }
        let Some((service, steps)) = self.look(Source::Server, key).await? else { return Ok(Next::Done) };
        for service::Step { told, replaced, create } in steps {
            if let Some(Told { reason, message }) = told {
                self.recorder.event(&reference(&*service), EventType::Warning, reason, message);
            }
            if let Some(address) = replaced {
                self.delete(&address).await?;
            }
            if let Some(ip) = create {
                self.client.submit(&of_service(ip, &service)).await?;
            }
        }
        Ok(Next::Done)
    }

    async fn repair_address(&self, key: &Key) -> anyhow::Result<Next> {
        let mut verdict = address::Verdict::Keep;
        for from in [Source::Caches, Source::Server] {
            let Some(address) = self.address(from, &key.name).await? else { return Ok(Next::Done) };
            let parent = parent(&address);
            let service = match names_service(parent) {
                true => self.service(from, text_of(&parent.namespace), &parent.name).await?,
                false => None,
            };
            verdict = address::verdict(&address, service.as_deref(), self.clock.now());
            if let (Source::Server, address::Verdict::Delete(Told { reason, message })) = (from, &verdict) {
                self.recorder.event(&reference(&*address), EventType::Warning, reason, message.clone());
                self.delete(&address).await?;
            }
            if !matches!(verdict, address::Verdict::Delete(_)) {
                break;
            }
        }
        Ok(match verdict {
            address::Verdict::Later(time) => Next::After(time),
            _ => Next::Done,
        })
    }

    async fn delete(&self, address: &IPAddress) -> Result<(), Error> {
        let preconditions = Preconditions { uid: address.metadata.uid.clone(), ..Preconditions::default() };
        let options = DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() };
        self.client.delete::<IPAddress>("", meta::name(&address.metadata), &options).await
    }
}

/// The IPAddress of a Service.
fn of_service(ip: IpAddr, service: &Service) -> IPAddress {
    let labels = [
        (serviceranges::FAMILY.to_owned(), serviceranges::family(ip).to_owned()),
        (serviceranges::MANAGED_BY.to_owned(), serviceranges::ALLOCATOR.to_owned()),
    ];
    let parent_ref = ParentReference {
        resource: "services".to_owned(),
        namespace: service.metadata.namespace.clone(),
        name: meta::name(&service.metadata).to_owned(),
        ..ParentReference::default()
    };
    IPAddress {
        metadata: ObjectMeta { name: Some(ip.to_string()), labels: Some(labels.into()), ..ObjectMeta::default() },
        spec: IPAddressSpec { parent_ref },
    }
}

#[async_trait::async_trait]
impl Controller for RepairController {
    const NAME: &'static str = "ipallocator-repair-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.services);
        wakeups.on(&self.addresses, |delta| {
            let address = delta.object();
            let mut keys = vec![Key::new("", meta::name(&address.metadata))];
            let parent = Some(parent(address)).filter(|parent| names_service(parent));
            keys.extend(parent.map(|parent| Key::new(text_of(&parent.namespace), parent.name.clone())));
            keys
        });
        // A Service may have had its address before there was a range with it.
        let services = self.services.clone();
        wakeups.on(&self.ranges, move |delta| match delta {
            Delta::Added(_) => services.list().iter().map(|service| Key::of(&**service)).collect(),
            _ => Vec::new(),
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        if key.namespace.is_empty() { self.repair_address(key).await } else { self.repair_service(key).await }
    }
}
