//! What the FlowSchemas and PriorityLevelConfigurations say, for the server, which acts on it. An object that cannot be read counts as if it were
//! not there, and those that every server needs count also without an object.

use super::{
    EXEMPT, GROUP,
    standard::{self, LEVELS, SCHEMAS},
};
use crate::at::At;
use api::Object;
use server::fairness::{
    Configuration, Distinguisher, DocumentRule, FlowSchema, PriorityLevel, Queuing, ResourceRule, Response, Rule,
    Source, Subject,
};
use std::sync::Arc;

/// The objects that configure priority and fairness.
pub(crate) const SOURCE: Source = Source { group: GROUP, schemas: SCHEMAS, levels: LEVELS, read };

fn read(schemas: &[Arc<Object>], levels: &[Arc<Object>]) -> Configuration {
    let mandatory = |resource: &'static str| {
        let all = standard::all().iter().filter(move |one| one.mandatory && one.resource == resource);
        all.filter_map(|one| Object::from_value(one.object.clone()))
    };
    let mut levels: Vec<PriorityLevel> = levels.iter().filter_map(|object| level(object)).collect();
    for missing in mandatory(LEVELS).filter_map(|object| level(&object)) {
        if levels.iter().all(|level| level.name != missing.name) {
            levels.push(missing);
        }
    }
    let mut schemas: Vec<FlowSchema> = schemas.iter().map(|object| schema(object)).collect();
    schemas.retain(|schema| levels.iter().any(|level| level.name == schema.level));
    for missing in mandatory(SCHEMAS).map(|object| schema(&object)) {
        if schemas.iter().all(|schema| schema.name != missing.name) {
            schemas.push(missing);
        }
    }
    Configuration { schemas, levels }
}

/// A number of an object. What is negative is none.
fn number(at: At<'_>) -> Option<u32> {
    u32::try_from(at.int()?).ok()
}

fn level(object: &Object) -> Option<PriorityLevel> {
    let spec = At::of(object, "spec");
    let exempt = spec.get("type").str() == "Exempt";
    if exempt != (object.name() == EXEMPT) {
        return None;
    }
    let level = spec.get(if exempt { "exempt" } else { "limited" });
    let response = level.get("limitResponse");
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    let response = match (exempt, kind.str()) {
        (true, _) => Response::Exempt,
        (false, "Reject") => Response::Reject,
        (false, "Queue") => {
            let length = number(queuing.get("queueLengthLimit"))? as usize;
            Response::Queue(Queuing::new(number(queuing.get("queues"))?, number(queuing.get("handSize"))?, length)?)
        }
        _ => return None,
    };
    Some(PriorityLevel {
        name: object.name().to_owned(),
        uid: object.uid().to_owned(),
        shares: number(level.get("nominalConcurrencyShares")).unwrap_or_default(),
        lendable: number(level.get("lendablePercent")).unwrap_or_default(),
        borrowing: number(level.get("borrowingLimitPercent")),
        response,
    })
}

fn schema(object: &Object) -> FlowSchema {
    let spec = At::of(object, "spec");
    FlowSchema {
        name: object.name().to_owned(),
        uid: object.uid().to_owned(),
        level: spec.down(&["priorityLevelConfiguration", "name"]).str().to_owned(),
        precedence: spec.get("matchingPrecedence").int().unwrap_or_default(),
        distinguisher: match spec.down(&["distinguisherMethod", "type"]).str() {
            "ByUser" => Some(Distinguisher::User),
            "ByNamespace" => Some(Distinguisher::Namespace),
            _ => None,
        },
        rules: spec.get("rules").items().map(rule).collect(),
    }
}

fn rule(rule: At<'_>) -> Rule {
    let texts = |at: At<'_>| at.items().map(|item| item.str().to_owned()).collect();
    Rule {
        subjects: rule.get("subjects").items().filter_map(subject).collect(),
        resources: rule
            .get("resourceRules")
            .items()
            .map(|rule| ResourceRule {
                verbs: texts(rule.get("verbs")),
                groups: texts(rule.get("apiGroups")),
                resources: texts(rule.get("resources")),
                cluster_scope: rule.get("clusterScope").bool(),
                namespaces: texts(rule.get("namespaces")),
            })
            .collect(),
        documents: rule
            .get("nonResourceRules")
            .items()
            .map(|rule| DocumentRule { verbs: texts(rule.get("verbs")), paths: texts(rule.get("nonResourceURLs")) })
            .collect(),
    }
}

