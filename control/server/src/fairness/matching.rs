//! Which flow schema a request belongs to.

use super::config::{DocumentRule, FlowSchema, ResourceRule, Rule, Subject};
use crate::{User, request::RequestInfo};

const ALL: &str = "*";

/// Whether a schema matches a request.
pub(super) fn matches(schema: &FlowSchema, user: &User, info: &RequestInfo) -> bool {
    schema.rules.iter().any(|rule| has_subject(rule, user) && has_target(rule, info))
}

fn has_subject(rule: &Rule, user: &User) -> bool {
    rule.subjects.iter().any(|subject| match subject {
        Subject::User(name) => name == ALL || *name == user.name,
        Subject::Group(group) => group == ALL || user.in_group(group),
        Subject::ServiceAccount { namespace, name } => {
            let account = user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
            account.is_some_and(|(its, account)| its == namespace && (name == ALL || name == account))
        }
    })
}

fn has_target(rule: &Rule, info: &RequestInfo) -> bool {
    match info.is_resource {
        true => rule.resources.iter().any(|rule| has_resource(rule, info)),
        false => rule.documents.iter().any(|rule| has_document(rule, info)),
    }
}

fn has_resource(rule: &ResourceRule, info: &RequestInfo) -> bool {
    let is_named = |named: &String| match info.subresource.as_str() {
        "" => *named == info.resource,
        sub => named.split_once('/') == Some((&info.resource, sub)),
    };
    has(&rule.verbs, &info.verb)
        && (is_all(&rule.resources) || rule.resources.iter().any(is_named))
        && has(&rule.groups, &info.group)
        && if info.namespace.is_empty() { rule.cluster_scope } else { has(&rule.namespaces, &info.namespace) }
}

fn has_document(rule: &DocumentRule, info: &RequestInfo) -> bool {
    // As upstream: what follows a path and a slash belongs to it, also without a star.
    let is_below = |path: &String| {
        let folder = path.strip_suffix('*').unwrap_or(path);
        let rest = info.path.strip_prefix(folder.strip_suffix('/').unwrap_or(folder));
        *path == info.path || rest.is_some_and(|rest| rest.starts_with('/'))
    };
    has(&rule.verbs, &info.verb) && rule.paths.iter().any(|path| path == ALL || is_below(path))
}

fn has(list: &[String], wanted: &str) -> bool {
    is_all(list) || list.iter().any(|item| item == wanted)
}

