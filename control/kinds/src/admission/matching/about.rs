//! A request as webhooks and policies see it, made of admission's attributes.

use super::{
    rule::{Request, Served},
    shown::shown,
};
use api::{GroupVersionResource, Object, Status};
use serde_json::Value;
use server::admission::{Attributes, Operation};
use std::{borrow::Cow, sync::Arc};

/// What holds for all webhooks and policies of a request.
pub(crate) struct About<'a> {
    pub(crate) attributes: &'a Attributes,
    /// The resource of the request, and the kind of its object.
    pub(crate) served: Served,
    /// The other versions in which the objects are served.
    pub(crate) others: Vec<Served>,
    operation: &'static str,
    namespace: String,
    name: String,
    stored_namespace: Option<Arc<Object>>,
}

impl<'a> About<'a> {
    pub(crate) fn of(attributes: &'a Attributes, object: &Object) -> Self {
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

    /// The namespace of the request; of a request for a namespace its name.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The namespace that the object is in, which a Namespace is not.
    ///
    /// # Errors
    /// There is none with this name.
    pub(crate) fn namespace_of_object(&self) -> Result<Option<&Object>, Status> {
        let kind = &self.served.kind;
        let is_namespace = (kind.group.as_str(), kind.version.as_str(), kind.kind.as_str()) == ("", "v1", "Namespace");
        if is_namespace || self.namespace.is_empty() {
            return Ok(None);
        }
        let namespaces = GroupVersionResource::new("", "v1", "namespaces");
        let stored = self.stored_namespace.as_deref();
        stored.map(Some).ok_or_else(|| Status::not_found(&namespaces, &self.namespace))
    }

    /// The new object, which a deletion does not have.
    pub(crate) fn shown<'o>(&self, object: &'o Object) -> Option<&'o Object> {
        (self.attributes.context.operation != Operation::Delete).then_some(object)
    }

    /// The request with its objects in one version.
    pub(crate) fn request<'r>(&'r self, object: Option<&'r Object>, old: Option<&'r Object>) -> Request<'r> {
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
    pub(crate) fn shown_to_expressions(&self, wanted: &Served) -> Value {
        let cx = &self.attributes.context;
        let mut all = shown(&self.request(None, None), wanted, &cx.user, &self.attributes.options(), cx.dry_run);
        // Go's JSON has it, empty as it is.
        all["uid"] = "".into();
        all
    }

    /// An object of the request in the version that a webhook wants.
    pub(crate) async fn as_wanted<'o>(
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
    pub(crate) async fn as_requested(&self, object: Object, wanted: &Served) -> Result<Object, Status> {
        if wanted.kind == self.served.kind { Ok(object) } else { self.converted(object, wanted, &self.served).await }
    }

    async fn converted(&self, object: Object, from: &Served, to: &Served) -> Result<Object, Status> {
        match &self.attributes.versions {
            Some(versions) => versions.convert(object, &from.resource, &to.resource).await,
            None => Err(Status::internal(format!("unable to convert to {}", to.resource.api_version()))),
        }
    }

    /// A patched object as it is taken over; none where it means the same as before.
    pub(crate) fn accepted(&self, before: &Object, after: Object, wanted: &Served) -> Result<Option<Object>, Status> {
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

/// Whether two objects mean the same.
pub(crate) fn same(a: &Object, b: &Object) -> bool {
    a.0.len() == b.0.len() && a.0.keys().all(|key| api::semantic::deep_equal_at(a, b, &[key.as_str()]))
}
