//! Whether a webhook or policy is for a request: its rules, its selectors, and the versions in which the same objects are served.

use super::rule::{Request, Rule, Served};
use crate::at::At;
use api::{GroupVersionResource, Object, Status, selector::Selector};

/// A rule, and the names of the only objects that it is for; none for all.
type Named = (Rule, Vec<String>);

/// What says for which requests something is.
#[derive(Clone, Debug)]
pub(crate) struct Criteria {
    rules: Vec<Named>,
    excluded: Vec<Named>,
    /// Without a rule it is for all requests.
    all_without_rules: bool,
    any_version: bool,
    namespaces: Result<Selector, String>,
    objects: Result<Selector, String>,
}

impl Criteria {
    /// Those of a webhook.
    pub(crate) fn of_webhook(webhook: At<'_>) -> Self {
        Self {
            rules: webhook.get("rules").items().map(|rule| (Rule::of(rule), Vec::new())).collect(),
            excluded: Vec::new(),
            all_without_rules: false,
            any_version: webhook.get("matchPolicy").str() == "Equivalent",
            namespaces: Selector::from_label_selector(webhook.get("namespaceSelector").value()),
            objects: Selector::from_label_selector(webhook.get("objectSelector").value()),
        }
    }

    /// Those of a policy or binding, from its `MatchResources`.
    pub(crate) fn of(resources: At<'_>) -> Self {
        let named = |rule: At<'_>| {
            let names = rule.get("resourceNames").items().map(|name| name.str().to_owned());
            (Rule::of(rule), names.collect())
        };
        Self {
            rules: resources.get("resourceRules").items().map(named).collect(),
            excluded: resources.get("excludeResourceRules").items().map(named).collect(),
            all_without_rules: true,
            ..Self::of_webhook(resources)
        }
    }

    /// Whether a request is meant, and in which version the objects are looked at; match conditions are asked after that. `others` are the other
    /// versions in which the objects are served, in the order of discovery.
    ///
    /// # Errors
    /// The request is meant by the rules, and a selector cannot be asked.
    pub(crate) fn matched<'a>(
        &self,
        request: &Request<'a>,
        others: &'a [Served],
    ) -> Result<Option<&'a Served>, Status> {
        let in_namespace = self.selects_namespace(request);
        if matches!(in_namespace, Ok(false)) {
            return Ok(None);
        }
        let object = self.selects_object(request);
        if matches!(object, Ok(false)) || self.version(&self.excluded, request, others).is_some() {
            return Ok(None);
        }
        let all = self.all_without_rules && self.rules.is_empty();
        let served = if all { Some(request.served) } else { self.version(&self.rules, request, others) };
        if served.is_some() {
            in_namespace.and(object)?;
        }
        Ok(served)
    }

    fn version<'a>(&self, rules: &[Named], request: &Request<'a>, others: &'a [Served]) -> Option<&'a Served> {
        let own = &request.served.resource;
        let fits = |(rule, names): &Named, resource: &GroupVersionResource| {
            rule.matches(request, resource) && (names.is_empty() || names.iter().any(|name| name == request.name))
        };
        if rules.iter().any(|rule| fits(rule, own)) {
            return Some(request.served);
        }
        let others = if self.any_version { others } else { &[] };
        let other = |rule: &Named| others.iter().find(|other| other.resource != *own && fits(rule, &other.resource));
        rules.iter().find_map(other)
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
