//! DefaultIngressClass: a new Ingress without a class gets the default one; of several, the newest.

use super::defaultstorageclass::newest;
use crate::networking::{ingress::CLASS_ANNOTATION, ingressclass::is_default};
use api::{Object, Status};
use server::{
    Derived,
    admission::{Admission, Attributes},
};

pub(super) struct DefaultIngressClass {
    /// The name of the default class.
    default: Derived<Option<String>>,
}

impl Default for DefaultIngressClass {
    fn default() -> Self {
        let default = Derived::new("networking.k8s.io", "ingressclasses", |classes| newest(&classes, is_default));
        Self { default }
    }
}

#[async_trait::async_trait]
impl Admission for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.creates("networking.k8s.io", "ingresses")
    }

    async fn admit(&self, attributes: &Attributes, object: &mut Object) -> Result<(), Status> {
        let named =
            object.annotation(CLASS_ANNOTATION).is_some() || object.str_at(&["spec", "ingressClassName"]).is_some();
        if !named && let Some(class) = &*self.default.read(attributes.context.objects.as_ref()) {
            object.set(&["spec", "ingressClassName"], class.clone());
        }
        Ok(())
    }
}
