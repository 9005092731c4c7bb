//! Which mutating webhooks are called again: those that ask for it, after a later one or another plugin has changed the object.

use super::hook::Hook;
use crate::admission::matching::same;
use api::Object;
use std::collections::HashSet;

/// The webhooks of one request. There are at most two rounds.
#[derive(Clone, Debug, Default)]
pub struct Rounds {
    again: bool,
    needed: bool,
    left: Option<Object>,
    called: HashSet<String>,
    due: HashSet<String>,
}

impl Rounds {
    /// Whether there is to be a second round of all plugins.
    pub fn is_second_needed(&self) -> bool {
        self.needed && !self.again
    }

    /// Begins the second round, with the object as the other plugins have left it.
    pub fn begin_second(&mut self, object: &Object) {
        self.again = true;
        if self.left.as_ref().is_some_and(|left| !same(left, object)) {
            self.require();
        }
    }

    /// The number of the round, as audit counts it.
    pub fn round(&self) -> usize {
        usize::from(self.again)
    }

    /// Whether a webhook for which the request is may be called in this round. In the second none is called for the first time.
    pub fn calls(&self, hook: &Hook) -> bool {
        !self.again || self.due.contains(&hook.id)
    }

    /// A webhook was called, and changed the object or did not.
    pub fn was_called(&mut self, hook: &Hook, changed: bool) {
        if changed {
            self.require();
            self.needed = true;
        }
        if hook.reinvoked {
            self.called.insert(hook.id.clone());
        }
    }

    /// All webhooks of the round were called, and left this object.
    pub fn end(&mut self, object: &Object) {
        self.left = Some(object.clone());
    }

    fn require(&mut self) {
        self.due.extend(self.called.drain());
    }
}
