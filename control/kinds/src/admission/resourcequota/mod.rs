//! ResourceQuota: refuses objects for which a quota of the namespace has no room. The check and the charge are one step under the lock of the
//! namespace's [`ledger`], and what is charged stays charged until the write is stored or has failed, so that concurrent writes never
//! exceed a quota. `status.used` is for readers: the controller counts it.

mod ledger;

#[cfg(test)]
mod tests;

use self::ledger::{Ledger, Wanted};
use api::{
    Object, Status,
    quota::{self, Quota, Usage},
};
use serde_json::Value;
use server::{
    Derived, Reservation,
    admission::{Admission, Attributes, Operation, forbidden},
};
use std::{collections::HashMap, sync::Arc};

pub(super) struct ResourceQuota {
    quotas: Derived<Quotas>,
    ledger: Arc<Ledger>,
}

impl Default for ResourceQuota {
    fn default() -> Self {
        Self { quotas: Derived::new("", "resourcequotas", by_namespace), ledger: Arc::default() }
    }
}

/// The quotas of each namespace.
type Quotas = HashMap<String, Vec<Arc<Kept>>>;

/// A stored quota.
pub(super) struct Kept {
    name: String,
    uid: String,
    quota: Quota,
    /// `status.used`, as the controller counted it.
    told: Usage,
}

fn by_namespace(objects: Vec<Arc<Object>>) -> Quotas {
    let mut quotas = Quotas::new();
    for object in objects {
        let null = Value::Null;
        let told = object.at(&["status", "used"]).unwrap_or(&null);
        let kept = Kept {
            name: object.name().to_owned(),
            uid: object.uid().to_owned(),
            quota: Quota::of(object.at(&["spec"]).unwrap_or(&null)),
            told: quota::amounts(told),
        };
        quotas.entry(object.namespace().to_owned()).or_default().push(Arc::new(kept));
    }
    quotas
}

#[async_trait::async_trait]
impl Admission for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        let cx = &attributes.context;
        let gvr = &cx.resource.gvr;
        if attributes.updates("", "pods", "resize") {
            return true;
        }
        if !cx.resource.namespaced || !cx.subresource.is_empty() || quota::is_ignored(&gvr.group, &gvr.resource) {
            return false;
        }
        match cx.operation {
            Operation::Create => true,
            Operation::Update => !quota::is_counted_only(&gvr.group, &gvr.resource),
            Operation::Delete | Operation::Connect => false,
        }
    }

    async fn reserve(&self, attributes: &Attributes, object: &Object) -> Result<Reservation, Status> {
        let cx = &attributes.context;
        let namespace = object.namespace();
        let all = self.quotas.read(cx.objects.as_ref());
        self.ledger.forget(all.len(), |namespace| all.contains_key(namespace));
        let Some(quotas) = all.get(namespace) else { return Ok(Reservation::none()) };
        let (group, resource) = (cx.resource.gvr.group.as_str(), cx.resource.gvr.resource.as_str());
        let new = object.clone().into_value();
        let old = attributes.old.as_ref().map(|old| Object::clone(old).into_value());
        if !attributes.updates("", "pods", "resize") && !concerns((group, resource), &new, old.as_ref()) {
            return Ok(Reservation::none());
        }
        let charges = charges(quotas, (group, resource), &new, old.as_ref(), cx.now)
            .map_err(|why| forbidden(attributes, object, &why))?;
        if charges.is_empty() {
            return Ok(Reservation::none());
        }
        let wanted = Wanted { namespace, resource: (group, resource), uid: object.uid(), object: new, charges };
        let place = self.ledger.charge(cx.objects.as_ref(), quotas, wanted, cx.now);
        let place = place.map_err(|why| forbidden(attributes, object, &why))?;
        let (ledger, other) = (self.ledger.clone(), self.ledger.clone());
        let (kept, given_back) = (place.clone(), place);
        Ok(Reservation::new(move || ledger.give_back(&given_back)).after_commit(move || other.keep(&kept)))
    }
}

/// How much each quota is charged; of those that are not charged there is no entry.
fn charges(
    quotas: &[Arc<Kept>],
    (group, resource): (&str, &str),
    new: &Value,
    old: Option<&Value>,
    now: jiff::Timestamp,
) -> Result<Vec<(Arc<Kept>, Usage)>, String> {
    let covering: Vec<&Arc<Kept>> = quotas.iter().filter(|kept| kept.quota.covers(group, resource, new)).collect();
    if covering.is_empty() {
        return Ok(Vec::new());
    }
    if (group, resource) == ("", "pods") {
        for kept in &covering {
            if let Some(missing) = quota::missing(&kept.quota.names(group, resource), new) {
                return Err(format!("failed quota: {}: {missing}", kept.name));
            }
        }
    }
    let usage = quota::usage(group, resource, new, now);
    let negative: Vec<&str> =
        usage.iter().filter(|(_, amount)| amount.signum() < 0).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
    }
    let before = old.map(|old| (old, quota::usage(group, resource, old, now)));
    let charge = |kept: &Arc<Kept>| {
        let names = kept.quota.names(group, resource);
        let all = match &before {
            Some((old, before)) if kept.quota.covers(group, resource, old) => quota::excess(&usage, before),
            _ => usage.clone(),
        };
        let mut own = quota::only(&all, &names);
        own.retain(|_, amount| !amount.is_zero());
        (!own.is_empty()).then(|| (kept.clone(), own))
    };
    Ok(covering.into_iter().filter_map(charge).collect())
}

/// Whether a write of the object itself can change what counts. What a pod uses changes by a resize alone; it may only come under another
/// scope.
fn concerns(resource: (&str, &str), new: &Value, old: Option<&Value>) -> bool {
    let deadline = |pod: &Value| pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    old.is_none_or(|old| resource != ("", "pods") || deadline(new) != deadline(old))
}
