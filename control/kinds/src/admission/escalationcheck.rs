//! Nobody grants what he does not have: a role may be written by who has all its permissions, or the verb `escalate`, and a binding by who has all
//! those of its role, or the verb `bind`. Upstream does this in its registries, after the mutating plugins: so this is the last of them. Follows
//! "Privilege escalation prevention and bootstrapping" of the page on RBAC.

use crate::{
    edit,
    rbac::{
        authorizer::Rbac,
        escalation,
        index::{RoleRef, rules},
        rule::Rule,
    },
};
use api::{Object, Status};
use server::{
    Operation,
    admission::{Admission, Attributes},
    authz::{self, Authorizer, Decision},
};
use std::sync::Arc;

const GROUP: &str = "rbac.authorization.k8s.io";

/// The plugin.
pub(super) struct EscalationCheck {
    /// Who decides about the verbs `escalate` and `bind`.
    pub(super) authorizer: Arc<dyn Authorizer>,
    /// Who knows the rules of a user.
    pub(super) rbac: Rbac,
}

#[async_trait::async_trait]
impl Admission for EscalationCheck {
    fn name(&self) -> &'static str {
        "EscalationCheck"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        let cx = &attributes.context;
        let writes = matches!(cx.operation, Operation::Create | Operation::Update);
        writes && cx.resource.gvr.group == GROUP && !cx.user.in_group("system:masters")
    }

    async fn admit(&self, attributes: &Attributes, object: &mut Object) -> Result<(), Status> {
        match attributes.context.resource.gvr.resource.as_str() {
            "roles" | "clusterroles" => self.role(attributes, object).await,
            "rolebindings" | "clusterrolebindings" => self.binding(attributes, object).await,
            _ => Ok(()),
        }
    }
}

impl EscalationCheck {
    async fn role(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        let cx = &attributes.context;
        let old = attributes.old.as_deref();
        if self.may(attributes, "escalate", &cx.resource.gvr.resource, &cx.name).await || only_collected(object, old) {
            return Ok(());
        }
        self.has_all(attributes, object, &rules(object))?;
        let collects = |role: &Object| !role.list_at(&["aggregationRule", "clusterRoleSelectors"]).is_empty();
        if collects(object) || old.is_some_and(collects) {
            let everything = [Rule::parse("* * *"), Rule::parse("* path *")];
            let why = "must have cluster-admin privileges to use the aggregationRule";
            self.has_all(attributes, object, &everything)
                .map_err(|_| Status::forbidden(&cx.resource.gvr, object.name(), why))?;
        }
        Ok(())
    }

    async fn binding(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        let cx = &attributes.context;
        if only_collected(object, attributes.old.as_deref()) {
            return Ok(());
        }
        let text = |field: &str| object.str_at(&["roleRef", field]).unwrap_or_default();
        let (kind, name) = (text("kind"), text("name"));
        let resource = match kind {
            "ClusterRole" => "clusterroles",
            "Role" => "roles",
            // Validation says it.
            _ => return Ok(()),
        };
        if self.may(attributes, "bind", resource, name).await {
            return Ok(());
        }
        let role = RoleRef { kind: kind.to_owned().into(), name: name.into() };
        let granted = self
            .rbac
            .rules_of(&*cx.objects, &role, &cx.namespace)
            .map_err(|_| Status::not_found(&cx.resource.gvr, name))?;
        self.has_all(attributes, object, &granted)
    }

    /// Whether the user has a verb for roles.
    async fn may(&self, attributes: &Attributes, verb: &str, resource: &str, name: &str) -> bool {
        let cx = &attributes.context;
        let namespace = cx.namespace.as_str();
        let wanted =
            authz::Attributes { verb, group: GROUP, version: "*", resource, namespace, name, ..Default::default() };
        self.authorizer.authorize(&*cx.objects, &cx.user, &wanted).await == Decision::Allow
    }

    /// # Errors
    /// The user lacks one of the permissions.
    fn has_all(&self, attributes: &Attributes, object: &Object, granted: &[Rule]) -> Result<(), Status> {
        let cx = &attributes.context;
        let (own, missing) = self.rbac.rules(&*cx.objects, &cx.user, &cx.namespace);
        let own: Vec<&Rule> = own.iter().collect();
        match escalation::refusal(&cx.user, &own, granted, &missing, &cx.resource.gvr.resource) {
            Some(why) => Err(Status::forbidden(&cx.resource.gvr, object.name(), &why)),
            None => Ok(()),
        }
    }
}

