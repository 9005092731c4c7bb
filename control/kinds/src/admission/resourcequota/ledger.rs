//! How much of each quota is used. A count is never too low: it is made of what is stored and what is being written, and grows with each
//! charge; deletions show with the next count. There is one before anything is refused, and one after a start.

use super::Kept;
use api::quota::{self, GroupResource, Usage};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::Value;
use server::{Changes, Objects};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// A quota is counted again so long after its first count, by the next write: those that began before it was there, and were not charged, have
/// been stored then. Most take milliseconds. Upstream counts them when its controller does.
const CONFIRM: [SignedDuration; 3] =
    [SignedDuration::from_millis(50), SignedDuration::from_millis(500), SignedDuration::from_secs(2)];

/// How many namespaces without quotas are kept in mind.
const FORGOTTEN: usize = 64;

/// The accounts of all namespaces that have quotas.
#[derive(Default)]
pub(super) struct Ledger {
    namespaces: Mutex<HashMap<String, Arc<Mutex<Namespace>>>>,
    /// The number of the next charge: never given again, so that a late answer changes nothing in a namespace that was made anew.
    next: AtomicU64,
    changes: Mutex<HashMap<GroupResource, Changes>>,
}

#[derive(Default)]
struct Namespace {
    /// The writes that are charged and not stored yet.
    pending: BTreeMap<u64, Pending>,
    /// By the uid of the quota.
    accounts: HashMap<String, Account>,
}

struct Pending {
    resource: GroupResource,
    uid: String,
    object: Value,
    /// By the uid of the quota.
    charges: Vec<(String, Usage)>,
}

struct Account {
    kept: Arc<Kept>,
    /// Never too low.
    used: Usage,
    /// The last change of each resource that is counted, before the count.
    seen: Vec<(GroupResource, u64)>,
    /// When it was counted first.
    first: Timestamp,
    /// How many of [`CONFIRM`] have passed at the last count.
    confirmed: usize,
}

/// A write that asks for room.
pub(super) struct Wanted<'a> {
    pub(super) namespace: &'a str,
    pub(super) resource: (&'a str, &'a str),
    pub(super) uid: &'a str,
    pub(super) object: Value,
    /// What each quota is charged.
    pub(super) charges: Vec<(Arc<Kept>, Usage)>,
}

/// A charged write.
#[derive(Clone)]
pub(super) struct Place {
    namespace: String,
    number: u64,
}

impl Ledger {
    /// Charges all quotas, or none.
    ///
    /// # Errors
    /// Upstream's text: a quota has no room.
    pub(super) fn charge(
        &self,
        objects: &dyn Objects,
        quotas: &[Arc<Kept>],
        wanted: Wanted<'_>,
        now: Timestamp,
    ) -> Result<Place, String> {
        let namespace = self.namespaces.lock().entry(wanted.namespace.to_owned()).or_default().clone();
        let mut namespace = namespace.lock();
        let Namespace { pending, accounts } = &mut *namespace;
        accounts.retain(|uid, _| quotas.iter().any(|kept| kept.uid == *uid));
        let counter = Counter { ledger: self, objects, namespace: wanted.namespace, now };
        for (kept, charge) in &wanted.charges {
            let account = match accounts.get_mut(&kept.uid) {
                Some(account) => account,
                None => {
                    let (used, seen) = (Usage::new(), Vec::new());
                    let made = Account { kept: kept.clone(), used, seen, first: now, confirmed: 0 };
                    let account = accounts.entry(kept.uid.clone()).or_insert(made);
                    counter.count(account, pending);
                    account
                }
            };
            account.refresh(kept, pending, &counter);
            let mut exceeded = account.exceeded(charge);
            if !exceeded.is_empty() && counter.has_changed(account) {
                counter.count(account, pending);
                exceeded = account.exceeded(charge);
            }
            if !exceeded.is_empty() {
                let names: Vec<&str> = exceeded.iter().map(String::as_str).collect();
                let of = |usage: &Usage| quota::print(&quota::only(usage, &names));
                return Err(format!(
                    "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                    kept.name,
                    of(charge),
                    of(&account.used),
                    of(&kept.quota.hard)
                ));
            }
        }
        for (kept, charge) in &wanted.charges {
            if let Some(account) = accounts.get_mut(&kept.uid) {
                quota::add(&mut account.used, charge);
            }
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (group, resource) = wanted.resource;
        let charges = wanted.charges.into_iter().map(|(kept, charge)| (kept.uid.clone(), charge)).collect();
        let resource = (group.to_owned(), resource.to_owned());
        pending.insert(number, Pending { resource, uid: wanted.uid.to_owned(), object: wanted.object, charges });
        Ok(Place { namespace: wanted.namespace.to_owned(), number })
    }

    /// The write is stored.
    pub(super) fn keep(&self, place: &Place) {
        let namespace = self.namespaces.lock().get(&place.namespace).cloned();
        if let Some(namespace) = namespace {
            namespace.lock().pending.remove(&place.number);
        }
    }

    /// The write is not stored.
    pub(super) fn give_back(&self, place: &Place) {
        let Some(namespace) = self.namespaces.lock().get(&place.namespace).cloned() else { return };
        let mut namespace = namespace.lock();
        let Some(pending) = namespace.pending.remove(&place.number) else { return };
        for (uid, charge) in &pending.charges {
            let Some(account) = namespace.accounts.get_mut(uid) else { continue };
            for (name, amount) in charge {
                if let Some(used) = account.used.get_mut(name) {
                    *used -= *amount;
                }
            }
        }
    }

    /// Forgets namespaces that have no quotas any more, when there are many of them.
    pub(super) fn forget(&self, others: usize, has_quotas: impl Fn(&str) -> bool) {
        let mut namespaces = self.namespaces.lock();
        if namespaces.len() > others + FORGOTTEN {
            namespaces.retain(|name, _| has_quotas(name));
        }
    }

    fn last(&self, objects: &dyn Objects, resource: &GroupResource) -> u64 {
        let mut changes = self.changes.lock();
        if let Some(known) = changes.get(resource) {
            return known.last();
        }
        let known = objects.changes(&resource.0, &resource.1);
        let last = known.last();
        changes.insert(resource.clone(), known);
        last
    }
}

impl Account {
    /// Counts again where the quota has changed, where the controller counted more, and a few times after the first count.
    fn refresh(&mut self, kept: &Arc<Kept>, pending: &BTreeMap<u64, Pending>, counter: &Counter<'_>) {
        let age = counter.now.duration_since(self.first);
        let passed = CONFIRM.iter().filter(|after| age >= **after).count();
        let mut again = passed > self.confirmed;
        self.confirmed = self.confirmed.max(passed);
        if !Arc::ptr_eq(&self.kept, kept) {
            let other =
                self.kept.quota.hard.keys().ne(kept.quota.hard.keys()) || self.kept.quota.scopes != kept.quota.scopes;
            let more =
                |(name, told): (&String, &api::quantity::Quantity)| self.used.get(name).is_some_and(|used| told > used);
            again |= other || kept.told.iter().any(more);
            self.kept = kept.clone();
        }
        if again {
            counter.count(self, pending);
        }
    }

