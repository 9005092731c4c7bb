//! Which permissions somebody would grant without having them. Follows "Privilege escalation prevention and bootstrapping" of the page on RBAC;
//! the texts are upstream's.

use super::{
    rule::{Rule, Word},
    ruleset::{Missing, aggregate},
};
use server::User;
use std::collections::{BTreeSet, HashMap};

/// Most combinations of verb, group, resource and name of rules that nobody has as a whole. Each is looked up in all rules of a user.
const COMBINATIONS: usize = 20_000;
/// Most missing permissions that are printed.
const PRINTED: usize = 1_000;

/// Why rules may not be granted by somebody with other rules, in a request for a resource; `None` if they may.
pub(crate) fn refusal(
    user: &User,
    own: &[&Rule],
    granted: &[Rule],
    missing: &[Missing],
    resource: &str,
) -> Option<String> {
    let lines = match uncovered(own, granted) {
        Ok(lines) if lines.is_empty() => return None,
        Ok(lines) => lines,
        Err(count) => {
            return Some(format!(
                "user {:?} grants {count} or more combinations of verbs, resources and names, more than the {COMBINATIONS} that are compared with the permissions of the user: grant them by more than one role, or with *",
                user.name
            ));
        }
    };
    let shown: Vec<String> = lines.into_iter().take(PRINTED).collect();
    let (who, groups) = (&user.name, quoted(user.groups.iter().map(String::as_str)));
    let mut text = format!(
        "user {who:?} (groups={groups}) is attempting to grant RBAC permissions not currently held:\n{}",
        shown.join("\n")
    );
    if !missing.is_empty() {
        text.push_str(&format!("; resolution errors: [{}]", aggregate(missing, Some(resource))));
    }
    Some(text)
}

/// The permissions in `granted` that `own` have not, a line each, or how many there were when the comparison was given up.
fn uncovered(own: &[&Rule], granted: &[Rule]) -> Result<BTreeSet<String>, usize> {
    let (mut lines, mut verbs_of, mut order) = (BTreeSet::new(), HashMap::<_, Vec<&str>>::new(), Vec::new());
    let mut count = 0_usize;
    for rule in granted.iter().filter(|rule| !own.iter().any(|own| own.covers(rule))) {
        let objects = rule.groups.len().saturating_mul(rule.resources.len()).saturating_mul(rule.names.len().max(1));
        count = count.saturating_add(objects.saturating_add(rule.paths.len()).saturating_mul(rule.verbs.len()));
        if count > COMBINATIONS {
            return Err(count);
        }
        let held = |one: &Single<'_>| {
            let rule = one.rule();
            own.iter().any(|own| own.covers(&rule))
        };
        for one in singles(rule).filter(|one| !held(one)) {
            if let Single { path: Some(path), verb, .. } = one {
                lines.insert(format!("{{NonResourceURLs:[{path:?}], Verbs:[{verb:?}]}}"));
                continue;
            }
            let verbs = verbs_of.entry((one.group, one.resource, one.name)).or_insert_with_key(|key| {
                order.push(*key);
                Vec::new()
            });
            verbs.push(one.verb);
        }
    }
    for key in order {
        let (group, resource, name) = key;
        let names = name.map(|name| format!(", ResourceNames:[{name:?}]")).unwrap_or_default();
        let verbs = quoted(verbs_of[&key].iter().copied());
        lines.insert(format!("{{APIGroups:[{group:?}], Resources:[{resource:?}]{names}, Verbs:{verbs}}}"));
    }
    Ok(lines)
}

/// The permissions in `granted` that `own` have not, each as a rule.
pub(crate) fn missing(own: &[&Rule], granted: &[Rule]) -> Vec<Rule> {
    let singles = granted.iter().flat_map(singles).map(|single| single.rule());
    singles.filter(|rule| !own.iter().any(|own| own.covers(rule))).collect()
}

/// One permission of a rule.
#[derive(Clone, Copy)]
struct Single<'a> {
    verb: &'a str,
    group: &'a str,
    resource: &'a str,
    name: Option<&'a str>,
    path: Option<&'a str>,
}

