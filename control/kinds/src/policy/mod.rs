//! `policy`: PodDisruptionBudget.

pub(crate) mod poddisruptionbudget;
