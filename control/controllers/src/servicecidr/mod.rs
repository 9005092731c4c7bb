//! Says of each ServiceCIDR that it is ready, and keeps one that is deleted until no IPAddress needs it.
//!
//! Follows <https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/> (KEP-1880) and upstream's
//! `pkg/controller/servicecidrs`.

mod plan;
#[cfg(test)]
mod tests;

use crate::{Context, meta, serviceranges};
use api::Clock;
use client::{Client, Controller, Delta, EventType, Informer, Key, Next, Patch, Recorder, Wakeups, reference};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use plan::{Condition, FINALIZER, Plan, plan};
use serde_json::{Value, json};

/// The manager of the fields of the status, and the source of events.
const MANAGER: &str = "service-cidr-controller";

/// Keeps ServiceCIDRs. Upstream's `service-cidr-controller`.
pub(crate) struct ServiceCidrController {
    client: Client,
    clock: Clock,
    recorder: Recorder,
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
}

impl ServiceCidrController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            recorder: cx.recorder(MANAGER),
            ranges: cx.informers.of(),
            addresses: cx.informers.of(),
        }
    }

    async fn change_finalizer(&self, range: &ServiceCIDR, add: bool) -> Result<(), client::Error> {
        let mut range = range.clone();
        let finalizers = range.metadata.finalizers.get_or_insert_default();
        if add {
            finalizers.push(FINALIZER.to_owned());
        } else {
            finalizers.retain(|one| one != FINALIZER);
        }
        match self.client.update(&range).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn say(&self, range: &ServiceCIDR, condition: &Condition) -> Result<(), client::Error> {
        let name = meta::name(&range.metadata);
        let config = configuration(name, condition, &api::time::rfc3339(self.clock.now()));
        let patch = Patch::Apply { config, manager: MANAGER.to_owned(), force: true };
        match self.client.submit_status::<ServiceCIDR>("", name, patch).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

fn configuration(name: &str, condition: &Condition, now: &str) -> Value {
    let condition = json!({"type": "Ready", "status": condition.status, "reason": condition.reason,
        "message": condition.message, "lastTransitionTime": now});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
        "status": {"conditions": [condition]}})
}

#[async_trait::async_trait]
impl Controller for ServiceCidrController {
    const NAME: &'static str = "service-cidr-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        // A new one, or one that goes, may free or hold others.
        let all = self.ranges.clone();
        wakeups.on(&self.ranges, move |delta| {
            let mut keys = vec![Key::of(&**delta.object())];
            if !matches!(delta, Delta::Modified { .. }) {
                let others = all.list();
                let others = others.iter().filter(|other| plan::overlap(other, delta.object()));
                keys.extend(others.map(|other| Key::of(&**other)).filter(|key| *key != keys[0]).collect::<Vec<_>>());
            }
            keys
        });
        // The last address of one that is deleted lets it go.
        let all = self.ranges.clone();
        wakeups.on(&self.addresses, move |delta| {
            let address = delta.object();
            let Ok(ip) = meta::name(&address.metadata).parse() else { return Vec::new() };
            let of = |range: &ServiceCIDR| meta::is_deleting(&range.metadata) && serviceranges::contains(range, ip);
            if !serviceranges::is_managed(address) {
                return Vec::new();
            }
            all.list().iter().filter(|range| of(range)).map(|range| Key::of(&**range)).collect()
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(range) = self.ranges.find(key) else { return Ok(Next::Done) };
        match plan(&range, &self.ranges.list(), || self.addresses.list(), self.clock.now()) {
            Plan::Wait(time) => return Ok(Next::After(time)),
            Plan::Release => self.change_finalizer(&range, false).await?,
            Plan::Hold(None) => {}
            Plan::Hold(Some(condition)) => self.say(&range, &condition).await?,
            Plan::Keep { add_finalizer, condition } => {
                if add_finalizer {
                    self.change_finalizer(&range, true).await?;
                }
                if let Some(condition) = condition
                    && let Err(error) = self.say(&range, &condition).await
                {
                    let text = "The ServiceCIDR Status can not be set to Ready=True";
                    let about = reference(&*range);
                    self.recorder.event(&about, EventType::Warning, "KubernetesServiceCIDRError", text);
                    return Err(error.into());
                }
            }
        }
        Ok(Next::Done)
    }
}
