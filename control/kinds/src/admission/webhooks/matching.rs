//! Whether a webhook is for a request: its rules, its selectors, and the versions in which the same objects are served.

use super::{
    hook::Hook,
    rule::{Request, Rule, Served},
};
use api::{GroupVersionResource, Object, Status, selector::Selector};

impl Hook {
    /// Whether the webhook is to be called for a request, and with which version of the object; match conditions are asked after that.
    /// `others` are the other versions in which the objects are served, in the order of discovery.
    ///
    /// # Errors
    /// The request is for the webhook by its rules, and a selector cannot be asked.
    pub fn invocation(&self, request: &Request<'_>, others: &[Served]) -> Result<Option<Served>, Status> {
        let in_namespace = self.selects_namespace(request);
        if matches!(in_namespace, Ok(false)) {
            return Ok(None);
        }
        let object = self.selects_object(request);
        if matches!(object, Ok(false)) {
            return Ok(None);
        }
        let Some(served) = self.version(request, others) else { return Ok(None) };
        in_namespace.and(object)?;
        Ok(Some(served.clone()))
    }

    fn version<'a>(&self, request: &Request<'a>, others: &'a [Served]) -> Option<&'a Served> {
        let own = &request.served.resource;
        if self.rules.iter().any(|rule| rule.matches(request, own)) {
            return Some(request.served);
        }
        let others = if self.any_version { others } else { &[] };
        let fits =
            |rule: &Rule| others.iter().find(|other| other.resource != *own && rule.matches(request, &other.resource));
        self.rules.iter().find_map(fits)
    }

    /// Objects of the cluster are in no namespace, which no selector excludes.
    fn selects_namespace(&self, request: &Request<'_>) -> Result<bool, Status> {
        let of_namespaces = request.served.resource.resource == "namespaces";
        if request.namespace.is_empty() && !of_namespaces {
            return Ok(true);
        }
        let selector = self.namespaces.as_ref().map_err(Status::internal)?;
        if selector.is_empty() {
            return Ok(true);
        }
        // What is being written counts, not what is stored.
        let written =
            of_namespaces && request.subresource.is_empty() && matches!(request.operation, "CREATE" | "UPDATE");
        let namespace = if written { request.object } else { request.stored_namespace };
        let missing = || {
            let namespaces = GroupVersionResource::new("", "v1", "namespaces");
            Status::not_found(&namespaces, request.namespace)
        };
        Ok(selects(selector, namespace.ok_or_else(missing)?))
    }

    fn selects_object(&self, request: &Request<'_>) -> Result<bool, Status> {
        let selector = self.objects.as_ref().map_err(Status::internal)?;
        let mut both = [request.object, request.old].into_iter().flatten();
        Ok(selector.is_empty() || both.any(|object| selects(selector, object)))
    }
}

fn selects(selector: &Selector, object: &Object) -> bool {
    selector.matches(|key| object.label(key))
}
