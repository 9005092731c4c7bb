//! The whole control plane in one process on a paused clock: the API server over a memory log, clients, controllers, scheduler and node
//! agents over a runtime and a network in memory. Hours pass in seconds; what is left to chance comes from a seed.
//!
//! Registered with crate `controllers`, so that no test here links a Wasm engine.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests read the clock and panic")]

mod accepted;
mod acceptedkinds;
mod autoscaling;
mod bootstraptokens;
mod budgets;
mod certificates;
mod chaos;
mod collection;
mod crashes;
mod cronjobs;
mod customresources;
mod daemonsets;
mod deployments;
mod endpoints;
mod endstate;
mod hollow_nodes;
mod idle;
mod invariants;
mod jobpolicies;
mod jobs;
mod keys;
mod leaders;
mod metrics;
mod mixed;
mod mutants;
mod nodes;
mod policies;
mod process;
mod quotas;
mod replicationcontrollers;
mod resizes;
mod roles;
mod scenarios;
mod scheduling;
mod selection;
mod servicecidrs;
mod statefulsets;
mod streams;
mod tokens;
mod unsteady;
mod volumes;
mod watches;
mod world;
