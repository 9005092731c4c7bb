//! Prefers nodes that have the images of a pod.
//!
//! The score is upstream's: sizes of images, scaled by the share of nodes that have them, so that one node that has an image is not flooded. What
//! is smaller than 23 MiB counts nothing there, because it is quickly fetched. A node that has a Wasm image has it compiled, which takes longer
//! than to fetch it, and Wasm images are small: so a node that has an image gets one point at least, which decides between nodes that are
//! otherwise equal.

use crate::{
    cycle_state::CycleState,
    node::NodeInfo,
    plugin::{Event, MAX_SCORE, Plugin, PreScore},
    pod::PodInfo,
    snapshot::Snapshot,
};

const LEAST: i64 = 23 << 20;
const MOST: i64 = 1000 << 20;

/// Looks at `status.images` of nodes.
pub struct ImageLocality;

/// The state of score.
struct Wanted {
    /// The images of the pod that a node has, with the share of nodes.
    images: Vec<(String, f64)>,
    /// How many containers the pod has.
    containers: i64,
}

/// With the tag that is meant where there is none.
fn normalized(name: &str) -> String {
    if name.rfind(':') <= name.rfind('/') { format!("{name}:latest") } else { name.to_owned() }
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn weight(&self) -> i64 {
        1
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of nodes")]
    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, _: &[&NodeInfo], snapshot: &Snapshot) -> PreScore {
        let Some(spec) = pod.pod.spec.as_ref() else { return PreScore::Skip };
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        let of_volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref()?.reference.as_ref());
        let names = containers.clone().filter_map(|container| container.image.as_ref()).chain(of_volumes);
        let share = |name: &String| {
            let name = normalized(name);
            let nodes = snapshot.nodes_with_image(&name);
            (nodes > 0).then(|| (name, nodes as f64 / snapshot.count() as f64))
        };
        let images: Vec<_> = names.filter_map(share).collect();
        if images.is_empty() {
            return PreScore::Skip;
        }
        state.write(Wanted { images, containers: i64::try_from(containers.count()).unwrap_or(1).max(1) });
        PreScore::Score
    }

    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "as upstream rounds")]
    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(wanted) = state.read::<Wanted>() else { return 0 };
        let sizes = || wanted.images.iter().filter_map(|(name, share)| Some((*node.images.get(name)?, *share)));
        let sum: i64 = sizes().map(|(size, share)| (size as f64 * share) as i64).sum();
        let most = MOST * wanted.containers;
        let score = MAX_SCORE * (sum.clamp(LEAST, most) - LEAST) / (most - LEAST);
        score.max(i64::from(sizes().next().is_some()))
    }

    fn listens(&self, _: &Event<'_>) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, info, node, pod, scored};
    use serde_json::{Value, json};

    fn has(name: &str, images: &[(&str, i64)]) -> Value {
        let mut node = node(name, json!({}));
        let images: Vec<Value> =
            images.iter().map(|(name, mib)| json!({"names": [name], "sizeBytes": mib << 20})).collect();
        node["status"]["images"] = json!(images);
        node
    }

    fn wants(images: &[&str]) -> Value {
        let containers: Vec<Value> =
            images.iter().enumerate().map(|(n, image)| json!({"name": format!("c{n}"), "image": image})).collect();
        pod("p", json!({}), json!({"containers": containers}))
    }

    #[test]
    fn nodes_that_have_large_images_score_higher() {
        let nodes = [has("a", &[("big:1", 600), ("r:5000/app:latest", 400)]), has("b", &[("small:1", 2)])];
        let cache = cluster(&nodes, &[]);
        for (what, images, expected) in [
            // half of the nodes have it: 300 of 1,000 MiB
            ("one", &["big:1"][..], Some(vec![28, 0])),
            ("without a tag", &["r:5000/app"], Some(vec![18, 0])),
            ("two of two containers", &["big:1", "r:5000/app"], Some(vec![24, 0])),
            ("one that is small", &["small:1"], Some(vec![0, 1])),
            ("one that nobody has", &["none:1"], None),
        ] {
            assert_eq!(scored(&ImageLocality, &info(wants(images)), &cache.snapshot()), expected, "{what}");
        }
    }

    #[test]
    fn what_nodes_have_is_counted_as_they_report_it() {
        let mut cache = cluster(&[has("a", &[("x:1", 1)]), has("b", &[("x:1", 1)])], &[]);
        let count = |cache: &crate::cache::Cache| cache.snapshot().nodes_with_image("x:1");
        assert_eq!(count(&cache), 2);
        cache.set_node(crate::testing::object(has("a", &[("x:1", 1), ("y:1", 1)])));
        assert_eq!(count(&cache), 2);
        cache.set_node(crate::testing::object(has("a", &[("y:1", 1)])));
        assert_eq!(count(&cache), 1);
        cache.remove_node("b");
        assert_eq!(count(&cache), 0);
    }
}
