//! What a Deployment needs done, given its ReplicaSets. Pure.

use super::{
    revision::{self, REVISION, by_age},
    rolling::{self, DESIRED_REPLICAS, available, count_annotation, desired, max_surge, max_unavailable, replicas},
    status,
};
use crate::meta;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use std::{sync::Arc, time::Duration};

/// One write. Steps run in order; the first failure ends the reconcile.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Create the ReplicaSet of the current template.
    Create(Arc<ReplicaSet>),
    /// Write size or annotations.
    Update {
        /// The whole new object.
        rs: Arc<ReplicaSet>,
        /// The old and the new size, if it changes.
        scaled: Option<(i32, i32)>,
    },
    /// Delete an old revision.
    Delete(Arc<ReplicaSet>),
}

/// The work of one reconcile.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The writes to ReplicaSets.
    pub steps: Vec<Step>,
    /// The Deployment with its new status and revision annotation, if they change.
    pub write: Option<Deployment>,
    /// The Deployment with the status so far, for the report of a failed step.
    pub seen: Deployment,
    /// When to reconcile again without a change.
    pub after: Option<Duration>,
}

/// The ReplicaSets, and the changes so far.
struct View {
    d: Deployment,
    new: Option<Arc<ReplicaSet>>,
    old: Vec<Arc<ReplicaSet>>,
    created: bool,
    /// Names of changed ReplicaSets with their first size, in order of change.
    touched: Vec<(String, i32)>,
    deleted: Vec<Arc<ReplicaSet>>,
    now: Timestamp,
}

/// Compares `d` with the ReplicaSets it controls. `old_pods_running` takes the name of the current ReplicaSet and tells whether pods of any
/// other one still run; the strategy Recreate waits for them.
pub(crate) fn plan(
    d: &Deployment,
    sets: &[Arc<ReplicaSet>],
    old_pods_running: impl Fn(Option<&str>) -> bool,
    now: Timestamp,
) -> Plan {
    let current = revision::current(d, sets);
    let old = sets.iter().enumerate().filter(|(i, _)| Some(*i) != current).map(|(_, rs)| rs.clone()).collect();
    let mut view = View {
        d: d.clone(),
        new: current.map(|i| sets[i].clone()),
        old,
        created: false,
        touched: Vec::new(),
        deleted: Vec::new(),
        now,
    };
    if d.metadata.deletion_timestamp.is_some() {
        view.adopt_current();
        return view.finish(d, false);
    }
    status::note_pause(&mut view.d, now);
    view.adopt_current();
    let paused = d.spec.as_ref().and_then(|s| s.paused).unwrap_or(false);
    if paused || view.is_scaling() {
        view.scale();
        if paused {
            view.clean_up();
        }
        return view.finish(d, false);
    }
    if rolling::is_rolling(d) {
        view.roll();
    } else {
        view.recreate(old_pods_running);
    }
    view.finish(d, true)
}

impl View {
    /// The next revision number.
    fn next_revision(&self) -> i64 {
        self.old.iter().map(|rs| revision::revision(rs)).max().unwrap_or(0) + 1
    }

    /// Updates the annotations of an existing current ReplicaSet, and the revision of the Deployment.
    fn adopt_current(&mut self) {
        let next = self.next_revision();
        let Some(new) = self.new.clone() else { return };
        let mut copy = (*new).clone();
        let ready = self.d.spec.as_ref().and_then(|s| s.min_ready_seconds);
        let annotated = revision::annotate(&self.d, &mut copy, next, true);
        let spec = copy.spec.get_or_insert_default();
        let retimed = spec.min_ready_seconds.unwrap_or(0) != ready.unwrap_or(0);
        spec.min_ready_seconds = ready;
        if annotated || retimed {
            self.replace(copy);
        }
        let new = self.new.clone().expect("set above");
        self.set_revision(&new);
        let name = meta::name(&new.metadata).to_owned();
        status::note_new_set(&mut self.d, &name, false, self.now);
    }