impl Single<'_> {
    fn rule(&self) -> Rule {
        let one = |word: &str| -> Box<[Word]> { [Word::Owned(word.to_owned())].into() };
        let verbs = one(self.verb);
        if let Some(path) = self.path {
            return Rule { verbs, paths: one(path), ..Rule::default() };
        }
        let names = self.name.map(one).unwrap_or_default();
        Rule { verbs, groups: one(self.group), resources: one(self.resource), names, ..Rule::default() }
    }
}

/// The permissions of a rule, in upstream's order.
fn singles(rule: &Rule) -> impl Iterator<Item = Single<'_>> {
    let names = || {
        let all = rule.names.iter().map(|name| Some(&**name));
        all.chain(rule.names.is_empty().then_some(None))
    };
    let of_resources = rule.groups.iter().flat_map(move |group| {
        rule.resources.iter().flat_map(move |resource| {
            rule.verbs
                .iter()
                .flat_map(move |verb| names().map(move |name| Single { verb, group, resource, name, path: None }))
        })
    });
    let of_paths = rule.paths.iter().flat_map(|path| {
        rule.verbs.iter().map(|verb| Single { verb, group: "", resource: "", name: None, path: Some(path) })
    });
    of_resources.chain(of_paths)
}

/// A list of words as Go prints it.
fn quoted<'a>(words: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", words.map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(own: &[&'static str], granted: &[&'static str]) -> Option<String> {
        let own: Vec<Rule> = own.iter().copied().map(Rule::parse).collect();
        let granted: Vec<Rule> = granted.iter().copied().map(Rule::parse).collect();
        let own: Vec<&Rule> = own.iter().collect();
        refusal(&User::new("u", &["g", "system:authenticated"]), &own, &granted, &[], "roles")
    }

    #[test]
    fn what_is_not_held_is_named_by_resource() {
        let head = "user \"u\" (groups=[\"g\" \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n";
        for (own, granted, lines) in [
            (&["* * *"][..], &["* * *", "get core pods x"][..], None),
            (&["read core pods"], &["get,list core pods"], None),
            (&["get core pods", "list core pods"], &["get,list core pods"], None),
            (&["read core pods"], &[], None),
            (
                &["get core pods"],
                &["get,list,delete core,apps pods"],
                Some(
                    r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "list"]}
{APIGroups:["apps"], Resources:["pods"], Verbs:["delete" "get" "list"]}"#,
                ),
            ),
            (
                &["get core secrets a"],
                &["get core secrets a,b", "get path /x,/y"],
                Some(
                    r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["b"], Verbs:["get"]}
{NonResourceURLs:["/x"], Verbs:["get"]}
{NonResourceURLs:["/y"], Verbs:["get"]}"#,
                ),
            ),
            (&[], &["* * *"], Some(r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#)),
        ] {
            assert_eq!(check(own, granted), lines.map(|lines| format!("{head}{lines}")), "{own:?} {granted:?}");
        }
    }

    #[test]
    fn what_could_not_be_resolved_is_said_too() {
        let missing = [Missing::Role("clusterrole", "x".to_owned())];
        let text =
            refusal(&User::new("u", &[]), &[], &[Rule::parse("get core pods")], &missing, "roles").expect("refused");
        assert!(text.ends_with("; resolution errors: [roles.rbac.authorization.k8s.io \"x\" not found]"), "{text}");
    }

    #[test]
    fn a_rule_of_endless_combinations_costs_no_time() {
        let many = |what: char| (0..2_000).map(|n| Word::Owned(format!("{what}{n}"))).collect::<Box<[Word]>>();
        let rule =
            Rule { verbs: many('v'), groups: many('g'), resources: many('r'), names: many('n'), paths: [].into() };
        let text = refusal(&User::new("u", &[]), &[], std::slice::from_ref(&rule), &[], "roles").expect("refused");
        assert!(text.contains("more than the 20000"), "{text}");
        let all = Rule::parse("* * *");
        assert_eq!(
            refusal(&User::new("u", &[]), &[&all], &[rule], &[], "roles"),
            None,
            "who may everything is compared as a whole"
        );
    }
}
