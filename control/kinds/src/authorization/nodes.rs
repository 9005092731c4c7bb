//! What nodes may do: the rules of upstream's role `system:node`. Upstream's node authorizer grants them too, and narrows them to the objects that
//! the pods of the node need, as NodeRestriction narrows the writes. Neither is here yet: a node may read every Secret, and write the status of
//! every node and pod.

use super::privileged::is_node;
use crate::rbac::{authorizer::listed, policy};
use server::{
    Objects, User,
    authz::{Attributes, Authorizer, Decision, Rules},
};

/// Allows nodes what every node may do.
pub(crate) struct Nodes;

#[async_trait::async_trait]
impl Authorizer for Nodes {
    async fn authorize(&self, _: &dyn Objects, user: &User, wanted: &Attributes<'_>) -> Decision {
        let allowed = is_node(user) && policy::node_rules().iter().any(|rule| rule.allows(wanted));
        if allowed { Decision::Allow } else { Decision::NoOpinion }
    }

    async fn rules_for(&self, _: &dyn Objects, user: &User, _: &str) -> Rules {
        if is_node(user) { listed(policy::node_rules()) } else { Rules::default() }
    }
}