    fn set_revision(&mut self, rs: &ReplicaSet) {
        if let Some(value) = meta::annotation(&rs.metadata, REVISION) {
            self.d.metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), value.to_owned());
        }
    }

    fn create_current(&mut self) {
        if self.new.is_some() {
            return;
        }
        let mut rs = revision::new_set(&self.d);
        let size = rolling::new_size(&self.d, self.total(), 0);
        rs.spec.get_or_insert_default().replicas = Some(size);
        revision::annotate(&self.d, &mut rs, self.next_revision(), false);
        self.set_revision(&rs);
        let name = meta::name(&rs.metadata).to_owned();
        status::note_new_set(&mut self.d, &name, true, self.now);
        self.created = true;
        self.new = Some(Arc::new(rs));
    }

    /// Replaces the ReplicaSet of the same name by its changed form.
    fn replace(&mut self, rs: ReplicaSet) {
        let rs = Arc::new(rs);
        let slot = self.new.iter_mut().chain(&mut self.old).find(|o| o.metadata.name == rs.metadata.name);
        let slot = slot.expect("only known ReplicaSets are changed");
        let name = meta::name(&rs.metadata);
        if !self.touched.iter().any(|(n, _)| n == name) {
            self.touched.push((name.to_owned(), replicas(slot)));
        }
        *slot = rs;
    }

    /// Sets size and size annotations; returns whether the size changed. With `force` changed annotations alone are written too.
    fn resize(&mut self, rs: &Arc<ReplicaSet>, size: i32, force: bool) -> bool {
        let resized = replicas(rs) != size;
        if !resized && !force {
            return false;
        }
        let mut copy = (**rs).clone();
        copy.spec.get_or_insert_default().replicas = Some(size);
        if revision::annotate_size(&self.d, &mut copy) || resized {
            self.replace(copy);
        }
        resized
    }

    fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }

    fn active(&self) -> Vec<Arc<ReplicaSet>> {
        self.all().filter(|rs| replicas(rs) > 0).cloned().collect()
    }

    fn total(&self) -> i32 {
        self.all().map(|rs| replicas(rs)).sum()
    }

    /// Whether `spec.replicas` of the Deployment changed since the ReplicaSets were last scaled.
    fn is_scaling(&self) -> bool {
        let size = desired(&self.d);
        self.active().iter().any(|rs| count_annotation(rs, DESIRED_REPLICAS).is_some_and(|n| n != size))
    }

    /// Scales the ReplicaSets, without a rollout.
    fn scale(&mut self) {
        let mut active = self.active();
        if active.len() <= 1 {
            let newest = || self.new.clone().or_else(|| self.old.iter().max_by(|a, b| by_age(a, b)).cloned());
            if let Some(rs) = active.pop().or_else(newest) {
                self.resize(&rs, desired(&self.d), false);
            }
            return;
        }
        if self.is_saturated() {
            for rs in self.old.clone().iter().filter(|rs| replicas(rs) > 0) {
                self.resize(rs, 0, false);
            }
            return;
        }
        if rolling::is_rolling(&self.d) {
            self.scale_in_proportion(active);
        }
    }

    /// Whether the current ReplicaSet has all replicas of the Deployment, and they are available.
    fn is_saturated(&self) -> bool {
        let size = desired(&self.d);
        self.new.as_ref().is_some_and(|rs| {
            replicas(rs) == size && count_annotation(rs, DESIRED_REPLICAS) == Some(size) && available(rs) == size
        })
    }

    fn scale_in_proportion(&mut self, mut active: Vec<Arc<ReplicaSet>>) {
        let allowed = if desired(&self.d) > 0 { desired(&self.d) + max_surge(&self.d) } else { 0 };
        let to_add = allowed - active.iter().map(|rs| replicas(rs)).sum::<i32>();
        // the largest first; among equals the newest is scaled up first, the oldest down
        active.sort_by(|a, b| {
            let age = if to_add > 0 { by_age(b, a) } else { by_age(a, b) };
            replicas(b).cmp(&replicas(a)).then(age)
        });
        let mut added = 0;
        let mut sizes = Vec::with_capacity(active.len());
        for rs in &active {
            let share = rolling::proportion(rs, &self.d, to_add, added);
            added += share;
            sizes.push(replicas(rs) + share);
        }
        if let Some(first) = sizes.first_mut()
            && to_add != 0
        {
            *first = (*first + to_add - added).max(0);
        }
        for (rs, size) in active.iter().zip(sizes) {
            self.resize(rs, size, true);
        }
    }

    fn roll(&mut self) {
        self.create_current();
        let new = self.new.clone().expect("made above");
        let size = replicas(&new);
        let target = if size > desired(&self.d) {
            desired(&self.d)
        } else if size < desired(&self.d) {
            rolling::new_size(&self.d, self.total(), size)
        } else {
            size
        };
        if self.resize(&new, target, false) || self.shrink_old() {
            return;
        }
        if status::is_complete(&self.d, &self.d.status.clone().unwrap_or_default()) {
            self.clean_up();
        }
    }

    /// Scales old ReplicaSets down as long as enough pods stay available, unhealthy pods first. Returns whether any was scaled.
    fn shrink_old(&mut self) -> bool {
        let old: i32 = self.old.iter().map(|rs| replicas(rs)).sum();
        let Some(new) = self.new.clone().filter(|_| old > 0) else { return false };
        let min_available = desired(&self.d) - max_unavailable(&self.d);
        let room = self.total() - min_available - (replicas(&new) - available(&new));
        if room <= 0 {
            return false;
        }
        self.old.sort_by(|a, b| by_age(a, b));
        let mut unhealthy = 0;
        for rs in self.old.clone() {
            let down = (replicas(&rs) - available(&rs)).min(room - unhealthy);
            if unhealthy < room && replicas(&rs) > 0 && down > 0 {
                self.resize(&rs, replicas(&rs) - down, false);
                unhealthy += down;
            }
        }
        let spare = self.all().map(|rs| available(rs)).sum::<i32>() - min_available;
        let mut healthy = 0;
        for rs in self.old.clone() {
            let down = replicas(&rs).min(spare - healthy);
            if down > 0 {
                self.resize(&rs, replicas(&rs) - down, false);
                healthy += down;
            }
        }
        unhealthy + healthy > 0
    }

    fn recreate(&mut self, old_pods_running: impl Fn(Option<&str>) -> bool) {
        let mut scaled = false;
        for rs in self.old.clone().iter().filter(|rs| replicas(rs) > 0) {
            scaled |= self.resize(rs, 0, false);
        }
        let counted = self.old.iter().any(|rs| rs.status.as_ref().is_some_and(|s| s.replicas > 0));
        let name = self.new.as_ref().map(|rs| meta::name(&rs.metadata));
        if scaled || counted || old_pods_running(name) {
            return;
        }
        self.create_current();
        let new = self.new.clone().expect("made above");
        self.resize(&new, desired(&self.d), false);
        if status::is_complete(&self.d, &self.d.status.clone().unwrap_or_default()) {
            self.clean_up();
        }
    }

    /// Deletes the oldest revisions above the history limit, if they have no pods.
    fn clean_up(&mut self) {
        let limit = self.d.spec.as_ref().and_then(|s| s.revision_history_limit);
        let Some(limit) = limit.filter(|l| *l != i32::MAX).and_then(|l| usize::try_from(l).ok()) else { return };
        let alive = |rs: &&Arc<ReplicaSet>| rs.metadata.deletion_timestamp.is_none();
        let mut old: Vec<_> = self.old.iter().filter(alive).cloned().collect();
        let excess = old.len().saturating_sub(limit);
        old.sort_by(|a, b| revision::revision(a).cmp(&revision::revision(b)).then_with(|| by_age(a, b)));
        let empty = |rs: &Arc<ReplicaSet>| {
            let status = rs.status.clone().unwrap_or_default();
            status.replicas == 0
                && replicas(rs) == 0
                && rs.metadata.generation.unwrap_or(0) <= status.observed_generation.unwrap_or(0)
        };
        self.deleted = old.into_iter().take(excess).filter(empty).collect();
    }

    fn finish(self, before: &Deployment, rollout: bool) -> Plan {
        let mut steps = Vec::new();
        if let Some(new) = self.new.as_ref().filter(|_| self.created) {
            steps.push(Step::Create(new.clone()));
        }
        for (name, from) in &self.touched {
            let rs =
                self.all().find(|rs| rs.metadata.name.as_deref() == Some(name)).expect("touched ones are kept").clone();
            if self.created && self.new.as_ref().is_some_and(|n| n.metadata.name == rs.metadata.name) {
                continue;
            }
            let to = replicas(&rs);
            steps.push(Step::Update { rs, scaled: (to != *from).then_some((*from, to)) });
        }
        steps.extend(self.deleted.iter().cloned().map(Step::Delete));
        let mut status = status::calculate(&self.d, self.new.as_ref(), &self.old, self.now);
        let mut after = None;
        if rollout {
            status::progress(&self.d, self.new.as_ref(), &self.old, &mut status, self.now);
            after = status::next_check(&self.d, &status, self.now);
        }
        let mut changed = self.d.clone();
        changed.status = Some(status);
        let write = (!same_write(before, &changed)).then_some(changed);
        Plan { steps, write, seen: self.d, after }
    }
}

/// Whether writing `new` over `old` would change nothing.
fn same_write(old: &Deployment, new: &Deployment) -> bool {
    let none = DeploymentStatus::default();
    meta::annotation(&old.metadata, REVISION) == meta::annotation(&new.metadata, REVISION)
        && !crate::status::differs(old.status.as_ref(), new.status.as_ref().unwrap_or(&none))
}
