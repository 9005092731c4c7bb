//! A rule of a role: what it allows. The semantics are upstream's: a list allows by any of its words, and all lists must.

use serde_json::Value;
use server::authz::Attributes;
use std::borrow::Cow;

/// A verb, group, resource, name or path. Those that the bootstrap policy knows are not copied for each rule.
pub(crate) type Word = Cow<'static, str>;

/// The core group in the text of a rule.
const CORE: &str = "core";
/// What stands in place of the group where paths follow.
const PATHS: &str = "path";

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    /// `get`; `*` is every verb.
    pub(crate) verbs: Box<[Word]>,
    /// `apps`; `*` is every group.
    pub(crate) groups: Box<[Word]>,
    /// `pods`, `pods/log`, `*/scale`; `*` is every resource and subresource.
    pub(crate) resources: Box<[Word]>,
    /// Names of objects; none for all of them.
    pub(crate) names: Box<[Word]>,
    /// Paths that are no resources; a `*` at the end is everything that begins so.
    pub(crate) paths: Box<[Word]>,
}

impl Rule {
    /// The rule of an object; `word` makes the words. What is no text stays in its list as what nobody asks for, since a list without it may allow more.
    pub(crate) fn of(value: &Value, word: impl Fn(&str) -> Word) -> Self {
        let list = |field: &str| -> Box<[Word]> {
            let items = value.get(field).and_then(Value::as_array).into_iter().flatten();
            items.map(|item| item.as_str().map_or_else(|| Word::Owned(item.to_string()), &word)).collect()
        };
        Self {
            verbs: list("verbs"),
            groups: list("apiGroups"),
            resources: list("resources"),
            names: list("resourceNames"),
            paths: list("nonResourceURLs"),
        }
    }

    /// A rule of the bootstrap policy: `VERBS GROUPS RESOURCES [NAMES]` or `VERBS path PATHS`, where each is a list with commas. `core` is the
    /// group without a name; `read`, `write` and `change` stand for several verbs.
    pub(crate) fn parse(text: &'static str) -> Self {
        let mut parts = text.split(' ').map(|list| {
            let mut words: Vec<&'static str> = list.split(',').flat_map(meant).collect();
            words.sort_unstable();
            words.into_iter().map(Cow::Borrowed).collect::<Box<[Word]>>()
        });
        let mut next = || parts.next().unwrap_or_default();
        let (verbs, groups) = (next(), next());
        if groups.iter().any(|group| group == PATHS) {
            return Self { verbs, paths: next(), ..Self::default() };
        }
        Self { verbs, groups, resources: next(), names: next(), ..Self::default() }
    }

    /// The rule as part of an object.
    pub(crate) fn to_value(&self) -> Value {
        let mut rule = serde_json::Map::new();
        let lists = [
            ("verbs", &self.verbs),
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.paths),
        ];
        for (field, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            rule.insert(field.to_owned(), list.iter().map(|word| Value::from(&**word)).collect());
        }
        Value::Object(rule)
    }

    /// Whether the rule allows this.
    pub(crate) fn allows(&self, wanted: &Attributes<'_>) -> bool {
        if !has(&self.verbs, wanted.verb) {
            return false;
        }
        if !wanted.is_resource() {
            return self.paths.iter().any(|path| path_covers(path, wanted.path));
        }
        has(&self.groups, wanted.group)
            && self.resources.iter().any(|pattern| names(pattern, wanted.resource, wanted.subresource))
            && (self.names.is_empty() || self.names.iter().any(|name| name == wanted.name))
    }

    /// Whether the rule allows everything that another one does.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let resource = |wanted: &Word| match wanted.split_once('/') {
            _ if has(&self.resources, wanted) => true,
            Some((_, sub)) => self.resources.iter().any(|own| own.strip_prefix("*/") == Some(sub)),
            None => false,
        };
        let names = || match other.names.is_empty() {
            true => self.names.is_empty(),
            false => self.names.is_empty() || other.names.iter().all(|name| self.names.contains(name)),
        };
        other.verbs.iter().all(|verb| has(&self.verbs, verb))
            && other.groups.iter().all(|group| has(&self.groups, group))
            && other.resources.iter().all(resource)
            && other.paths.iter().all(|path| self.paths.iter().any(|own| path_covers(own, path)))
            && names()
    }
}

