//! `serviceaccounts/token`: TokenRequest.

use super::tokens::{Bound, Claims, Reference, Tokens};
use api::{Cause, FieldPath, GroupVersionKind, GroupVersionResource, Object, Status, invalid};
use axum::body::Body;
use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Action, Api, Call, Context, Names, Objects, Operation, match_namespace, negotiate::Offers};
use std::sync::Arc;

/// Shortest life of a token, seconds.
const MIN_SECONDS: i64 = 600;
/// Longest life of a token, seconds.
const MAX_SECONDS: i64 = 1 << 32;
/// The lifetime that projected volumes of pods request, seconds. Such tokens live a year and log a warning after the requested time, because old
/// clients did not reload them.
const PROJECTED: i64 = 3607;
/// The lifetime of those tokens, seconds.
const EXTENDED: i64 = 365 * 24 * 3600;

/// POST of a TokenRequest.
pub(crate) struct Token(pub(crate) Tokens);

#[async_trait::async_trait]
impl Action for Token {
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status> {
        let output = call.output(Offers::Objects)?;
        let kind = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
        let (mut request, options, warnings) = call.decode(&kind)?;
        let cx = api.context(&call, Operation::Create, &names, options.dry_run);
        match_namespace(&mut request, &cx.namespace, true)?;
        api.admit(&call, &names, &options, &mut request).await?;
        self.answer(&cx, &mut request, &kind)?;
        Ok(call.created(output, &request.into_value(), &warnings))
    }
}

impl Token {
    /// Issues the token and sets the status of the request.
    fn answer(&self, cx: &Context, request: &mut Object, kind: &GroupVersionKind) -> Result<(), Status> {
        let gvr = &cx.resource.gvr;
        let account = cx.objects.get("", "serviceaccounts", &cx.namespace, &cx.name);
        let account = account.ok_or_else(|| Status::not_found(gvr, &cx.name))?;
        let asked = request.int_at(&["spec", "expirationSeconds"]).unwrap_or(3600);
        validate(request, asked, kind)?;
        let bound = bound(request, &account, cx.objects.as_ref(), gvr)?;
        let issuer = self.0.issuer().to_owned();
        let audiences: Vec<String> =
            request.list_at(&["spec", "audiences"]).iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
        let audiences = if audiences.is_empty() { vec![issuer.clone()] } else { audiences };

        let now = cx.now.as_second();
        let extended = asked == PROJECTED && bound.pod.is_some() && audiences.contains(&issuer);
        let claims = Claims {
            aud: audiences.clone(),
            exp: now + if extended { EXTENDED } else { asked },
            iat: now,
            iss: issuer,
            jti: cx.ids.uid(),
            kubernetes: Bound { warnafter: extended.then_some(now + asked), ..bound },
            nbf: now,
            sub: format!("system:serviceaccount:{}:{}", cx.namespace, cx.name),
        };
        let token = self.0.sign(&claims).map_err(Status::internal)?;
        let end = Timestamp::from_second(now + asked).unwrap_or(cx.now);
        request.set(&["metadata", "name"], cx.name.clone());
        request.set(&["metadata", "creationTimestamp"], api::time::rfc3339(cx.now));
        request.set(&["spec", "audiences"], audiences);
        request.set(&["spec", "expirationSeconds"], asked);
        request.set(&["status"], json!({"token": token, "expirationTimestamp": api::time::rfc3339(end)}));
        Ok(())
    }
}

fn validate(request: &Object, asked: i64, kind: &GroupVersionKind) -> Result<(), Status> {
    let field = FieldPath::new("spec").child("expirationSeconds");
    let mut causes = Vec::new();
    if asked < MIN_SECONDS {
        causes.push(Cause::invalid(&field, &json!(asked), "may not specify a duration less than 10 minutes"));
    }
    if asked > MAX_SECONDS {
        causes.push(Cause::invalid(&field, &json!(asked), "may not specify a duration larger than 2^32 seconds"));
    }
    if causes.is_empty() { Ok(()) } else { Err(invalid(kind, request.name(), &causes)) }
}

fn bound(
    request: &Object,
    account: &Object,
    objects: &dyn Objects,
    resource: &GroupVersionResource,
) -> Result<Bound, Status> {
    let refer = |object: &Object| Reference { name: object.name().to_owned(), uid: object.uid().to_owned() };
    let mut bound = Bound {
        namespace: account.namespace().to_owned(),
        serviceaccount: refer(account),
        pod: None,
        node: None,
        secret: None,
        warnafter: None,
    };
    let Some(reference) = request.at(&["spec", "boundObjectRef"]).filter(|r| r.is_object()) else { return Ok(bound) };
    let text = |key: &str| reference.get(key).and_then(Value::as_str).unwrap_or_default();
    let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
    let (plural, namespace) = match kind {
        "Pod" => ("pods", account.namespace()),
        "Secret" => ("secrets", account.namespace()),
        "Node" => ("nodes", ""),
        _ => {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount to object of type {}",
                text("apiVersion").to_owned() + ", Kind=" + kind
            )));
        }
    };
    let gvr = GroupVersionResource::new("", "v1", plural);
    let found = objects.get("", plural, namespace, name).ok_or_else(|| Status::not_found(&gvr, name))?;
    if !uid.is_empty() && uid != found.uid() {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(&gvr, name, &why));
    }
    match kind {
        "Pod" => {
            let runs_as = found.str_at(&["spec", "serviceAccountName"]).unwrap_or_default();
            if runs_as != account.name() {
                let why = format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    account.name()
                );
                return Err(Status::forbidden(resource, account.name(), &why));
            }
            let node = found.str_at(&["spec", "nodeName"]).filter(|n| !n.is_empty());
            bound.node = node.and_then(|n| objects.get("", "nodes", "", n)).map(|n| refer(&n));
            bound.pod = Some(refer(&found));
        }
        "Secret" => bound.secret = Some(refer(&found)),
        _ => bound.node = Some(refer(&found)),
    }
    Ok(bound)
}
