//! Which policies are evaluated again in the second round of all plugins: those that ask for it, after somebody else has changed the object.

use api::Object;
use std::collections::HashSet;

/// The invocations of one request: policy, binding and parameter in one text. There are at most two rounds.
#[derive(Clone, Debug, Default)]
pub(super) struct Rounds {
    again: bool,
    left: Option<Object>,
    invoked: HashSet<String>,
    due: HashSet<String>,
}

impl Rounds {
    /// Begins the second round, with the object as the other plugins have left it. `same` says whether two objects mean the same.
    pub(super) fn begin_second(&mut self, object: &Object, same: fn(&Object, &Object) -> bool) {
        self.again = true;
        if self.left.as_ref().is_some_and(|left| !same(left, object)) {
            self.require();
        }
    }

    /// Whether an invocation counts in this round. In the second none is there for the first time.
    pub(super) fn invokes(&self, invocation: &str) -> bool {
        !self.again || self.due.contains(invocation)
    }

    /// A policy was evaluated, and changed the object or did not.
    pub(super) fn was_invoked(&mut self, invocation: String, changed: bool, again_if_needed: bool) {
        if changed {
            self.require();
        }
        if again_if_needed {
            self.invoked.insert(invocation);
        }
    }

    /// All policies of the round were evaluated, and left this object. As upstream, the last one is due again too if any has patched it.
    pub(super) fn end(&mut self, object: &Object, is_patched: bool) {
        if is_patched {
            self.require();
        }
        self.left = Some(object.clone());
    }

    fn require(&mut self) {
        self.due.extend(self.invoked.drain());
    }
}
