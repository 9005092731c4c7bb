//! Nobody reads through a policy what he may not read himself: who writes a policy may get all objects of the kind of its parameters, and who
//! writes a binding may get or list the parameters to which it refers. Upstream does this in its registries, once nothing else is wrong with the
//! object.

use crate::{at::At, edit};
use api::{Cause, GroupVersionKind, Object, Status, invalid, schema::Schema};
use server::{
    Context, Operation, User,
    admission::{Admission, Attributes},
    authz::{self, Authorizer, Decision},
};
use std::sync::Arc;

const GROUP: &str = "admissionregistration.k8s.io";
const ALL: &str = "*";

/// The plugin.
pub(super) struct PolicyParameters(pub(super) Arc<dyn Authorizer>);

#[async_trait::async_trait]
impl Admission for PolicyParameters {
    fn name(&self) -> &'static str {
        "PolicyParameters"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        let cx = &attributes.context;
        matches!(cx.operation, Operation::Create | Operation::Update)
            && cx.resource.gvr.group == GROUP
            && cx.subresource.is_empty()
            && !cx.user.in_group("system:masters")
    }

    async fn validate(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        let (cx, old) = (&attributes.context, attributes.old.as_deref());
        let refused = match cx.resource.gvr.resource.as_str() {
            "validatingadmissionpolicies" | "mutatingadmissionpolicies" => self.policy(cx, object, old).await,
            "validatingadmissionpolicybindings" => self.binding(cx, object, old, "validatingadmissionpolicies").await,
            "mutatingadmissionpolicybindings" => self.binding(cx, object, old, "mutatingadmissionpolicies").await,
            _ => None,
        };
        let Some(cause) = refused else { return Ok(()) };
        let kind = GroupVersionKind::new(GROUP, "v1", &cx.resource.kind);
        Err(invalid(&kind, object.name(), &[cause]))
    }
}

/// Which objects are parameters: what is not known is all.
struct Parameters<'a> {
    group: &'a str,
    version: &'a str,
    resource: String,
    known: bool,
}

impl<'a> Parameters<'a> {
    fn of(cx: &Context, kind: At<'a>) -> Self {
        let (api_version, name) = (kind.get("apiVersion").str(), kind.get("kind").str());
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = resource(cx, group, version, name);
        Self { group, version, known: resource.is_some(), resource: resource.unwrap_or_else(|| ALL.to_owned()) }
    }
}

/// The resource of a kind that is published, or defined by a CustomResourceDefinition.
fn resource(cx: &Context, group: &str, version: &str, kind: &str) -> Option<String> {
    if Schema::for_kind(&GroupVersionKind::new(group, version, kind)).is_some() {
        let lower = kind.to_lowercase();
        return Some(match lower.strip_suffix('y') {
            _ if lower == "endpoints" => lower,
            Some(stem) => format!("{stem}ies"),
            None if lower.ends_with('s') => format!("{lower}es"),
            None => format!("{lower}s"),
        });
    }
    let definitions = cx.objects.list("apiextensions.k8s.io", "customresourcedefinitions", "");
    let text = |definition: &Object, path: &[&str]| definition.str_at(path).unwrap_or_default().to_owned();
    let found = definitions.iter().find(|definition| {
        text(definition, &["spec", "group"]) == group && text(definition, &["spec", "names", "kind"]) == kind
    })?;
    Some(text(found, &["spec", "names", "plural"]))
}

/// A user as Go prints him.
fn shown(user: &User) -> String {
    let extra: Vec<String> = user.extra.iter().map(|(key, values)| format!("{key}:[{}]", values.join(" "))).collect();
    format!("&{{{} {} [{}] map[{}]}}", user.name, user.uid, user.groups.join(" "), extra.join(" "))
}

impl PolicyParameters {
    async fn may(&self, cx: &Context, wanted: authz::Attributes<'_>) -> bool {
        self.0.authorize(&*cx.objects, &cx.user, &wanted).await == Decision::Allow
    }

    async fn policy(&self, cx: &Context, object: &Object, old: Option<&Object>) -> Option<Cause> {
        let kind = At::of(object, "spec").get("paramKind");
        if !kind.is_set() || old.is_some_and(|old| edit::deep_equal_at(object, old, &["spec", "paramKind"])) {
            return None;
        }
        let Parameters { group, version, resource, .. } = Parameters::of(cx, kind);
        let wanted = authz::Attributes {
            verb: "get",
            group,
            version,
            resource: &resource,
            namespace: ALL,
            name: ALL,
            ..Default::default()
        };
        if self.may(cx, wanted).await {
            return None;
        }
        let (user, name, version) = (shown(&cx.user), kind.get("kind").str(), kind.get("apiVersion").str());
        Some(kind.forbidden(&format!(
            "user {user} must have \"get\" permission on all objects of the referenced paramKind (kind={name}, apiVersion={version})"
        )))
    }