/// What a word of the bootstrap policy stands for.
fn meant(word: &'static str) -> Vec<&'static str> {
    match word {
        CORE => vec![""],
        "read" => vec!["get", "list", "watch"],
        "write" => vec!["create", "delete", "deletecollection", "patch", "update"],
        "change" => vec!["patch", "update"],
        other => vec![other],
    }
}

/// Whether a list has a word, or `*`.
fn has(list: &[Word], word: &str) -> bool {
    list.iter().any(|own| own == "*" || own == word)
}

/// Whether a pattern names a resource, or a subresource of it.
fn names(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    if subresource.is_empty() {
        return pattern == resource;
    }
    pattern.split_once('/').is_some_and(|(of, sub)| sub == subresource && (of == "*" || of == resource))
}

/// Whether a path of a rule stands for a path, which may be one of a rule too.
fn path_covers(own: &str, path: &str) -> bool {
    own == path || (own.ends_with('*') && path.starts_with(own.trim_end_matches('*')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resource<'a>(verb: &'a str, group: &'a str, resource: &'a str, name: &'a str) -> Attributes<'a> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes { verb, group, resource, subresource, name, namespace: "n", ..Attributes::default() }
    }

    #[test]
    fn a_rule_allows_what_upstreams_would() {
        for (rule, verb, group, what, name, allowed) in [
            ("get core pods", "get", "", "pods", "p", true),
            ("get core pods", "list", "", "pods", "", false),
            ("get core pods", "get", "apps", "pods", "p", false),
            ("get core pods", "get", "", "pods/log", "p", false),
            ("get core pods/log", "get", "", "pods/log", "p", true),
            ("get core pods/log", "get", "", "pods", "p", false),
            ("* * *", "anything", "any.io", "things/part", "x", true),
            ("get core *", "get", "", "pods/log", "p", true),
            ("get * */scale", "get", "apps", "deployments/scale", "d", true),
            ("get * */scale", "get", "apps", "deployments", "d", false),
            ("get * */scale", "get", "apps", "deployments/rescale", "d", false),
            ("get core configmaps a,b", "get", "", "configmaps", "b", true),
            ("get core configmaps a,b", "get", "", "configmaps", "c", false),
            ("list core configmaps a", "list", "", "configmaps", "", false),
            ("read,create apps deployments", "watch", "apps", "deployments", "", true),
            ("read,create apps deployments", "delete", "apps", "deployments", "", false),
        ] {
            let found = Rule::parse(rule).allows(&resource(verb, group, what, name));
            assert_eq!(found, allowed, "{rule}: {verb} {group} {what} {name}");
        }
    }

    #[test]
    fn a_path_ends_in_a_star_or_is_exact() {
        for (rule, verb, path, allowed) in [
            ("get path /healthz", "get", "/healthz", true),
            ("get path /healthz", "get", "/healthz/ping", false),
            ("get path /healthz", "post", "/healthz", false),
            ("get path /api/*", "get", "/api/v1", true),
            ("get path /api/*", "get", "/api", false),
            ("get path /api*", "get", "/apis/apps", true),
            ("* path *", "head", "/anything", true),
            ("get core pods", "get", "/pods", false),
        ] {
            let wanted = Attributes { verb, path, ..Attributes::default() };
            assert_eq!(Rule::parse(rule).allows(&wanted), allowed, "{rule}: {verb} {path}");
        }
    }

    #[test]
    fn a_rule_covers_another_or_not() {
        for (own, other, covers) in [
            ("* * *", "get apps deployments/scale x", true),
            ("* * *", "get path /x", false),
            ("* path *", "get path /x/*", true),
            ("get path /x/*", "get path /x/y/*", true),
            ("get path /x/*", "get path /x*", false),
            ("get,list core pods,nodes", "get core pods", true),
            ("get core pods", "get,list core pods", false),
            ("get core pods", "* core pods", false),
            ("get core */log", "get core pods/log", true),
            ("get core */log", "get core pods", false),
            ("get core pods a", "get core pods", false),
            ("get core pods a,b", "get core pods b", true),
            ("get core pods", "get core pods b", true),
        ] {
            assert_eq!(Rule::parse(own).covers(&Rule::parse(other)), covers, "{own} covers {other}");
        }
    }

    #[test]
    fn a_rule_is_read_as_it_is_written() {
        let rule = Rule::parse("write,get core,apps pods,deployments a");
        let value = json!({"verbs": ["create", "delete", "deletecollection", "get", "patch", "update"],
            "apiGroups": ["", "apps"], "resources": ["deployments", "pods"], "resourceNames": ["a"]});
        assert_eq!(rule.to_value(), value);
        assert_eq!(Rule::of(&value, |word| Cow::Owned(word.to_owned())), rule);
        assert_eq!(
            Rule::parse("get path /a,/b").to_value(),
            json!({"verbs": ["get"], "nonResourceURLs": ["/a", "/b"]})
        );
        assert_eq!(
            Rule::of(&json!({"verbs": "get"}), |_| Cow::Borrowed("")),
            Rule::default(),
            "what is no list is none"
        );
    }
}