fn subject(subject: At<'_>) -> Option<Subject> {
    let text = |path: [&str; 2]| subject.down(&path).str().to_owned();
    match subject.get("kind").str() {
        "User" => Some(Subject::User(text(["user", "name"]))),
        "Group" => Some(Subject::Group(text(["group", "name"]))),
        "ServiceAccount" => Some(Subject::ServiceAccount {
            namespace: text(["serviceAccount", "namespace"]),
            name: text(["serviceAccount", "name"]),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::parse;

    fn object(text: &str) -> Arc<Object> {
        Arc::new(parse(text))
    }

    fn names(configuration: &Configuration) -> (Vec<&str>, Vec<&str>) {
        let levels = configuration.levels.iter().map(|level| level.name.as_str());
        (configuration.schemas.iter().map(|schema| schema.name.as_str()).collect(), levels.collect())
    }

    #[test]
    fn the_mandatory_ones_count_without_objects() {
        let configuration = read(&[], &[]);
        assert_eq!(names(&configuration), (vec!["exempt", "catch-all"], vec!["catch-all", "exempt"]));
        let responses: Vec<Response> = configuration.levels.iter().map(|level| level.response).collect();
        assert_eq!(responses, [Response::Reject, Response::Exempt]);
        let exempt = &configuration.schemas[0];
        assert_eq!((exempt.precedence, exempt.level.as_str()), (1, "exempt"));
        assert_eq!(exempt.rules[0].subjects, [Subject::Group("system:masters".into())]);
    }

    #[test]
    fn what_every_cluster_has_can_be_read() {
        let of = |resource: &str| -> Vec<Arc<Object>> {
            let all = standard::all().iter().filter(|one| one.resource == resource);
            all.filter_map(|one| Object::from_value(one.object.clone()).map(Arc::new)).collect()
        };
        let configuration = read(&of(SCHEMAS), &of(LEVELS));
        assert_eq!((configuration.schemas.len(), configuration.levels.len()), (11, 8));
        assert_eq!(configuration.levels.iter().map(|level| level.shares).sum::<u32>(), 245);
    }

    #[test]
    fn a_level_is_read_or_is_not_there() {
        let limited = |rest: &str| {
            object(&format!("{{kind: L, metadata: {{name: l, uid: u}}, spec: {{type: Limited, limited: {{{rest}}}}}}}"))
        };
        let queuing = "limitResponse: {type: Queue, queuing: {queues: 64, handSize: 6, queueLengthLimit: 50}}";
        let read = level(&limited(&format!(
            "nominalConcurrencyShares: 10, lendablePercent: 50, borrowingLimitPercent: 20, {queuing}"
        )));
        let expected = PriorityLevel {
            name: "l".into(),
            uid: "u".into(),
            shares: 10,
            lendable: 50,
            borrowing: Some(20),
            response: Response::Queue(Queuing::new(64, 6, 50).expect("can be dealt")),
        };
        assert_eq!(read, Some(expected));
        for (text, there) in [
            ("limitResponse: {type: Reject}", true),
            ("nominalConcurrencyShares: -1, limitResponse: {type: Reject}", true),
            ("limitResponse: {type: Queue}", false),
            ("limitResponse: {type: Queue, queuing: {queues: 4, handSize: 6, queueLengthLimit: 50}}", false),
            ("limitResponse: {type: Queue, queuing: {queues: 64, handSize: 60, queueLengthLimit: 50}}", false),
            ("limitResponse: {type: Wait}", false),
            ("", false),
        ] {
            assert_eq!(level(&limited(text)).is_some(), there, "{text}");
        }
        assert_eq!(level(&object("{kind: L, metadata: {name: l}, spec: {type: Exempt, exempt: {}}}")), None);
    }

    #[test]
    fn a_schema_is_read_and_counts_if_its_level_is_there() {
        let text = |level: &str| {
            format!(
                "{{kind: F, metadata: {{name: s, uid: u}}, spec: {{priorityLevelConfiguration: {{name: {level}}}, matchingPrecedence: 7,
                distinguisherMethod: {{type: ByNamespace}}, rules: [{{subjects: [{{kind: User, user: {{name: a}}}}, {{kind: Robot}},
                {{kind: ServiceAccount, serviceAccount: {{namespace: ns, name: '*'}}}}],
                resourceRules: [{{verbs: [get], apiGroups: [''], resources: [pods], clusterScope: true, namespaces: [b]}}],
                nonResourceRules: [{{verbs: ['*'], nonResourceURLs: [/x]}}]}}]}}}}"
            )
        };
        let configuration =
            read(&[object(&text("catch-all")), object(&text("gone").replace("name: s", "name: t"))], &[]);
        assert_eq!(names(&configuration).0, ["s", "exempt", "catch-all"]);
        let schema = &configuration.schemas[0];
        assert_eq!((schema.uid.as_str(), schema.precedence), ("u", 7));
        assert_eq!(schema.distinguisher, Some(Distinguisher::Namespace));
        let rule = &schema.rules[0];
        let account = Subject::ServiceAccount { namespace: "ns".into(), name: "*".into() };
        assert_eq!(rule.subjects, [Subject::User("a".into()), account]);
        assert_eq!(
            (rule.resources[0].cluster_scope, rule.resources[0].groups.as_slice()),
            (true, &[String::new()][..])
        );
        assert_eq!(rule.documents[0].paths, ["/x"]);
    }
}
