//! An admission plugin: every new pod asks the registry for its images at each start. Upstream's `AlwaysPullImages`.

use api::{Object, Status};
use serde_json::Value;
use server::admission::{Admission, Attributes};

/// The plugin.
pub struct AlwaysPullImages;

#[async_trait::async_trait]
impl Admission for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.creates("", "pods")
    }

    async fn admit(&self, _attributes: &Attributes, pod: &mut Object) -> Result<(), Status> {
        for list in ["initContainers", "containers"] {
            if let Value::Array(containers) = pod.entry(&["spec", list]) {
                containers.iter_mut().for_each(|container| container["imagePullPolicy"] = "Always".into());
            }
        }
        Ok(())
    }
}
