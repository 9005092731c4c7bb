//! The reviews: SelfSubjectReview, SelfSubjectAccessReview and SelfSubjectRulesReview of the caller, SubjectAccessReview of anybody. The
//! authorizer answers them; they are not stored.

use api::{Cause, FieldPath, Object, Reason, Status, invalid};
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
pub(crate) fn resources(authorizer: &Arc<dyn Authorizer>) -> [Resource; 4] {
    let review = |group: &str, resource: &str, kind: &str, about: ReviewKind| {
        let action = Review { about, authorizer: authorizer.clone() };
        Resource::answered(group, "v1", resource, kind, Arc::new(action)).cluster_scoped()
    };
    [
        review("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", ReviewKind::Identity),
        review("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", ReviewKind::Access),
        review("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", ReviewKind::Rules),
        review("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", ReviewKind::AccessOf),
    ]
}

#[derive(Clone, Copy)]
enum ReviewKind {
    Identity,
    Access,
    AccessOf,
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
            ReviewKind::Access => self.access(&cx.user, &names, &mut review).await?,
            ReviewKind::AccessOf => {
                let user = named(&names, &review)?;
                self.access(&user, &names, &mut review).await?;
            }
            ReviewKind::Rules => self.rules(&cx.user, &mut review).await,
        }
        Ok(call.created(output, &review.into_value(), &warnings))
    }
}

fn identity(cx: &Context, review: &mut Object) {
    review.set(&["metadata", "creationTimestamp"], api::time::rfc3339(cx.now));
    review.set(&["status"], json!({"userInfo": user_info(&cx.user)}));
}

/// The user that a review names.
fn named(names: &Names, review: &Object) -> Result<User, Status> {
    let text = |field: &str| review.str_at(&["spec", field]).unwrap_or_default().to_owned();
    let texts = |list: &[Value]| list.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    let extra = review.at(&["spec", "extra"]).and_then(Value::as_object).into_iter().flatten();
    let user = User {
        name: text("user"),
        uid: text("uid"),
        groups: texts(review.list_at(&["spec", "groups"])),
        extra: extra.map(|(key, all)| (key.clone(), texts(all.as_array().map_or(&[], Vec::as_slice)))).collect(),
    };
    if user.name.is_empty() && user.groups.is_empty() {
        let path = FieldPath::new("spec").child("user");
        let cause = Cause::invalid(&path, &json!(""), "at least one of user or group must be specified");
        return Err(invalid(&names.gvk(), "", &[cause]));
    }
    Ok(user)
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
    async fn access(&self, user: &User, names: &Names, review: &mut Object) -> Result<(), Status> {
        let resource = review.at(&["spec", "resourceAttributes"]).is_some_and(Value::is_object);
        let document = review.at(&["spec", "nonResourceAttributes"]).is_some_and(Value::is_object);
        if resource == document {
            let text = "spec.resourceAttributes: Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified";
            let text = format!("{}.authorization.k8s.io \"\" is invalid: {text}", names.kind);
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
