//! The self reviews: SelfSubjectReview, SelfSubjectAccessReview and SelfSubjectRulesReview. The authorizer answers them; they are not stored.

use api::{Object, Reason, Status};
use axum::body::Body;
use http::Response;
use serde_json::{Value, json};
use server::{
    Action, Api, Call, Context, Names, Operation, Resource, User,
    authz::{Attributes, Authorizer, Decision},
    match_namespace,
    negotiate::Offers,
};
use std::sync::Arc;

/// The reviews as resources.
pub(crate) fn resources(authorizer: &Arc<dyn Authorizer>) -> [Resource; 3] {
    let review = |group: &str, resource: &str, kind: &str, about: ReviewKind| {
        let action = Review { about, authorizer: authorizer.clone() };
        Resource::answered(group, "v1", resource, kind, Arc::new(action)).cluster_scoped()
    };
    [
        review("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", ReviewKind::Identity),
        review("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", ReviewKind::Access),
        review("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", ReviewKind::Rules),
    ]
}

#[derive(Clone, Copy)]
enum ReviewKind {
    Identity,
    Access,
    Rules,
}

/// Fills in the status of a review.
struct Review {
    about: ReviewKind,
    authorizer: Arc<dyn Authorizer>,
}

#[async_trait::async_trait]
impl Action for Review {
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status> {
        let output = call.output(Offers::Objects)?;
        let (mut review, options, warnings) = call.decode(&names.gvk())?;
        let cx = api.context(&call, Operation::Create, &names, options.dry_run);
        match_namespace(&mut review, &cx.namespace, names.namespaced)?;
        match self.about {
            ReviewKind::Identity => identity(&cx, &mut review),
            ReviewKind::Access => self.access(&cx.user, &mut review).await?,
            ReviewKind::Rules => self.rules(&cx.user, &mut review).await,
        }
        Ok(call.created(output, &review.into_value(), &warnings))
    }
}

fn identity(cx: &Context, review: &mut Object) {
    review.set(&["metadata", "creationTimestamp"], api::time::rfc3339(cx.now));
    review.set(&["status"], json!({"userInfo": user_info(&cx.user)}));
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

impl Review {
    async fn access(&self, user: &User, review: &mut Object) -> Result<(), Status> {
        let resource = review.at(&["spec", "resourceAttributes"]).is_some_and(Value::is_object);
        let document = review.at(&["spec", "nonResourceAttributes"]).is_some_and(Value::is_object);
        if resource == document {
            let text = "spec.resourceAttributes: Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified";
            let text = format!("SelfSubjectAccessReview.authorization.k8s.io \"\" is invalid: {text}");
            return Err(Status::new(Reason::Invalid, text));
        }
        let about = if resource { "resourceAttributes" } else { "nonResourceAttributes" };
        let at = |field: &str| review.str_at(&["spec", about, field]).unwrap_or_default();
        let wanted = Attributes {
            verb: at("verb"),
            group: at("group"),
            version: at("version"),
            resource: at("resource"),
            subresource: at("subresource"),
            namespace: at("namespace"),
            name: at("name"),
            path: at("path"),
        };
        let status = match self.authorizer.authorize(user, &wanted).await {
            Decision::Allow => json!({"allowed": true}),
            Decision::NoOpinion => json!({"allowed": false}),
            Decision::Deny(reason) => json!({"allowed": false, "denied": true, "reason": reason}),
        };
        review.set(&["status"], status);
        review.set(&["metadata", "creationTimestamp"], Value::Null);
        Ok(())
    }

    async fn rules(&self, user: &User, review: &mut Object) {
        let namespace = review.str_at(&["spec", "namespace"]).unwrap_or_default().to_owned();
        let rules = self.authorizer.rules_for(user, &namespace).await;
        review.set(&["status"], rules.status());
        review.set(&["metadata", "creationTimestamp"], Value::Null);
    }
}
