//! Warnings about images: a pod whose image this cluster cannot run would be accepted and then wait, and what is only for Linux would have no
//! effect. The composition root passes what knows images (the content store of the node in this process); without it there are no warnings.

use crate::{at::At, podspec::webassembly};
use api::Object;
use serde_json::Value;
use server::admission::{Admission, Attributes, Operation};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// What is known of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// It is known to be WebAssembly.
    pub is_wasm: bool,
    /// Why the nodes of this cluster cannot run it.
    pub problem: Option<String>,
}

/// Knows images.
#[async_trait::async_trait]
pub trait ImageAdvice: Send + Sync + 'static {
    /// What is known of an image. A write waits for it: an answer takes a moment, and needs no network.
    async fn about(&self, image: &str) -> ImageFacts;
}

/// Most images of an object that are asked about.
const MAX_IMAGES: usize = 16;
/// How long a write waits for advice. A warning that comes later is lost.
const TIMEOUT: Duration = Duration::from_millis(500);

/// The paths of pod specs: in a Pod, in workloads, in a PodTemplate.
const SPECS: [&[&str]; 3] = [&["spec"], &["spec", "template", "spec"], &["template", "spec"]];

/// Warns about images.
pub(crate) struct Images(pub(crate) Arc<dyn ImageAdvice>);

#[async_trait::async_trait]
impl Admission for Images {
    fn name(&self) -> &'static str {
        "ImageAdvice"
    }

    /// Controllers get no warnings, because their users have got them.
    fn handles(&self, attributes: &Attributes) -> bool {
        let context = &attributes.context;
        context.subresource.is_empty()
            && matches!(context.operation, Operation::Create | Operation::Update)
            && !context.user.name.starts_with("system:kube-")
    }

    async fn warnings(&self, attributes: &Attributes, object: &Object) -> Vec<String> {
        let old: BTreeSet<&str> =
            attributes.old.as_deref().into_iter().flat_map(images).map(|(_, image)| image).collect();
        let (mut warnings, mut wasm) = (Vec::new(), BTreeSet::new());
        let ask = async {
            for (field, image) in each_image(object) {
                let ImageFacts { is_wasm, problem } = self.0.about(image).await;
                if is_wasm {
                    wasm.insert(image);
                }
                let new = problem.filter(|_| !old.contains(image));
                warnings.extend(new.map(|problem| format!("{field}: {problem}")));
            }
        };
        if tokio::time::timeout(TIMEOUT, ask).await.is_err() {
            tracing::debug!("advice on images took too long");
        }
        for path in SPECS {
            let Some((first, rest)) = path.split_first() else { continue };
            let spec = At::of(object, first).down(rest);
            warnings.extend(webassembly::warnings(spec, |image| wasm.contains(image)));
        }
        warnings
    }
}

/// The first images of an object, each once, with their fields.
fn each_image(object: &Object) -> Vec<(String, &str)> {
    let mut seen = BTreeSet::new();
    let each = images(object).filter(|(_, image)| seen.insert(*image));
    each.take(MAX_IMAGES).map(|((path, index), image)| (format!("{}[{index}].image", path.join(".")), image)).collect()
}

/// The images of an object, each with the path of its list and its place in it.
fn images(object: &Object) -> impl Iterator<Item = ((Vec<&'static str>, usize), &str)> {
    let lists = SPECS.iter().flat_map(|spec| {
        ["initContainers", "containers"].map(|list| spec.iter().copied().chain([list]).collect::<Vec<_>>())
    });
    lists.flat_map(|path| {
        let containers = object.list_at(&path).iter().enumerate();
        containers.filter_map(move |(index, container)| {
            let image = container.get("image").and_then(Value::as_str).filter(|image| !image.is_empty())?;
            Some(((path.clone(), index), image))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use serde_json::json;
    use server::{User, strategy::Plain};

    /// Linux images are known; about slow ones nothing is known for a long time.
    struct Fake;

    #[async_trait::async_trait]
    impl ImageAdvice for Fake {
        async fn about(&self, image: &str) -> ImageFacts {
            if image.starts_with("slow") {
                tokio::time::sleep(Duration::from_secs(3600)).await;
            }
            let problem = image.starts_with("linux").then(|| format!("{image} waits"));
            ImageFacts { is_wasm: problem.is_none(), problem }
        }
    }

    fn deployment(containers: Value) -> Object {
        let object = json!({"kind": "Deployment", "spec": {"template": {"spec": {"containers": containers}}}});
        Object::from_value(object).expect("an object")
    }

    async fn warnings(object: &Object, old: Option<&Object>) -> Vec<String> {
        let attributes = Attributes::new(testing::context(), old.cloned().map(Arc::new));
        Images(Arc::new(Fake)).warnings(&attributes, object).await
    }

    #[tokio::test(start_paused = true)]
    async fn each_new_image_is_warned_of_once() {
        let object = deployment(json!([{"image": "wasm:1"}, {"image": "linux:1"}, {"image": "linux:1"}]));
        let expected = ["spec.template.spec.containers[1].image: linux:1 waits"];
        assert_eq!(warnings(&object, None).await, expected);
        assert_eq!(warnings(&object, Some(&deployment(json!([{"image": "linux:0"}])))).await, expected);
        assert_eq!(warnings(&object, Some(&object)).await, [""; 0], "nothing new");
        let shell = deployment(json!([{"image": "wasm:1", "command": ["sh"]}]));
        let no_shell = "spec.template.spec.containers[0].command: there is no shell in a WebAssembly container; command is its argv";
        assert_eq!(warnings(&shell, None).await, [no_shell]);
        assert_eq!(warnings(&shell, Some(&shell)).await, [no_shell], "as other warnings of fields, at each write");
        let many: Vec<Value> = (0..2000).map(|i| json!({"image": format!("linux:{i}")})).collect();
        assert_eq!(warnings(&deployment(many.into()), None).await.len(), MAX_IMAGES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_does_not_wait_long_for_advice() {
        let begin = tokio::time::Instant::now();
        let object = deployment(json!([{"image": "linux:1"}, {"image": "slow:1"}, {"image": "linux:2"}]));
        let told = warnings(&object, None).await;
        assert_eq!(told, ["spec.template.spec.containers[0].image: linux:1 waits"], "what was there in time");
        assert_eq!(begin.elapsed(), TIMEOUT);
    }

    #[test]
    fn users_are_warned_and_controllers_are_not() {
        let handles = |user: &str| {
            let resource = server::Resource::new("apps", "v1", "deployments", "Deployment", Plain);
            let mut context = testing::context_for(resource, testing::Stored::default());
            context.user = Arc::new(User::new(user, &[]));
            Images(Arc::new(Fake)).handles(&Attributes::new(context, None))
        };
        assert!(handles("admin"));
        assert!(!handles("system:kube-controller-manager"));
    }
}
