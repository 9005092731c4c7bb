//! Warnings about images: a pod whose image this cluster cannot run would be accepted and then wait. The composition root passes the check (over
//! the node's content store); without it there are no warnings.

use api::Object;
use serde_json::Value;
use server::{
    User,
    admission::{Admission, Attributes, Operation},
};
use std::{collections::BTreeMap, sync::Arc};

/// Returns a warning about an image on the nodes of this cluster, if a problem is known. It must be quick and must not wait for a network.
pub type ImageAdvice = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The paths of pod specs: in a Pod, in workloads, in a PodTemplate.
const SPECS: [&[&str]; 3] = [&["spec"], &["spec", "template", "spec"], &["template", "spec"]];

/// Warns about images.
pub(crate) struct Images(pub(crate) ImageAdvice);

#[async_trait::async_trait]
impl Admission for Images {
    fn name(&self) -> &'static str {
        "ImageAdvice"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        let context = &attributes.context;
        context.subresource.is_empty() && matches!(context.operation, Operation::Create | Operation::Update)
    }

    fn warnings(&self, attributes: &Attributes, object: &Object) -> Vec<String> {
        warnings(&self.0, &attributes.context.user, object)
    }
}

/// The warnings about the images of an object, each image once. Controllers get none, because their users have got them.
fn warnings(advice: &ImageAdvice, user: &User, object: &Object) -> Vec<String> {
    if user.name.starts_with("system:kube-") {
        return Vec::new();
    }
    let mut said = BTreeMap::new();
    for spec in SPECS {
        for list in ["initContainers", "containers"] {
            let path: Vec<&str> = spec.iter().copied().chain([list]).collect();
            for (index, container) in object.list_at(&path).iter().enumerate() {
                let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
                if !image.is_empty() && !said.contains_key(image) {
                    let text = advice(image).map(|text| format!("{}[{index}].image: {text}", path.join(".")));
                    said.insert(image, text);
                }
            }
        }
    }
    said.into_values().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_image_is_warned_of_once_and_controllers_are_not() {
        let advice: ImageAdvice = Arc::new(|image| image.starts_with("linux").then(|| format!("{image} waits")));
        let containers = json!([{"image": "wasm:1"}, {"image": "linux:1"}, {"image": "linux:1"}]);
        let object = json!({"kind": "Deployment", "spec": {"template": {"spec": {"containers": containers}}}});
        let object = Object::from_value(object).expect("an object");
        let admin = User::new("admin", &[]);
        let expected = ["spec.template.spec.containers[1].image: linux:1 waits"];
        assert_eq!(warnings(&advice, &admin, &object), expected);
        assert!(warnings(&advice, &User::new("system:kube-controller-manager", &[]), &object).is_empty());
    }
}