    async fn binding(&self, cx: &Context, object: &Object, old: Option<&Object>, policies: &str) -> Option<Cause> {
        let spec = At::of(object, "spec");
        let (reference, policy) = (spec.get("paramRef"), spec.get("policyName").str());
        let same = |field: &str| old.is_some_and(|old| edit::deep_equal_at(object, old, &["spec", field]));
        if !reference.is_set() || (same("paramRef") && same("policyName")) {
            return None;
        }
        let stored = cx.objects.get(GROUP, policies, "", policy);
        let kind = stored.as_deref().map(|stored| At::of(stored, "spec").get("paramKind")).filter(|kind| kind.is_set());
        let parameters = kind.map(|kind| Parameters::of(cx, kind));
        let (group, version, resource) =
            parameters.as_ref().map_or((ALL, ALL, ALL), |all| (all.group, all.version, all.resource.as_str()));
        let (name, namespace) = (reference.get("name").str(), reference.get("namespace").str());
        let verb = if name.is_empty() { "list" } else { "get" };
        let wanted = authz::Attributes { verb, group, version, resource, namespace, name, ..Default::default() };
        if self.may(cx, wanted).await {
            return None;
        }
        let user = shown(&cx.user);
        let everything = format!(
            "to determine minimum required permissions and user {user} does not have \"{verb}\" permission for all groups, versions and resources"
        );
        let text = match (&stored, kind, parameters) {
            (None, _, _) => format!("unable to get policy {policy} {everything}"),
            (_, Some(kind), Some(all)) if !all.known => {
                let (version, kind) = (kind.get("apiVersion").str(), kind.get("kind").str());
                format!("unable to resolve paramKind &{{{version} {kind}}} {everything}")
            }
            // Upstream takes the one for the other.
            _ if policies.starts_with("mutating") => {
                format!("user {verb} does not have \"{user}\" permission on the object referenced by paramRef")
            }
            _ => format!("user {user} does not have \"{verb}\" permission on the object referenced by paramRef"),
        };
        Some(reference.forbidden(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Rbac,
        testing::{Stored, context_for, parse},
    };
    use expect_test::expect;
    use server::{Names, Resource, strategy::Plain};

    /// What a user with this rule everywhere is answered.
    async fn write(rule: &str, resource: &str, kind: &str, spec: &str, old: Option<&str>) -> String {
        let binding =
            "{metadata: {name: own}, roleRef: {kind: ClusterRole, name: own}, subjects: [{kind: User, name: u}]}";
        let definition = "{metadata: {name: ps.e.com}, spec: {group: e.com, names: {kind: Parameter, plural: ps}}}";
        let stored = Stored::default()
            .with("rbac.authorization.k8s.io", "clusterroles", &format!("{{metadata: {{name: own}}, rules: [{rule}]}}"))
            .with("rbac.authorization.k8s.io", "clusterrolebindings", binding)
            .with("apiextensions.k8s.io", "customresourcedefinitions", definition)
            .with(
                GROUP,
                "mutatingadmissionpolicies",
                "{metadata: {name: maps}, spec: {paramKind: {apiVersion: v1, kind: ConfigMap}}}",
            )
            .with(
                GROUP,
                "validatingadmissionpolicies",
                "{metadata: {name: maps}, spec: {paramKind: {apiVersion: v1, kind: ConfigMap}}}",
            )
            .with(
                GROUP,
                "validatingadmissionpolicies",
                "{metadata: {name: odd}, spec: {paramKind: {apiVersion: o/v1, kind: Odd}}}",
            );
        let mut context = context_for(Resource::new("", "v1", "tests", "Test", Plain), stored);
        context.resource = Arc::new(Names::new(GROUP, "v1", resource, kind));
        context.user = Arc::new(User::new("u", &["g"]));
        context.operation = if old.is_some() { Operation::Update } else { Operation::Create };
        let whole = |spec: &str| parse(&format!("{{metadata: {{name: x}}, spec: {spec}}}"));
        let attributes = Attributes::new(context, old.map(|old| Arc::new(whole(old))));
        let plugin = PolicyParameters(Arc::new(Rbac::default()));
        assert!(plugin.handles(&attributes));
        let answer = plugin.validate(&attributes, &whole(spec)).await;
        answer.map_or_else(|status| format!("{} {}", status.code, status.message), |()| "allowed".to_owned())
    }

    #[tokio::test]
    async fn a_policy_needs_what_its_parameters_need() {
        let (resource, kind) = ("validatingadmissionpolicies", "ValidatingAdmissionPolicy");
        let (maps, none) = ("{paramKind: {apiVersion: v1, kind: ConfigMap}}", "{}");
        let custom = "{paramKind: {apiVersion: e.com/v1, kind: Parameter}}";
        let odd = "{paramKind: {apiVersion: o/v1, kind: Odd}}";
        let rule = |group: &str, resource: &str| {
            format!("{{verbs: [get], apiGroups: ['{group}'], resources: ['{resource}']}}")
        };
        for (rule, spec, old, expected) in [
            (rule("", "configmaps"), maps, None, "allowed"),
            (rule("", "secrets"), maps, Some(maps), "allowed"),
            (rule("", "secrets"), none, None, "allowed"),
            (rule("e.com", "ps"), custom, None, "allowed"),
            (rule("o", "*"), odd, None, "allowed"),
        ] {
            assert_eq!(write(&rule, resource, kind, spec, old).await, expected, "{rule} {spec}");
        }
        let text = write(&rule("", "secrets"), resource, kind, maps, Some(custom)).await;
        expect![[r#"422 ValidatingAdmissionPolicy.admissionregistration.k8s.io "x" is invalid: spec.paramKind: Forbidden: user &{u  [g] map[]} must have "get" permission on all objects of the referenced paramKind (kind=ConfigMap, apiVersion=v1)"#]].assert_eq(&text);
        let one = "{verbs: [get], apiGroups: [''], resources: [configmaps], resourceNames: [a]}";
        assert_eq!(write(one, resource, kind, maps, None).await, text, "of one object is not of all");
        assert!(
            write(&rule("o", "odds"), resource, kind, odd, None).await.starts_with("422"),
            "what is not known is all"
        );
    }

    #[tokio::test]
    async fn a_binding_needs_what_it_refers_to() {
        let binding = |policy: &str, reference: &str| format!("{{policyName: {policy}, paramRef: {{{reference}}}}}");
        let (resource, kind) = ("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding");
        let one = "{verbs: [get], apiGroups: [''], resources: [configmaps], resourceNames: [a]}";
        let all = "{verbs: [list], apiGroups: [''], resources: [configmaps]}";
        let everything = "{verbs: ['*'], apiGroups: ['*'], resources: ['*']}";
        for (rule, spec, old) in [
            (one, binding("maps", "name: a, namespace: ns"), None),
            (all, binding("maps", "selector: {}"), None),
            (everything, binding("missing", "name: a"), None),
            (one, binding("maps", "name: b"), Some(binding("maps", "name: b"))),
            (one, "{policyName: maps}".to_owned(), None),
        ] {
            assert_eq!(write(rule, resource, kind, &spec, old.as_deref()).await, "allowed", "{rule} {spec}");
        }
        let mut refused = String::new();
        for (resource, spec) in [
            (resource, binding("maps", "name: b")),
            (resource, binding("maps", "selector: {}")),
            (resource, binding("odd", "name: a")),
            (resource, binding("missing", "name: a")),
            ("mutatingadmissionpolicybindings", binding("maps", "name: b")),
        ] {
            refused.push_str(&format!("{}\n", write(one, resource, kind, &spec, None).await));
        }
        expect![[r#"
            422 ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io "x" is invalid: spec.paramRef: Forbidden: user &{u  [g] map[]} does not have "get" permission on the object referenced by paramRef
            422 ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io "x" is invalid: spec.paramRef: Forbidden: user &{u  [g] map[]} does not have "list" permission on the object referenced by paramRef
            422 ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io "x" is invalid: spec.paramRef: Forbidden: unable to resolve paramKind &{o/v1 Odd} to determine minimum required permissions and user &{u  [g] map[]} does not have "get" permission for all groups, versions and resources
            422 ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io "x" is invalid: spec.paramRef: Forbidden: unable to get policy missing to determine minimum required permissions and user &{u  [g] map[]} does not have "get" permission for all groups, versions and resources
            422 ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io "x" is invalid: spec.paramRef: Forbidden: user get does not have "&{u  [g] map[]}" permission on the object referenced by paramRef
        "#]].assert_eq(&refused);
        assert_eq!(write(one, "mutatingwebhookconfigurations", "x", "{}", None).await, "allowed");
    }
}
