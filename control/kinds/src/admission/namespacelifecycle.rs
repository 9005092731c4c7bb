//! NamespaceLifecycle: refuses writes in a namespace that does not exist, creates in one that is terminating, and deletion of the
//! namespaces that the cluster needs.

use api::{GroupVersionResource, Object, Status, names};
use server::admission::{Admission, Attributes, Operation, forbidden};

/// Namespaces that may not be deleted.
const IMMORTAL_NAMESPACES: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle;

#[async_trait::async_trait]
impl Admission for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        let gvr = &attributes.context.resource.gvr;
        let namespace = gvr.group.is_empty() && gvr.resource == "namespaces";
        match attributes.context.operation {
            Operation::Connect => false,
            Operation::Delete => namespace,
            Operation::Create | Operation::Update => {
                !namespace && attributes.context.resource.namespaced && gvr.group != "authorization.k8s.io"
            }
        }
    }

    async fn admit(&self, attributes: &Attributes, object: &mut Object) -> Result<(), Status> {
        let context = &attributes.context;
        if context.operation == Operation::Delete {
            return Ok(());
        }
        let name = context.namespace.as_str();
        let Some(namespace) = context.objects.get("", "namespaces", "", name) else {
            // Upstream reads the namespace through its client, which refuses invalid names.
            let problems = names::path_segment(name);
            return Err(match problems.as_slice() {
                [] => Status::not_found(&GroupVersionResource::new("", "v1", "namespaces"), name),
                _ => Status::internal(format!("invalid resource name {name:?}: [{}]", problems.join(" "))),
            });
        };
        if context.operation == Operation::Create && namespace.str_at(&["status", "phase"]) == Some("Terminating") {
            let why = format!("unable to create new content in namespace {name} because it is being terminated");
            let message = format!("namespace {name} is being terminated");
            return Err(forbidden(attributes, object, &why).with_cause(
                "NamespaceTerminating",
                &message,
                "metadata.namespace",
            ));
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        let immortal =
            attributes.context.operation == Operation::Delete && IMMORTAL_NAMESPACES.contains(&object.name());
        if immortal { Err(forbidden(attributes, object, "this namespace may not be deleted")) } else { Ok(()) }
    }
}
