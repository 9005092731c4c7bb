//! An in-memory log for tests and temporary clusters. Its content lives as long as a clone of it.

use super::{Action, Batch, Log, LogError, Record, Replay};
use crate::{FIRST, Revision};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// An in-memory log. Clones are the same log: a store that opens it finds the commits of another.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    revision: Revision,
    records: BTreeMap<Arc<str>, Record>,
}

impl Memory {
    /// Creates an empty log.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State { revision: FIRST, records: BTreeMap::new() })))
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Log for Memory {
    async fn replay(&self) -> Result<Replay, LogError> {
        let state = self.0.lock();
        Ok(Replay { revision: state.revision, records: state.records.values().cloned().collect() })
    }

    async fn commit(&self, batch: Batch) -> Result<(), LogError> {
        let mut state = self.0.lock();
        for change in batch.changes {
            match change.action {
                Action::Delete => {
                    state.records.remove(&change.key);
                }
                Action::Put { created, expires, value } => {
                    let record = Record { key: change.key.clone(), revision: change.revision, created, expires, value };
                    state.records.insert(change.key, record);
                }
            }
        }
        state.revision = batch.revision;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    crate::contract_suite!(crate::contract::reopen({
        let log = super::Memory::new();
        move || Ok(log.clone())
    }));
}
