//! The reviews: SelfSubjectReview, TokenReview, and those of access. The authorizer and the authenticators answer them; they are not stored.

use super::accessreviews::{self, About};
use crate::Tokens;
use api::{Object, Status};
use axum::body::Body;
use http::Response;
use serde_json::{Value, json};
use server::{
    Action, Api, Call, Context, Names, Operation, Resource, User, authz::Authorizer, match_namespace, negotiate::Offers,
};
use std::sync::Arc;

/// The reviews as resources.
pub(crate) fn resources(tokens: &Tokens, authorizer: &Arc<dyn Authorizer>) -> [Resource; 6] {
    let review = |group: &str, resource: &str, kind: &str, kind_of: Kind| {
        let action = Review { kind: kind_of, authorizer: authorizer.clone(), tokens: tokens.clone() };
        Resource::answered(group, "v1", resource, kind, Arc::new(action))
    };
    let access =
        |resource: &str, kind: &str, about| review("authorization.k8s.io", resource, kind, Kind::Access(about));
    [
        review("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", Kind::Identity).cluster_scoped(),
        review("authentication.k8s.io", "tokenreviews", "TokenReview", Kind::Token).cluster_scoped(),
        access("localsubjectaccessreviews", "LocalSubjectAccessReview", About::UserIn),
        access("selfsubjectaccessreviews", "SelfSubjectAccessReview", About::Caller).cluster_scoped(),
        review("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", Kind::Rules)
            .cluster_scoped(),
        access("subjectaccessreviews", "SubjectAccessReview", About::User).cluster_scoped(),
    ]
}

#[derive(Clone, Copy)]
enum Kind {
    Identity,
    Token,
    Access(About),
    Rules,
}

/// Fills in the status of a review.
struct Review {
    kind: Kind,
    authorizer: Arc<dyn Authorizer>,
    tokens: Tokens,
}

#[async_trait::async_trait]
impl Action for Review {
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status> {
        let output = call.output(Offers::Objects)?;
        let (mut review, options, warnings) = call.decode(&names.gvk())?;
        let cx = api.context(&call, Operation::Create, &names, options.dry_run);
        match_namespace(&mut review, &cx.namespace, names.namespaced)?;
        api.admit(&call, &names, &options, &mut review).await?;
        let status = match self.kind {
            Kind::Identity => {
                review.set(&["metadata", "creationTimestamp"], api::time::rfc3339(cx.now));
                json!({"userInfo": user_info(&cx.user)})
            }
            Kind::Token => self.token(&cx, &review)?,
            Kind::Access(about) => accessreviews::status(&*self.authorizer, about, &cx, &review).await?,
            Kind::Rules => {
                let namespace = review.str_at(&["spec", "namespace"]).unwrap_or_default();
                if namespace.is_empty() {
                    return Err(Status::bad_request("no namespace on request"));
                }
                let status = self.authorizer.rules_for(&*cx.objects, &cx.user, namespace).await.status();
                review.set(&["spec"], json!({}));
                status
            }
        };
        review.set(&["status"], status);
        Ok(call.created(output, &review.into_value(), &warnings))
    }
}

impl Review {
    /// Whose token it is, and for which of the wanted audiences; without any, those of the API.
    fn token(&self, cx: &Context, review: &Object) -> Result<Value, Status> {
        let token = review.str_at(&["spec", "token"]).unwrap_or_default();
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let asked = review.list_at(&["spec", "audiences"]).iter().filter_map(Value::as_str);
        let mut audiences: Vec<&str> = asked.collect();
        if audiences.is_empty() {
            audiences.push(self.tokens.issuer());
        }
        Ok(match self.tokens.review(token, &audiences, cx.now, &*cx.objects) {
            Some((user, audiences)) => {
                json!({"authenticated": true, "user": user_info(&user), "audiences": audiences})
            }
            None => json!({"user": {}, "error": "invalid bearer token"}),
        })
    }
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}
