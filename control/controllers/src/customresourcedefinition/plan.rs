//! Which names a definition gets, and what its conditions say. Follows upstream's naming, establishing and approval controllers of the
//! apiextensions server.

use super::definition::{Condition, Definition, Names, Status};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::{collections::HashSet, sync::Arc};

const APPROVAL: &str = "api-approved.kubernetes.io";

/// Sets a condition; its time stays where its status does.
pub(super) fn set(status: &mut Status, type_: &str, value: bool, reason: &str, message: &str, now: Timestamp) {
    let value = if value { "True" } else { "False" };
    let new = Condition {
        type_: type_.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Some(Time(now)),
    };
    match status.conditions.iter_mut().find(|condition| condition.type_ == type_) {
        None => status.conditions.push(new),
        Some(known) => {
            let since = known.last_transition_time.clone().filter(|_| known.status == value);
            *known = Condition { last_transition_time: since.or(new.last_transition_time.clone()), ..new };
        }
    }
}

/// The names that other definitions of the group have.
#[derive(Default)]
struct Taken<'a> {
    resources: HashSet<&'a str>,
    kinds: HashSet<&'a str>,
}

impl<'a> Taken<'a> {
    fn by(definition: &Definition, all: &'a [Arc<Definition>]) -> Self {
        let mut taken = Self::default();
        let group = all.iter().filter(|other| other.spec.group == definition.spec.group);
        for other in group.filter(|other| other.metadata.name != definition.metadata.name) {
            let names = &other.status.accepted_names;
            taken.resources.extend([names.plural.as_str(), names.singular.as_str()]);
            taken.resources.extend(names.short_names.iter().map(String::as_str));
            taken.kinds.extend([names.kind.as_str(), names.list_kind.as_str()]);
        }
        // A definition that has none yet has no empty name either.
        taken.resources.remove("");
        taken.kinds.remove("");
        taken
    }
}

fn in_use(name: &str) -> String {
    format!("{name:?} is already in use")
}

/// The accepted names, and why one is not: reason and message. The last one counts, as upstream.
fn accepted(definition: &Definition, taken: &Taken<'_>) -> (Names, Option<(&'static str, String)>) {
    let (wanted, had) = (&definition.spec.names, &definition.status.accepted_names);
    let (mut names, mut conflict) = (had.clone(), None);
    let mut one = |wanted: &str, had: &str, taken: &HashSet<&str>, reason: &'static str, to: &mut String| {
        if wanted != had && taken.contains(wanted) {
            conflict = Some((reason, in_use(wanted)));
        } else {
            wanted.clone_into(to);
        }
    };
    one(&wanted.plural, &had.plural, &taken.resources, "PluralConflict", &mut names.plural);
    one(&wanted.singular, &had.singular, &taken.resources, "SingularConflict", &mut names.singular);
    let clashes: Vec<String> = wanted
        .short_names
        .iter()
        .filter(|name| !had.short_names.contains(name) && taken.resources.contains(name.as_str()))
        .map(|name| in_use(name))
        .collect();
    let short = match clashes.as_slice() {
        [] => None,
        [single] => Some(("ShortNamesConflict", single.clone())),
        many => Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
    };
    if short.is_none() {
        names.short_names.clone_from(&wanted.short_names);
    }
    let (mut kind, mut list_kind) = (names.kind.clone(), names.list_kind.clone());
    let mut late = None;
    let mut one = |wanted: &str, had: &str, reason: &'static str, to: &mut String| {
        if wanted != had && taken.kinds.contains(wanted) {
            late = Some((reason, in_use(wanted)));
        } else {
            wanted.clone_into(to);
        }
    };
    one(&wanted.kind, &had.kind, "KindConflict", &mut kind);
    one(&wanted.list_kind, &had.list_kind, "ListKindConflict", &mut list_kind);
    (names.kind, names.list_kind) = (kind, list_kind);
    names.categories.clone_from(&wanted.categories);
    (names, late.or(short).or(conflict))
}

/// The approval of an API in a group of the community: whether it conforms, reason and message.
fn approval(definition: &Definition) -> Option<(bool, &'static str, String)> {
    let group = definition.spec.group.as_str();
    let protected =
        |domain: &str| group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if !protected("k8s.io") && !protected("kubernetes.io") {
        return None;
    }
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let text = definition.metadata.annotations.as_ref().and_then(|all| all.get(APPROVAL)).map_or("", String::as_str);
    let is_url = text.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
    Some(match text {
        "" => {
            (false, "MissingAnnotation", format!("protected groups must have approval annotation {APPROVAL:?}, {see}"))
        }
        text if text.starts_with("unapproved") => (false, "UnapprovedAnnotation", format!("not approved: {text:?}")),
        text if is_url => (true, "ApprovedAnnotation", format!("approved in {text}")),
        _ => {
            let how = "with either a URL or a reason starting with \"unapproved\"";
            (
                false,
                "InvalidAnnotation",
                format!("protected groups must have approval annotation {APPROVAL:?} {how}, {see}"),
            )
        }
    })
}

