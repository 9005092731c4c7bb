//! `sampan snapshot save|restore FILE`: a copy of a cluster's objects, and a new cluster from it.

mod restore;
mod save;
mod seal;

pub(crate) use restore::restore;
pub(crate) use save::{Options, save};
