//! Lists and maps of bounded size, whose elements are checked one by one. One that is too long is not looked at.

use crate::{at::At, rules};
use api::{Cause, CauseKind, FieldPath};
use std::collections::HashSet;

/// Whether a list or map has no more than `most` elements.
pub(super) fn fits(list: At<'_>, most: usize, out: &mut Vec<Cause>) -> bool {
    let fits = list.len() <= most;
    if !fits {
        out.push(Cause::too_many(&list.field(), list.len(), most));
    }
    fits
}

/// Checks each element.
pub(super) fn each(list: At<'_>, most: usize, check: impl Fn(At<'_>, &mut Vec<Cause>), out: &mut Vec<Cause>) {
    if fits(list, most, out) {
        for one in list.items() {
            check(one, out);
            if rules::full(out) {
                return;
            }
        }
    }
}

/// Checks each element, and that none is there twice. `key` is what tells them apart, as upstream shows it.
pub(super) fn set(
    list: At<'_>,
    most: usize,
    check: impl Fn(At<'_>, &mut Vec<Cause>),
    key: impl Fn(At<'_>) -> String,
    out: &mut Vec<Cause>,
) {
    let mut seen = HashSet::new();
    if list.len() > most {
        fits(list, most, out);
        return;
    }
    each(list, most, check, out);
    for one in list.items() {
        if rules::full(out) {
            return;
        }
        let key = key(one);
        if seen.contains(&key) {
            out.push(Cause::shown(CauseKind::Duplicate, &one.field(), &key, ""));
        } else {
            seen.insert(key);
        }
    }
}

/// A field as the key of a set.
pub(super) fn by(name: &'static str) -> impl Fn(At<'_>) -> String {
    move |one| format!("{:?}", one.get(name).str())
}

/// A text as its own key.
pub(super) fn itself(one: At<'_>) -> String {
    format!("{:?}", one.str())
}

/// Checks each key of a map, of which upstream says where the map is, and each value; a long key is shown shortened.
pub(super) fn map(
    map: At<'_>,
    most: Option<usize>,
    shown: usize,
    key: impl Fn(At<'_>, &str, &mut Vec<Cause>),
    value: impl Fn(At<'_>, &mut Vec<Cause>),
    out: &mut Vec<Cause>,
) {
    if most.is_some_and(|most| !fits(map, most, out)) {
        return;
    }
    for (name, at) in map.entries() {
        if rules::full(out) {
            return;
        }
        key(map, name, out);
        let mut found = Vec::new();
        value(at, &mut found);
        if name.len() > shown && !found.is_empty() {
            let (long, short) = (at.field().to_string(), map.field().key(&shortened(name, shown)).to_string());
            for cause in &mut found {
                if let Some(rest) = cause.field.to_string().strip_prefix(&long) {
                    cause.field = FieldPath::new(&format!("{short}{rest}"));
                }
            }
        }
        out.append(&mut found);
    }
}

/// The beginning and the end of a long text.
fn shortened(text: &str, most: usize) -> String {
    let remaining = most.saturating_sub(3);
    let (head, tail) = (remaining.div_ceil(2), text.len().saturating_sub(remaining / 2));
    format!("{}...{}", &text[..text.floor_char_boundary(head)], &text[text.ceil_char_boundary(tail)..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_key_keeps_both_ends() {
        assert_eq!(shortened(&format!("{}{}", "a".repeat(40), "b".repeat(40)), 16), "aaaaaaa...bbbbbb");
        assert_eq!(shortened(&"é".repeat(40), 16), "ééé...ééé");
    }
}
