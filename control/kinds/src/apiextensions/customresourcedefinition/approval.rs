//! The approval of an API in a group of the Kubernetes community: an annotation with the address of the approval, or a reason why there is none.

use api::{Cause, FieldPath, Object};
use serde_json::json;

const ANNOTATION: &str = "api-approved.kubernetes.io";

/// Whether a group needs the annotation.
fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group.strip_suffix(domain).is_some_and(|before| before.is_empty() || before.ends_with('.')))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Missing,
    Invalid,
    Approved,
    Bypassed,
}

fn state(object: &Object) -> State {
    match object.annotation(ANNOTATION).unwrap_or_default() {
        "" => State::Missing,
        text if text.starts_with("unapproved") => State::Bypassed,
        text => match text.split_once("://") {
            Some((scheme, rest)) if !scheme.is_empty() && !rest.starts_with('/') && !rest.is_empty() => State::Approved,
            _ => State::Invalid,
        },
    }
}

/// A new or changed annotation must be right.
pub(super) fn validate(object: &Object, old: Option<&Object>, out: &mut Vec<Cause>) {
    if !is_protected(object.str_at(&["spec", "group"]).unwrap_or_default()) {
        return;
    }
    let now = state(object);
    if old.is_some_and(|old| state(old) == now) {
        return;
    }
    let field = FieldPath::new("metadata").child("annotations").key(ANNOTATION);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    match now {
        State::Missing => {
            let text = format!("protected groups must have approval annotation {ANNOTATION:?}, {see}");
            out.push(Cause::required(&field, &text));
        }
        State::Invalid => {
            let text = format!(
                "protected groups must have approval annotation {ANNOTATION:?} with either a URL or a reason starting with \"unapproved\", {see}"
            );
            out.push(Cause::invalid(&field, &json!(object.annotation(ANNOTATION)), &text));
        }
        State::Approved | State::Bypassed => {}
    }
}
