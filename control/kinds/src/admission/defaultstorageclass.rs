//! DefaultStorageClass: a new claim without a class gets the default one; of several, the newest.

use crate::{claims, storage::storageclass::is_default};
use api::{Object, Status};
use server::{
    Derived,
    admission::{Admission, Attributes},
};
use std::sync::Arc;

pub(super) struct DefaultStorageClass {
    /// The name of the default class.
    default: Derived<Option<String>>,
}

impl Default for DefaultStorageClass {
    fn default() -> Self {
        Self { default: Derived::new("storage.k8s.io", "storageclasses", |classes| newest(&classes, is_default)) }
    }
}

/// The name of the newest of the default classes.
pub(super) fn newest(classes: &[Arc<Object>], is_default: fn(&Object) -> bool) -> Option<String> {
    // They come by name: the first of those made in the same second is taken.
    let made = |class: &Object| class.str_at(&["metadata", "creationTimestamp"]).unwrap_or_default().to_owned();
    let newest = classes.iter().filter(|class| is_default(class)).rev().max_by_key(|class| made(class));
    newest.map(|class| class.name().to_owned())
}

#[async_trait::async_trait]
impl Admission for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.creates("", "persistentvolumeclaims")
    }

    async fn admit(&self, attributes: &Attributes, object: &mut Object) -> Result<(), Status> {
        let named = object.annotation(claims::CLASS_ANNOTATION).is_some()
            || object.str_at(&["spec", "storageClassName"]).is_some();
        if !named && let Some(class) = &*self.default.read(attributes.context.objects.as_ref()) {
            object.set(&["spec", "storageClassName"], class.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::parse;

    #[test]
    fn the_newest_default_is_taken() {
        let class = |name: &str, default: bool, made: &str| {
            Arc::new(parse(&format!(
                "{{metadata: {{name: {name}, creationTimestamp: '{made}', annotations: {{storageclass.kubernetes.io/is-default-class: '{default}'}}}}}}"
            )))
        };
        assert_eq!(newest(&[class("a", false, "2026-01-02T00:00:00Z")], is_default), None);
        let all = [
            class("a", true, "2026-01-01T00:00:00Z"),
            class("b", true, "2026-01-02T00:00:00Z"),
            class("c", true, "2026-01-02T00:00:00Z"),
            class("d", false, "2026-01-03T00:00:00Z"),
        ];
        assert_eq!(newest(&all, is_default).as_deref(), Some("b"));
    }
}
