//! The parameters of a policy, by the reference of a binding.

use super::binding::Reference;
use crate::admission::matching::About;
use api::{GroupVersionKind, GroupVersionResource, Object};
use std::sync::Arc;

/// Where the parameters of a policy are served, and whether they are in namespaces.
pub(super) type Served = (GroupVersionResource, bool);

/// Where a kind of parameters is served.
///
/// # Errors
/// Nowhere.
pub(super) fn served(about: &About<'_>, kind: &GroupVersionKind) -> Result<Served, String> {
    let versions = about.attributes.versions.as_ref();
    versions.and_then(|versions| versions.serving(kind)).ok_or_else(|| {
        let GroupVersionKind { group, version, kind } = kind;
        format!("failed to find resource referenced by paramKind: '{group}/{version}, Kind={kind}'")
    })
}

/// The parameters, for each of which the policy is evaluated once. A policy or binding without parameters is evaluated once, with null.
///
/// # Errors
/// The binding does not fit the kind of the parameters, or refuses requests as there are none.
pub(super) async fn collect(
    about: &About<'_>,
    served: Option<&Served>,
    reference: Option<&Reference>,
) -> Result<Vec<Option<Arc<Object>>>, String> {
    let (Some((resource, namespaced)), Some(reference)) = (served, reference) else { return Ok(vec![None]) };
    let namespace = match (namespaced, reference.namespace.as_str(), about.namespace()) {
        (true, "", "") => {
            return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into());
        }
        (true, "", namespace) | (true, namespace, _) => namespace,
        (false, "", _) => "",
        (false, _, _) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()),
    };
    let objects = &about.attributes.context.objects;
    let found = match &reference.selector {
        _ if !reference.name.is_empty() => {
            let found = objects.get(&resource.group, &resource.resource, namespace, &reference.name);
            found.into_iter().collect()
        }
        Some(selector) => {
            let selector = selector.as_ref().map_err(Clone::clone)?;
            let mut all = objects.list(&resource.group, &resource.resource, namespace);
            all.retain(|object| selector.matches(|key| object.label(key)));
            all
        }
        None => return Err("one of name or selector must be provided".into()),
    };
    if found.is_empty() && reference.denies_missing {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    let mut params = Vec::with_capacity(found.len());
    for object in found {
        params.push(Some(in_version(about, object, resource).await?));
    }
    Ok(params)
}

/// A parameter in the version that the policy names.
async fn in_version(
    about: &About<'_>,
    object: Arc<Object>,
    resource: &GroupVersionResource,
) -> Result<Arc<Object>, String> {
    let stored = object.gvk();
    if (&stored.group, &stored.version) == (&resource.group, &resource.version) {
        return Ok(object);
    }
    let from = GroupVersionResource::new(&stored.group, &stored.version, &resource.resource);
    let Some(versions) = &about.attributes.versions else { return Ok(object) };
    let converted = versions.convert(object.as_ref().clone(), &from, resource).await;
    converted.map(Arc::new).map_err(|status| status.message)
}
