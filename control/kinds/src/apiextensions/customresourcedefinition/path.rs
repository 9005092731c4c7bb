//! A path into a schema, as a list that lives on the stack: a text is only made of it for a cause. Schemas come from users, and texts for each
//! of their places would take quadratic time.

use api::FieldPath;

/// A step below another place.
#[derive(Clone, Copy)]
pub(super) enum Step<'a> {
    Field(&'a str),
    Key(&'a str),
    Index(usize),
}

/// A place.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    root: Option<&'a FieldPath>,
    above: Option<(&'a Path<'a>, Step<'a>)>,
}

impl<'a> Path<'a> {
    pub(super) fn new(root: &'a FieldPath) -> Self {
        Self { root: Some(root), above: None }
    }

    pub(super) fn child(&'a self, name: &'a str) -> Self {
        Self { root: None, above: Some((self, Step::Field(name))) }
    }

    pub(super) fn key(&'a self, name: &'a str) -> Self {
        Self { root: None, above: Some((self, Step::Key(name))) }
    }

    pub(super) fn index(&'a self, index: usize) -> Self {
        Self { root: None, above: Some((self, Step::Index(index))) }
    }

    /// As errors print it.
    pub(super) fn field(&self) -> FieldPath {
        let (mut at, mut steps) = (*self, Vec::new());
        while let Some((above, step)) = at.above {
            steps.push(step);
            at = *above;
        }
        let root = at.root.cloned().unwrap_or_default();
        steps.into_iter().rev().fold(root, |path, step| match step {
            Step::Field(name) => path.child(name),
            Step::Key(name) => path.key(name),
            Step::Index(index) => path.index(index),
        })
    }
}
