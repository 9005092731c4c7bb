//! Makes room for a pod that fits on no node: pods of lower priority are deleted on the node where that does the least harm, to which the pod
//! is then nominated.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/>. PodDisruptionBudgets are kept where a node
//! allows it, and violated where no other way is left.

mod budgets;
mod choice;
mod dry_run;
mod evict;
mod found;
#[cfg(test)]
mod tests;

use self::{budgets::Budget, dry_run::DryRun, evict::Victims, found::Found};
use crate::{
    cycle_state::CycleState,
    handle::{Cycle, Handle},
    listers::Listers,
    plugin::{Event, Filters, Plugin, PostFilter, Task},
    pod::PodInfo,
    status::{NodeToStatus, Reason, Status},
};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

/// How many nodes are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultPreemptionArgs {
    /// The least share of nodes that are shortlisted, percent, 0 to 100.
    pub min_candidate_nodes_percentage: usize,
    /// The least number of nodes that are shortlisted.
    pub min_candidate_nodes_absolute: usize,
}

impl Default for DefaultPreemptionArgs {
    fn default() -> Self {
        Self { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

impl DefaultPreemptionArgs {
    /// How many candidates are enough among so many nodes.
    fn candidates(self, nodes: usize) -> usize {
        (nodes * self.min_candidate_nodes_percentage / 100).max(self.min_candidate_nodes_absolute).min(nodes)
    }
}

/// Preempts pods of lower priority.
#[derive(Default)]
pub struct DefaultPreemption {
    args: DefaultPreemptionArgs,
    listers: Listers,
    /// Where the next dry run begins, so that all nodes have their turn.
    next: AtomicUsize,
    found: Mutex<Found>,
}

impl DefaultPreemption {
    /// Its name.
    pub(crate) const NAME: &str = "DefaultPreemption";

    /// With arguments; `listers` read the PodDisruptionBudgets.
    pub fn new(args: DefaultPreemptionArgs, listers: Listers) -> Self {
        Self { args, listers, next: AtomicUsize::new(0), found: Mutex::default() }
    }
}

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn is_local(&self) -> bool {
        true
    }

    fn honours(&self) -> &'static [&'static str] {
        &["priorityclass.preemptionPolicy"]
    }

    fn post_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        statuses: &NodeToStatus<'_>,
        filters: &Filters<'_>,
    ) -> PostFilter {
        if let Some(why) = not_eligible(pod, statuses) {
            return PostFilter::Unschedulable(format!("preemption: {why}").into());
        }
        let nodes = statuses.resolvable();
        let budgets: Vec<Budget> = self.listers.budgets().iter().map(|budget| Budget::new(budget)).collect();
        let begin = if nodes.is_empty() { 0 } else { self.next.load(Ordering::Relaxed) % nodes.len() };
        let enough = self.args.candidates(nodes.len());
        let dry_run = DryRun { state, pod, filters, budgets: &budgets };
        let mut found = self.found.lock();
        let keeps = budgets.is_empty() && filters.are_local();
        if keeps {
            found.begin(pod, statuses.snapshot());
        }
        let found = keeps.then_some(&mut *found);
        let (candidates, mut refused, tried) = dry_run.candidates(&nodes, begin, enough, statuses.snapshot(), found);
        self.next.store(begin + tried, Ordering::Relaxed);
        let Some(best) = choice::best(candidates) else {
            refused.set_absent(Status::UnschedulableAndUnresolvable(NOT_HELPFUL.into()));
            let count = statuses.snapshot().count();
            let why = format!("preemption: 0/{count} nodes are available: {}.", refused.histogram());
            return PostFilter::Cleared(why.into());
        };
        let nominated = statuses.snapshot().nominated(&best.node);
        let lower = nominated.iter().filter(|other| other.priority < pod.priority).cloned().collect();
        state.write(Victims { pods: best.victims.clone(), lower });
        PostFilter::Nominated(best.node.clone())
    }

    fn preempt<'a>(&'a self, handle: &'a Handle, cycle: &'a Cycle) -> Option<Task<'a>> {
        let victims = cycle.state.read::<Victims>()?;
        Some(Box::pin(victims.evict(handle, cycle)))
    }

    fn listens(&self, _: &Event<'_>) -> bool {
        false
    }
}

/// Why the pod may not preempt others: it must not, or those that it preempted are still there.
fn not_eligible(pod: &PodInfo, statuses: &NodeToStatus<'_>) -> Option<Reason> {
    if pod.pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.".into());
    }
    let name = pod.nominated_node();
    if name.is_empty() || matches!(statuses.get(name), Status::UnschedulableAndUnresolvable(_)) {
        return None;
    }
    let node = statuses.snapshot().get(name)?;
    let ending = |other: &PodInfo| other.priority < pod.priority && evict::is_being_preempted(other);
    let still = node.pods.values().any(|other| ending(other));
    still.then(|| "not eligible due to a terminating pod on the nominated node.".into())
}