/// A star counts only alone.
fn is_all(list: &[String]) -> bool {
    matches!(list, [all] if all == ALL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Query;
    use http::Uri;

    fn info(request: &str) -> RequestInfo {
        let (method, target) = request.split_once(' ').expect("method and target");
        let uri: Uri = target.parse().expect("a target");
        RequestInfo::of(&method.parse().expect("a method"), &uri, &Query::of(&uri))
    }

    fn list(text: &str) -> Vec<String> {
        text.split_whitespace().map(|word| word.replace("core", "")).collect()
    }

    #[test]
    fn subjects_are_users_groups_and_accounts() {
        let account =
            |namespace: &str, name: &str| Subject::ServiceAccount { namespace: namespace.into(), name: name.into() };
        let jane = User::new("jane", &["dev", "system:authenticated"]);
        let robot = User::new("system:serviceaccount:kube:robot", &["system:serviceaccounts"]);
        for (subject, of_jane, of_robot) in [
            (Subject::User("jane".into()), true, false),
            (Subject::User("*".into()), true, true),
            (Subject::User("jan".into()), false, false),
            (Subject::Group("dev".into()), true, false),
            (Subject::Group("*".into()), true, true),
            (account("kube", "robot"), false, true),
            (account("kube", "*"), false, true),
            (account("kub", "*"), false, false),
            (account("kube", "rob"), false, false),
            (account("*", "robot"), false, false),
        ] {
            let rule = Rule { subjects: vec![subject.clone()], ..Rule::default() };
            assert_eq!((has_subject(&rule, &jane), has_subject(&rule, &robot)), (of_jane, of_robot), "{subject:?}");
        }
        assert!(!has_subject(&Rule::default(), &jane));
    }

    #[test]
    fn resource_rules_name_verbs_groups_resources_and_namespaces() {
        let rule = |text: &str| {
            let [verbs, groups, resources, namespaces] =
                text.split('|').map(list).collect::<Vec<_>>().try_into().expect("four");
            let (cluster, namespaces) = (namespaces.contains(&"-".to_owned()), namespaces);
            let namespaces = namespaces.into_iter().filter(|name| name != "-").collect();
            ResourceRule { verbs, groups, resources, cluster_scope: cluster, namespaces }
        };
        for (text, request, expected) in [
            ("*|*|*|*", "GET /api/v1/namespaces/a/pods", true),
            ("*|*|*|*", "GET /api/v1/pods", false),
            ("*|*|*|-", "GET /api/v1/pods", true),
            ("*|*|*|-", "GET /api/v1/namespaces/a/pods", false),
            ("list|core|pods|a b", "GET /api/v1/namespaces/b/pods", true),
            ("list|core|pods|a b", "GET /api/v1/namespaces/c/pods", false),
            ("list|core|pods|* a", "GET /api/v1/namespaces/c/pods", false),
            ("get|core|pods|a", "GET /api/v1/namespaces/a/pods", false),
            ("get watch|core|pods|a", "GET /api/v1/namespaces/a/pods?watch=1", true),
            ("*|core|pods|a", "GET /api/v1/namespaces/a/pods/p/status", false),
            ("*|core|pods pods/status|a", "GET /api/v1/namespaces/a/pods/p/status", true),
            ("*|core|pods/log|a", "GET /api/v1/namespaces/a/pods/p", false),
            ("*|apps|*|a", "GET /api/v1/namespaces/a/pods", false),
            ("*|apps|deployments|a", "POST /apis/apps/v1/namespaces/a/deployments", true),
            ("*|*|*|-", "GET /version", false),
        ] {
            let rule = Rule { resources: vec![rule(text)], ..Rule::default() };
            assert_eq!(has_target(&rule, &info(request)), expected, "{text}: {request}");
        }
    }

    #[test]
    fn document_rules_name_verbs_and_paths() {
        for (verbs, paths, request, expected) in [
            ("get", "/healthz", "GET /healthz", true),
            ("get", "/healthz", "GET /healthz/etcd", true),
            ("get", "/healthz", "GET /healthzz", false),
            ("get", "/healthz/*", "GET /healthz/etcd", true),
            ("get", "/healthz/*", "GET /healthz", false),
            ("get", "/", "GET /version", true),
            ("post", "*", "GET /version", false),
            ("*", "*", "GET /openapi/v3", true),
            ("*", "*", "GET /api/v1/pods", false),
        ] {
            let rule = DocumentRule { verbs: list(verbs), paths: list(paths) };
            let rule = Rule { documents: vec![rule], ..Rule::default() };
            assert_eq!(has_target(&rule, &info(request)), expected, "{verbs} {paths}: {request}");
        }
    }

    #[test]
    fn a_schema_matches_if_a_rule_has_subject_and_target() {
        let rule = |subject: &str, path: &str| Rule {
            subjects: vec![Subject::User(subject.into())],
            documents: vec![DocumentRule { verbs: list("*"), paths: list(path) }],
            ..Rule::default()
        };
        let schema = FlowSchema { rules: vec![rule("jane", "/a"), rule("john", "/b")], ..FlowSchema::default() };
        for (user, request, expected) in
            [("jane", "GET /a", true), ("jane", "GET /b", false), ("john", "GET /b", true), ("jack", "GET /a", false)]
        {
            assert_eq!(matches(&schema, &User::new(user, &[]), &info(request)), expected, "{user} {request}");
        }
    }
}
