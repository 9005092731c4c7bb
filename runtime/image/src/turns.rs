//! Who unpacks layers: a few at a time, and each by one.

use crate::Digest;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};
use tokio::sync::Semaphore;

/// How many layers are unpacked at a time.
const AT_A_TIME: usize = 2;
/// Who unpacks.
pub(crate) struct Turns {
    pub(crate) slots: Arc<Semaphore>,
    /// By chain ID, while somebody unpacks it or waits.
    chains: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { slots: Arc::new(Semaphore::new(AT_A_TIME)), chains: Mutex::default() }
    }
}

impl Turns {
    /// The turn of those who want one layer.
    pub(crate) fn of(&self, chain: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut chains = self.chains.lock();
        chains.retain(|_, turn| turn.strong_count() > 0);
        let turn = chains.get(&chain).and_then(Weak::upgrade).unwrap_or_default();
        chains.insert(chain, Arc::downgrade(&turn));
        turn
    }
}
