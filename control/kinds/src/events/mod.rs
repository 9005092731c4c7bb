//! `events.k8s.io`, and the Event of the core group, which share the storage.

pub(crate) mod event;
