//! Tries on copies of nodes which pods must go. Pure.

use super::{
    budgets::{Budget, split},
    choice::{Candidate, sort_by_importance},
    found::{Found, Outcome},
};
use crate::{
    cycle_state::CycleState,
    node::NodeInfo,
    plugin::Filters,
    pod::PodInfo,
    snapshot::Snapshot,
    status::{NodeToStatus, Status},
};
use std::sync::Arc;

/// What a dry run needs.
pub(super) struct DryRun<'a> {
    /// After preFilter.
    pub(super) state: &'a CycleState,
    /// The pod that needs room.
    pub(super) pod: &'a PodInfo,
    /// What it must pass.
    pub(super) filters: &'a Filters<'a>,
    /// What should be kept.
    pub(super) budgets: &'a [Budget],
}

impl DryRun<'_> {
    /// Looks for candidates, from `begin` on, until there are enough, and one that violates no budget. Returns those that violate none first;
    /// why other nodes are none; and how many nodes were tried.
    pub(super) fn candidates<'s>(
        &self,
        nodes: &[&'s NodeInfo],
        begin: usize,
        enough: usize,
        snapshot: &'s Snapshot,
        mut found: Option<&mut Found>,
    ) -> (Vec<Arc<Candidate>>, NodeToStatus<'s>, usize) {
        let (mut good, mut bad, mut statuses, mut tried) = (Vec::new(), Vec::new(), NodeToStatus::new(snapshot), 0);
        for index in 0..nodes.len() {
            let node = nodes[(begin + index) % nodes.len()];
            tried += 1;
            // pods that are nominated to the node may count for this pod and not for the next
            let outcome = match found.as_deref_mut().filter(|_| !self.filters.has_nominated(node)) {
                Some(found) => found.get(node, || self.candidate(node)),
                None => self.candidate(node),
            };
            match outcome {
                Ok(candidate) => {
                    let kept = if candidate.violations == 0 { &mut good } else { &mut bad };
                    kept.push(candidate);
                    if !good.is_empty() && good.len() + bad.len() >= enough {
                        break;
                    }
                }
                Err(status) => statuses.refuse(node, status),
            }
        }
        good.append(&mut bad);
        (good, statuses, tried)
    }

    fn candidate(&self, node: &NodeInfo) -> Outcome {
        let (victims, violations) = self.victims(node)?;
        Ok(Arc::new(Candidate { node: node.name().to_owned(), victims, violations }))
    }

    /// The fewest pods of a node that must go, the most important first, and how many of them a budget protects.
    ///
    /// All pods of lower priority are taken away; if the pod fits then, as many as possible come back: first those that a budget protects,
    /// then the others, each time the most important first.
    fn victims(&self, node: &NodeInfo) -> Result<(Vec<Arc<PodInfo>>, usize), Status> {
        let lower = node.pods.values().filter(|other| other.priority < self.pod.priority);
        let mut possible: Vec<Arc<PodInfo>> = lower.cloned().collect();
        if possible.is_empty() {
            let why = "No preemption victims found for incoming pod";
            return Err(Status::UnschedulableAndUnresolvable(why.into()));
        }
        let (mut state, mut copy) = (self.state.clone(), node.clone());
        possible.iter().for_each(|other| self.filters.remove(&mut state, self.pod, other, &mut copy));
        if let Some((_, status)) = self.filters.refusal(&state, self.pod, &copy) {
            return Err(status);
        }
        sort_by_importance(&mut possible);
        let (protected, others) = split(&possible, self.budgets);
        let (mut victims, mut violations) = (Vec::new(), 0);
        let both = !protected.is_empty() && !others.is_empty();
        for (other, is_protected) in
            protected.into_iter().map(|p| (p, true)).chain(others.into_iter().map(|p| (p, false)))
        {
            self.filters.add(&mut state, self.pod, other.clone(), &mut copy);
            if self.filters.refusal(&state, self.pod, &copy).is_some() {
                self.filters.remove(&mut state, self.pod, &other, &mut copy);
                violations += usize::from(is_protected);
                victims.push(other);
            }
        }
        if both {
            sort_by_importance(&mut victims);
        }
        if victims.is_empty() {
            let why = format!("expected at least one victim pod on node \"{}\"", node.name());
            return Err(Status::UnschedulableAndUnresolvable(why.into()));
        }
        Ok((victims, violations))
    }
}
