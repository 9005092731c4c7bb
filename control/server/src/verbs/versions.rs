//! The versions of what is served, for admission: [`Versions`] implemented with the registry.

use crate::{Resource, Server, admission::Versions, codec, metadata, registry::Registry, typemeta};
use api::{FieldPath, GroupVersionKind, GroupVersionResource, Object, Status, apply, schema::Schema};
use std::sync::Arc;

fn find(registry: &Registry, gvr: &GroupVersionResource) -> Result<Arc<Resource>, Status> {
    registry.get(&gvr.group, &gvr.version, &gvr.resource).cloned().ok_or_else(Status::resource_not_found)
}

/// The schema of a kind that the resource, or a subresource of it, has as its body.
fn schema(resource: &Resource, kind: &GroupVersionKind) -> Schema {
    if *kind == resource.gvk() { resource.schema() } else { Schema::for_kind(kind).unwrap_or_else(Schema::any) }
}

#[async_trait::async_trait]
impl Versions for Server {
    fn others(
        &self,
        resource: &GroupVersionResource,
        subresource: &str,
    ) -> Vec<(GroupVersionResource, GroupVersionKind)> {
        let registry = self.registry();
        let Ok(own) = find(&registry, resource) else { return Vec::new() };
        let same = registry.called(&resource.resource).iter().filter(|other| {
            other.storage == own.storage && other.gvr != own.gvr && other.action.is_none() && own.action.is_none()
        });
        let kind = |other: &Resource| match subresource {
            "" => Some(other.gvk()),
            name => other.subresource(name).map(|part| part.kind.clone()),
        };
        same.filter_map(|other| Some((other.gvr.clone(), kind(other)?))).collect()
    }

    fn serving(&self, kind: &GroupVersionKind) -> Option<(GroupVersionResource, bool)> {
        let registry = self.registry();
        let mut of = registry.group_version(&kind.group, &kind.version);
        of.find(|one| one.kind == kind.kind && one.action.is_none()).map(|one| (one.gvr.clone(), one.namespaced))
    }

    async fn convert(
        &self,
        object: Object,
        from: &GroupVersionResource,
        to: &GroupVersionResource,
    ) -> Result<Object, Status> {
        let registry = self.registry();
        let (from, to) = (find(&registry, from)?, find(&registry, to)?);
        drop(registry);
        let mut stored = match &from.convertor {
            Some(convertor) => convertor.to_storage(object).await?,
            None => object,
        };
        stored.set(&["apiVersion"], from.storage_version.clone());
        let mut served = match &to.convertor {
            Some(convertor) => convertor.from_storage(vec![stored]).await?.pop(),
            None => Some(stored),
        }
        .ok_or_else(|| Status::internal("nothing was converted"))?;
        served.set(&["apiVersion"], to.gvr.api_version());
        served.set(&["kind"], to.kind.clone());
        Ok(served)
    }

    fn accept(
        &self,
        before: &Object,
        after: Object,
        resource: &GroupVersionResource,
        kind: &GroupVersionKind,
    ) -> Result<(Object, Option<String>), Status> {
        let resource = find(&self.registry(), resource)?;
        let given = after.gvk();
        if given != *kind {
            return Err(Status::internal(typemeta::no_conversion(&given, kind)));
        }
        let own = *kind == resource.gvk();
        let schema = schema(&resource, kind);
        let mut value = after.into_value();
        if let Some(cause) = codec::too_long(&value, &FieldPath::default()).filter(|_| !resource.long_lists) {
            return Err(api::invalid(kind, before.name(), &[cause]));
        }
        // What a kind does not know is dropped, as upstream's decoder does here.
        schema.decode_check(&mut value).map_err(Status::internal)?;
        schema.leave_out_empty(&mut value);
        schema.default(&mut value);
        let mut object = Object::from_value(value).ok_or_else(|| Status::internal("it is no object"))?;
        if own {
            resource.strategy.default(&mut object);
        }
        let path = ["metadata", "managedFields"];
        let problem = if object.at(&path) == before.at(&path) { None } else { apply::check_ownership(&object).err() };
        let warning = problem.map(|why| {
            metadata::copy(&mut object, before, &path);
            format!(
                ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: {why}"
            )
        });
        Ok((object, warning))
    }

    fn merge(
        &self,
        before: &Object,
        configuration: &Object,
        resource: &GroupVersionResource,
        kind: &GroupVersionKind,
    ) -> Result<Object, String> {
        let resource = find(&self.registry(), resource).map_err(|status| status.message)?;
        apply::merge_unowned(before, configuration, &schema(&resource, kind))
    }
}
