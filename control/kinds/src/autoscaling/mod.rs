//! `autoscaling`: as many pods as the work needs.

pub(crate) mod horizontalpodautoscaler;