/// Whether an update changes only what the garbage collector must be able to change.
fn only_collected(new: &Object, old: Option<&Object>) -> bool {
    let Some(old) = old else { return false };
    let plain = |object: &Object| {
        let mut object = object.clone();
        for field in ["ownerReferences", "finalizers", "selfLink", "managedFields", "resourceVersion"] {
            object.remove(&["metadata", field]);
        }
        object
    };
    let (new, old) = (plain(new), plain(old));
    new.0.keys().chain(old.0.keys()).all(|key| edit::deep_equal_at(&new, &old, &[key]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authorization::privileged::Privileged,
        testing::{Stored, context_for, parse},
    };
    use server::{Resource, User, authz::Union, strategy::Plain};

    const RULE: &str = "rules: [{verbs: [get], apiGroups: [''], resources: [pods]}]";

    /// What a user with these rules everywhere is answered.
    async fn write(rules: &str, resource: &str, object: &str, old: Option<&str>) -> Result<(), String> {
        let role = format!("{{metadata: {{name: own}}, rules: [{rules}]}}");
        let binding =
            "{metadata: {name: own}, roleRef: {kind: ClusterRole, name: own}, subjects: [{kind: User, name: u}]}";
        let stored = Stored::default()
            .with(GROUP, "clusterroles", &role)
            .with(GROUP, "clusterroles", &format!("{{metadata: {{name: reader}}, {RULE}}}"))
            .with(GROUP, "clusterrolebindings", binding);
        let kind = Resource::new(GROUP, "v1", "", "Any", Plain);
        let mut context = context_for(kind, stored);
        let names = Resource::new(GROUP, "v1", resource, "Any", Plain).names;
        (context.resource, context.user) = (names, Arc::new(User::new("u", &["g"])));
        context.operation = if old.is_some() { Operation::Update } else { Operation::Create };
        context.name = "x".to_owned();
        let rbac = Rbac::default();
        rbac.reconciled();
        let authorizer = Arc::new(Union::new(vec![Arc::new(Privileged), Arc::new(rbac.clone())]));
        let plugin = EscalationCheck { authorizer, rbac };
        let attributes = Attributes::new(context, old.map(|old| Arc::new(parse(old))));
        assert!(plugin.handles(&attributes));
        plugin.admit(&attributes, &mut parse(object)).await.map_err(|status| status.message)
    }

    #[tokio::test]
    async fn a_role_is_granted_by_who_has_its_rules_or_may_escalate() {
        let role = format!("{{metadata: {{name: x}}, {RULE}}}");
        let has = "{verbs: [get, list], apiGroups: [''], resources: [pods]}";
        let refused = "clusterroles.rbac.authorization.k8s.io \"x\" is forbidden: user \"u\" (groups=[\"g\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}";
        assert_eq!(write(has, "clusterroles", &role, None).await, Ok(()));
        assert_eq!(write("", "clusterroles", &role, None).await, Err(refused.to_owned()));
        let escalate = |name: &str| {
            format!("{{verbs: [escalate], apiGroups: [{GROUP}], resources: [clusterroles], resourceNames: [{name}]}}")
        };
        assert_eq!(write(&escalate("x"), "clusterroles", &role, None).await, Ok(()));
        assert_eq!(write(&escalate("other"), "clusterroles", &role, None).await, Err(refused.to_owned()));
        let finalized = format!("{{metadata: {{name: x, finalizers: [a.b/c]}}, {RULE}}}");
        assert_eq!(write("", "clusterroles", &role, Some(&finalized)).await, Ok(()), "the collector may do that");
        let labelled = format!("{{metadata: {{name: x, labels: {{a: b}}}}, {RULE}}}");
        assert_eq!(write("", "clusterroles", &role, Some(&labelled)).await, Err(refused.to_owned()));
    }

    #[tokio::test]
    async fn who_collects_rules_must_have_all() {
        let role = "{metadata: {name: x}, aggregationRule: {clusterRoleSelectors: [{matchLabels: {a: b}}]}}";
        let refused = "clusterroles.rbac.authorization.k8s.io \"x\" is forbidden: must have cluster-admin privileges to use the aggregationRule";
        assert_eq!(write("", "clusterroles", role, None).await, Err(refused.to_owned()));
        let plain = "{metadata: {name: x}}";
        assert_eq!(write("", "clusterroles", plain, Some(role)).await, Err(refused.to_owned()), "nor changes one");
        let all = "{verbs: ['*'], apiGroups: ['*'], resources: ['*']}, {verbs: ['*'], nonResourceURLs: ['*']}";
        assert_eq!(write(all, "clusterroles", role, None).await, Ok(()));
    }

    #[tokio::test]
    async fn a_role_is_bound_by_who_has_its_rules_or_may_bind() {
        let of = |kind: &str, name: &str| format!("{{metadata: {{name: x}}, roleRef: {{kind: {kind}, name: {name}}}}}");
        let has = "{verbs: [get], apiGroups: [''], resources: ['*']}";
        let reader = of("ClusterRole", "reader");
        assert_eq!(write(has, "rolebindings", &reader, None).await, Ok(()));
        let refused = write("", "rolebindings", &reader, None).await.expect_err("refused");
        assert!(refused.starts_with("rolebindings.rbac.authorization.k8s.io \"x\" is forbidden: user \"u\" (groups=[\"g\"]) is attempting to grant RBAC permissions not currently held:\n"), "{refused}");
        let bind = format!(
            "{{verbs: [bind], apiGroups: [{GROUP}], resources: [clusterroles], resourceNames: [reader, gone]}}"
        );
        assert_eq!(write(&bind, "clusterrolebindings", &reader, None).await, Ok(()));
        assert_eq!(write(&bind, "clusterrolebindings", &of("ClusterRole", "gone"), None).await, Ok(()));
        assert_eq!(
            write(has, "rolebindings", &of("Role", "gone"), None).await,
            Err("rolebindings.rbac.authorization.k8s.io \"gone\" not found".to_owned()),
            "upstream names the resource of the request"
        );
    }
}
