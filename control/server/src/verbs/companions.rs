//! The writes of other objects that happen with the write of an object or not at all: [`Companion`].

use crate::{Context, Resource, metadata, payload, registry::Registry, strategy::Companion};
use api::{Object, apply::UpdateOptions};
use store::{Expect, Write};

/// The manager of the fields of what is created, as upstream's API server writes it.
const MANAGER: &str = "kube-apiserver";

/// The writes. What cannot be one, because nobody serves it or because it has never been stored, is none.
pub(super) fn writes(registry: &Registry, cx: &Context, companions: Vec<Companion>) -> Vec<Write> {
    let one = |companion: Companion| {
        let (Companion::Create((group, plural), _) | Companion::Delete((group, plural), _)) = &companion;
        let resource = registry.find(group, plural);
        debug_assert!(resource.is_some_and(|found| found.is_storage()), "{group}/{plural} is a stored kind");
        let resource = resource?;
        Some(match companion {
            Companion::Create(_, object) => create(resource, cx, object),
            Companion::Delete(_, object) => {
                let key = resource.key(object.namespace(), object.name()).into();
                let expect = Expect::At(object.resource_version().parse().ok()?);
                Write { key, expect, value: None, ttl: None }
            }
        })
    };
    companions.into_iter().filter_map(one).collect()
}

fn create(resource: &Resource, cx: &Context, mut object: Object) -> Write {
    metadata::set_system_fields(&mut object, cx);
    let api_version = resource.gvr.api_version();
    let options =
        UpdateOptions { manager: MANAGER, subresource: "", api_version: &api_version, now: cx.now, ignored: None };
    api::apply::update(None, &mut object, &options, &resource.schema());
    let key = resource.key(object.namespace(), object.name()).into();
    Write { key, expect: Expect::Absent, value: Some(payload::stored_form(&object)), ttl: resource.ttl }
}