    /// The names of the limits that a charge exceeds.
    fn exceeded(&self, charge: &Usage) -> Vec<String> {
        let too_much = |(name, amount): &(&String, &api::quantity::Quantity)| {
            let used = self.used.get(*name).map_or(**amount, |used| *used + **amount);
            self.kept.quota.hard.get(*name).is_some_and(|hard| used > *hard)
        };
        charge.iter().filter(too_much).map(|(name, _)| name.clone()).collect()
    }
}

/// Counts what is stored in a namespace.
struct Counter<'a> {
    ledger: &'a Ledger,
    objects: &'a dyn Objects,
    namespace: &'a str,
    now: Timestamp,
}

impl Counter<'_> {
    /// Whether something that counts has changed since the last count.
    fn has_changed(&self, account: &Account) -> bool {
        account.seen.iter().any(|(resource, seen)| self.ledger.last(self.objects, resource) != *seen)
    }

    /// Counts what is stored and what is being written; what is both counts once, by the higher.
    fn count(&self, account: &mut Account, pending: &BTreeMap<u64, Pending>) {
        let quota = &account.kept.quota;
        let (mut used, mut seen) = (Usage::new(), Vec::new());
        for resource in quota.resources() {
            let (group, name) = (resource.0.as_str(), resource.1.as_str());
            // Before the objects are read, so that a change in between causes another count.
            seen.push((resource.clone(), self.ledger.last(self.objects, &resource)));
            let names = quota.names(group, name);
            let of = |object: &Value| {
                let covered = quota.covers(group, name, object);
                covered.then(|| quota::only(&quota::usage(group, name, object, self.now), &names))
            };
            let zero = names.iter().map(|name| ((*name).to_owned(), api::quantity::Quantity::default()));
            quota::add(&mut used, &zero.collect());
            let mut writing = BTreeMap::<&str, Usage>::new();
            for write in pending.values().filter(|write| write.resource == resource) {
                let highest = writing.entry(write.uid.as_str()).or_default();
                raise(highest, of(&write.object).unwrap_or_default());
            }
            for object in self.objects.list(group, name, self.namespace) {
                let uid = object.uid().to_owned();
                let object = Arc::try_unwrap(object).unwrap_or_else(|shared| (*shared).clone()).into_value();
                let mut own = of(&object).unwrap_or_default();
                raise(&mut own, writing.remove(uid.as_str()).unwrap_or_default());
                quota::add(&mut used, &own);
            }
            writing.values().for_each(|own| quota::add(&mut used, own));
        }
        (account.used, account.seen) = (used, seen);
    }
}

/// The higher of each amount.
fn raise(to: &mut Usage, other: Usage) {
    for (name, amount) in other {
        let mine = to.entry(name).or_insert(amount);
        *mine = (*mine).max(amount);
    }
}
