//! Where a value is: a path that becomes a text only for a cause.

use crate::FieldPath;

/// A path, built on the stack of the walk along a value.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Root(&'a FieldPath),
    Field(&'a Place<'a>, &'a str),
    Entry(&'a Place<'a>, &'a str),
    Element(&'a Place<'a>, usize),
}

impl Place<'_> {
    pub(super) fn path(&self) -> FieldPath {
        match self {
            Self::Root(path) => (*path).clone(),
            Self::Field(parent, name) => parent.path().child(name),
            Self::Entry(parent, key) => parent.path().key(key),
            Self::Element(parent, index) => parent.path().index(*index),
        }
    }
}
