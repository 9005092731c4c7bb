//! What no role decides: `system:masters` may do everything, and everybody may ask for health. Both are as in upstream's API server.

use server::{
    Objects, User,
    authz::{Attributes, Authorizer, Decision, Rules},
};

/// Users of the components of the cluster.
const COMPONENTS: [&str; 3] = ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"];
/// Paths that need no permission: upstream's `--authorization-always-allow-paths`.
const HEALTH: [&str; 3] = ["/healthz", "/livez", "/readyz"];

/// Whether a user may make the server hold memory and connections without limit. This permits nothing, and says nothing of priority and fairness.
pub(crate) fn is_trusted(user: &User) -> bool {
    user.in_group("system:masters") || COMPONENTS.contains(&user.name.as_str()) || is_node(user)
}

/// Whether the user is a node.
pub(crate) fn is_node(user: &User) -> bool {
    user.in_group("system:nodes") && user.name.starts_with("system:node:")
}

/// Allows everything to `system:masters`, and health to everybody. Its rules are those of the role `cluster-admin`.
pub(crate) struct Privileged;

#[async_trait::async_trait]
impl Authorizer for Privileged {
    async fn authorize(&self, _: &dyn Objects, user: &User, wanted: &Attributes<'_>) -> Decision {
        let health = !wanted.is_resource() && HEALTH.contains(&wanted.path);
        if health || user.in_group("system:masters") { Decision::Allow } else { Decision::NoOpinion }
    }

    async fn rules_for(&self, _: &dyn Objects, _: &User, _: &str) -> Rules {
        Rules::default()
    }
}