/// The status that a definition should have, beside all definitions; `None`: it has it.
pub(super) fn plan(definition: &Definition, all: &[Arc<Definition>], now: Timestamp) -> Option<Status> {
    let mut status = definition.status.clone();
    if let Some((conforms, reason, message)) = approval(definition) {
        set(&mut status, "KubernetesAPIApprovalPolicyConformant", conforms, reason, &message, now);
    }
    let (names, conflict) = accepted(definition, &Taken::by(definition, all));
    status.accepted_names = names;
    match conflict {
        Some((reason, message)) => {
            set(&mut status, "NamesAccepted", false, reason, &message, now);
            if definition.condition("Established").is_none() {
                set(&mut status, "Established", false, "NotAccepted", "not all names are accepted", now);
            }
        }
        None => {
            set(&mut status, "NamesAccepted", true, "NoConflicts", "no conflicts found", now);
            if !definition.is_true("Established") {
                let (reason, message) = ("InitialNamesAccepted", "the initial names have been accepted");
                set(&mut status, "Established", true, reason, message, now);
            }
        }
    }
    (status != definition.status).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    fn definition(name: &str, names: Value, status: Value) -> Arc<Definition> {
        let value = json!({"metadata": {"name": name}, "spec": {"group": "a.b", "names": names, "scope": "Cluster"}, "status": status});
        Arc::new(serde_json::from_value(value).expect("a definition"))
    }

    fn names(plural: &str, kind: &str, short: &[&str]) -> Value {
        json!({"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List"), "shortNames": short})
    }

    fn conditions(status: &Status) -> Vec<String> {
        status.conditions.iter().map(|c| format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message)).collect()
    }

    #[test]
    fn free_names_are_accepted_and_the_definition_is_in_force() {
        let one = definition("as.a.b", names("as", "A", &["x"]), Value::Null);
        let status = plan(&one, std::slice::from_ref(&one), now()).expect("a change");
        assert_eq!(status.accepted_names, one.spec.names);
        assert_eq!(
            conditions(&status),
            [
                "NamesAccepted=True NoConflicts: no conflicts found",
                "Established=True InitialNamesAccepted: the initial names have been accepted"
            ]
        );
        let done = Arc::new(Definition { status, ..Definition::clone(&one) });
        assert_eq!(plan(&done, std::slice::from_ref(&done), now()), None, "it stays");
    }

    #[test]
    fn names_of_others_are_refused() {
        let other =
            definition("bs.a.b", names("bs", "B", &["x"]), json!({"acceptedNames": names("bs", "B", &["x", "y"])}));
        for (wanted, expected) in [
            (names("as", "B", &[]), "KindConflict: \"B\" is already in use"),
            (names("bs", "A", &[]), "PluralConflict: \"bs\" is already in use"),
            (names("as", "A", &["x"]), "ShortNamesConflict: \"x\" is already in use"),
            (
                names("as", "A", &["x", "z", "y"]),
                "ShortNamesConflict: [\"x\" is already in use, \"y\" is already in use]",
            ),
        ] {
            let one = definition("as.a.b", wanted, Value::Null);
            let status = plan(&one, &[one.clone(), other.clone()], now()).expect("a change");
            let said = conditions(&status);
            let expected = [
                format!("NamesAccepted=False {expected}"),
                "Established=False NotAccepted: not all names are accepted".to_owned(),
            ];
            // Both the kind and its list clash: the last one is said.
            let list = said[0].replace("ListKindConflict: \"BList\"", "KindConflict: \"B\"");
            assert_eq!([list, said[1].clone()], expected);
        }
    }

    #[test]
    fn what_is_served_stays_served_when_a_new_name_clashes() {
        let other = definition("bs.a.b", names("bs", "B", &["x"]), json!({"acceptedNames": names("bs", "B", &["x"])}));
        let had = json!({"acceptedNames": names("as", "A", &[]), "conditions": [{"type": "Established", "status": "True", "reason": "r"}]});
        let one = definition("as.a.b", names("as", "A", &["x"]), had);
        let status = plan(&one, &[one.clone(), other], now()).expect("a change");
        assert_eq!(status.accepted_names.short_names, Vec::<String>::new());
        assert!(conditions(&status).contains(&"Established=True r: ".to_owned()));
    }

    #[test]
    fn a_protected_group_says_whether_it_is_approved() {
        for (annotation, expected) in [
            (
                "https://example.com/1",
                "KubernetesAPIApprovalPolicyConformant=True ApprovedAnnotation: approved in https://example.com/1",
            ),
            (
                "unapproved, a test",
                "KubernetesAPIApprovalPolicyConformant=False UnapprovedAnnotation: not approved: \"unapproved, a test\"",
            ),
        ] {
            let mut one = Definition::clone(&definition("as.x.k8s.io", names("as", "A", &[]), Value::Null));
            one.spec.group = "x.k8s.io".to_owned();
            one.metadata.annotations = Some([(APPROVAL.to_owned(), annotation.to_owned())].into());
            assert_eq!(conditions(&plan(&one, &[], now()).expect("a change"))[0], expected);
        }
    }
}
