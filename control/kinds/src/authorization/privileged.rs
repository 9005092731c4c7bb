//! Privileged users: `system:masters`, and the components of the cluster, which have no roles of their own yet.

use server::{
    User,
    authz::{Attributes, Authorizer, Decision, DocumentRule, ResourceRule, Rules},
};

/// Users of the components of the cluster.
const COMPONENTS: [&str; 3] = ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"];

/// Whether the user may do everything.
pub(crate) fn is_privileged(user: &User) -> bool {
    user.in_group("system:masters") || COMPONENTS.contains(&user.name.as_str()) || is_node(user)
}

fn is_node(user: &User) -> bool {
    user.in_group("system:nodes") && user.name.starts_with("system:node:")
}

/// Allows everything to privileged users.
pub(crate) struct Privileged;

#[async_trait::async_trait]
impl Authorizer for Privileged {
    async fn authorize(&self, user: &User, _: &Attributes<'_>) -> Decision {
        if is_privileged(user) { Decision::Allow } else { Decision::NoOpinion }
    }

    async fn rules_for(&self, user: &User, _: &str) -> Rules {
        if !is_privileged(user) {
            return Rules::default();
        }
        let all = || vec!["*".into()];
        Rules {
            resources: vec![ResourceRule { verbs: all(), groups: all(), resources: all() }],
            documents: vec![DocumentRule { verbs: all(), paths: all() }],
            incomplete: false,
        }
    }
}
