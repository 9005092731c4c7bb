//! A request as webhooks are told of it, made of admission's attributes.

use super::{
    review,
    rounds::same,
    rule::{Request, Served},
};
use api::{Object, Status};
use serde_json::Value;
use server::admission::{Attributes, Operation};
use std::{borrow::Cow, sync::Arc};

/// What holds for all webhooks of a request.
pub(super) struct About<'a> {
    pub(super) attributes: &'a Attributes,
    /// The resource of the request, and the kind of its object.
    pub(super) served: Served,
    /// The other versions in which the objects are served.
    pub(super) others: Vec<Served>,
    operation: &'static str,
    namespace: String,
    name: String,
    stored_namespace: Option<Arc<Object>>,
}

impl<'a> About<'a> {
    pub(super) fn of(attributes: &'a Attributes, object: &Object) -> Self {
        let cx = &attributes.context;
        let gvr = &cx.resource.gvr;
        let name = if cx.name.is_empty() { object.name() } else { &cx.name }.to_owned();
        let of_namespaces = gvr.group.is_empty() && gvr.resource == "namespaces";
        let namespace = if of_namespaces { name.clone() } else { cx.namespace.clone() };
        let stored_namespace = Some(&namespace)
            .filter(|name| !name.is_empty())
            .and_then(|name| cx.objects.get("", "namespaces", "", name));
        let others = attributes.versions.as_ref().map(|versions| versions.others(gvr, &cx.subresource));
        let others = others.unwrap_or_default().into_iter().map(|(resource, kind)| Served { resource, kind });
        Self {
            attributes,
            served: Served { resource: gvr.clone(), kind: attributes.kind() },
            others: others.collect(),
            operation: match cx.operation {
                Operation::Create => "CREATE",
                Operation::Update => "UPDATE",
                Operation::Delete => "DELETE",
                Operation::Connect => "CONNECT",
            },
            namespace,
            name,
            stored_namespace,
        }
    }

    /// The new object, which a deletion does not have.
    pub(super) fn shown<'o>(&self, object: &'o Object) -> Option<&'o Object> {
        (self.attributes.context.operation != Operation::Delete).then_some(object)
    }

    /// The request with its objects in one version.
    pub(super) fn request<'r>(&'r self, object: Option<&'r Object>, old: Option<&'r Object>) -> Request<'r> {
        Request {
            operation: self.operation,
            served: &self.served,
            subresource: &self.attributes.context.subresource,
            namespace: &self.namespace,
            name: &self.name,
            object,
            old,
            stored_namespace: self.stored_namespace.as_deref(),
        }
    }

    /// The request as expressions see it, which look at the version that a webhook wants.
    pub(super) fn shown_to_expressions(&self, wanted: &Served) -> Value {
        let cx = &self.attributes.context;
        let mut shown =
            review::about(&self.request(None, None), wanted, &cx.user, &self.attributes.options(), cx.dry_run);
        // Go's JSON has it, empty as it is.
        shown["uid"] = "".into();
        shown
    }

    /// An object of the request in the version that a webhook wants.
    pub(super) async fn as_wanted<'o>(
        &self,
        object: Option<&'o Object>,
        wanted: &Served,
    ) -> Result<Option<Cow<'o, Object>>, Status> {
        match object {
            None => Ok(None),
            Some(object) if wanted.kind == self.served.kind => Ok(Some(Cow::Borrowed(object))),
            Some(object) => {
                self.converted(object.clone(), &self.served, wanted).await.map(|made| Some(Cow::Owned(made)))
            }
        }
    }

    /// An object that a webhook has changed, in the version of the request.
    pub(super) async fn as_requested(&self, object: Object, wanted: &Served) -> Result<Object, Status> {
        if wanted.kind == self.served.kind { Ok(object) } else { self.converted(object, wanted, &self.served).await }
    }

    async fn converted(&self, object: Object, from: &Served, to: &Served) -> Result<Object, Status> {
        match &self.attributes.versions {
            Some(versions) => versions.convert(object, &from.resource, &to.resource).await,
            None => Err(Status::internal(format!("unable to convert to {}", to.resource.api_version()))),
        }
    }

    /// A patched object as it is taken over; none where it means the same as before.
    pub(super) fn accepted(&self, before: &Object, after: Object, wanted: &Served) -> Result<Option<Object>, Status> {
        let after = match &self.attributes.versions {
            Some(versions) => {
                let (after, warning) = versions.accept(before, after, &wanted.resource, &wanted.kind)?;
                if let Some(warning) = warning {
                    self.attributes.context.notes.warn(warning);
                }
                after
            }
            None => after,
        };
        Ok((!same(before, &after)).then_some(after))
    }
}
