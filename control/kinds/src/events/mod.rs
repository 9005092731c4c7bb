//! `events.k8s.io`, and the older Event of the core group, with which it shares the storage.

pub(crate) mod event;
