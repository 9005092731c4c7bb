//! PodResizeValidator: a pod asks for no more than its node has to give. NodeDeclaredFeatureValidator: what not every node can resize is
//! resized on nodes that say they can (`status.declaredFeatures`, KEP-5328).

use crate::edit;
use api::{
    Object, Status,
    quota::{self, Usage},
};
use serde_json::Value;
use server::admission::{Admission, Attributes, forbidden};
use std::sync::Arc;

pub(super) struct PodResizeValidator;

pub(super) struct NodeDeclaredFeatureValidator;

/// Whether the request changes what a bound pod asks for.
fn resizes(attributes: &Attributes, object: &Object, old: &Object) -> bool {
    attributes.updates("", "pods", "resize") && object.generation() != old.generation() && !node_name(object).is_empty()
}

fn node_name(pod: &Object) -> &str {
    pod.str_at(&["spec", "nodeName"]).unwrap_or_default()
}

fn node(attributes: &Attributes, pod: &Object) -> Result<Arc<Object>, Status> {
    let name = node_name(pod);
    let found = attributes.context.objects.get("", "nodes", "", name);
    found.ok_or_else(|| forbidden(attributes, pod, &format!("node {name:?} not found")))
}

#[async_trait::async_trait]
impl Admission for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.updates("", "pods", "resize")
    }

    async fn validate(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        let Some(old) = attributes.old.as_ref().filter(|old| resizes(attributes, object, old)) else { return Ok(()) };
        let node = node(attributes, old)?;
        let refuse = |why: &str, reason: &str| Err(forbidden(attributes, object, why).with_cause(reason, "", ""));
        if let Some(os) = node.label("kubernetes.io/os").filter(|os| *os != "linux") {
            let why = format!("pod resize is only supported on linux nodes, node {:?} is {os:?}", node.name());
            return refuse(&why, "UnsupportedPlatform");
        }
        match beyond(object, &node) {
            Some(why) => refuse(&why, "NodeCapacity"),
            None => Ok(()),
        }
    }
}

/// What of the requests exceeds all that the node has to give.
fn beyond(pod: &Object, node: &Object) -> Option<String> {
    let null = Value::Null;
    let at = |object: &Object, path: &[&str]| quota::amounts(object.at(path).unwrap_or(&null));
    let mut requests = quota::total(pod.at(&["spec"]).unwrap_or(&null), "requests");
    quota::add(&mut requests, &at(pod, &["spec", "overhead"]));
    let allocatable = at(node, &["status", "allocatable"]);
    let of = |usage: &Usage, name: &str| usage.get(name).copied().unwrap_or_default();
    let mut texts = Vec::new();
    for name in ["cpu", "memory"] {
        let (wanted, most) = (of(&requests, name), of(&allocatable, name));
        if wanted > most {
            let number =
                |amount: api::quantity::Quantity| if name == "cpu" { amount.milli_value() } else { amount.value() };
            texts.push(format!("{name}, requested: {}, allocatable: {}", number(wanted), number(most)));
        }
    }
    let all = texts.join("; ");
    (!all.is_empty()).then(|| format!("node didn't have enough allocatable resources: {all}"))
}

#[async_trait::async_trait]
impl Admission for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.updates("", "pods", "resize")
    }

    async fn validate(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        let Some(old) = attributes.old.as_ref().filter(|old| resizes(attributes, object, old)) else { return Ok(()) };
        let wanted = features(object, old);
        if wanted.is_empty() {
            return Ok(());
        }
        let node = node(attributes, old)?;
        let declared = node.list_at(&["status", "declaredFeatures"]);
        let lacking: Vec<&str> =
            wanted.into_iter().filter(|name| !declared.iter().any(|has| has.as_str() == Some(name))).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let (names, node) = (lacking.join(", "), node.name());
        let why = format!("pod update requires features {names} which are not available on node {node:?}");
        Err(forbidden(attributes, object, &why))
    }
}

/// The features that a node needs for a resize.
fn features(object: &Object, old: &Object) -> Vec<&'static str> {
    let mut all = Vec::new();
    if !edit::deep_equal_at(object, old, &["spec", "resources"]) {
        all.push("InPlacePodLevelResourcesVerticalScaling");
    }
    let of = |object| Object::list_at(object, &["spec", "initContainers"]).iter();
    let changed = |(new, old): (&Value, &Value)| {
        new["restartPolicy"] != "Always" && !edit::deep_equal(&new["resources"], &old["resources"])
    };
    if of(object).zip(of(old)).any(changed) {
        all.push("InPlacePodVerticalScalingInitContainers");
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stored, context_for, parse};
    use server::{Operation, Resource, strategy::Plain};

    const NODE: &str =
        "{metadata: {name: n1, labels: {kubernetes.io/os: linux}}, status: {allocatable: {cpu: '2', memory: 1Gi}}}";

    fn pod(resources: &str, init: &str) -> Object {
        parse(&format!(
            "{{metadata: {{name: p, namespace: default, generation: 1}}, spec: {{nodeName: n1, containers: [{{name: a, resources: {{requests: {resources}}}}}], \
             initContainers: [{{name: i, resources: {{requests: {init}}}}}]}}}}"
        ))
    }

    async fn told(node: &str, new: &Object, old: &Object, subresource: &str) -> String {
        let mut context =
            context_for(Resource::new("", "v1", "pods", "Pod", Plain), Stored::default().with("", "nodes", node));
        (context.operation, context.subresource) = (Operation::Update, subresource.to_owned());
        let attributes = Attributes::new(context, Some(Arc::new(old.clone())));
        for plugin in [&NodeDeclaredFeatureValidator as &dyn Admission, &PodResizeValidator] {
            if !plugin.handles(&attributes) {
                continue;
            }
            if let Err(status) = plugin.validate(&attributes, new).await {
                let cause =
                    status.details.iter().flat_map(|details| &details.causes).map(|cause| cause.reason.as_str());
                return format!("{}{}", status.message, cause.map(|reason| format!(" ({reason})")).collect::<String>());
            }
        }
        String::new()
    }

    #[tokio::test]
    async fn a_pod_asks_for_no_more_than_its_node_has() {
        let old = pod("{cpu: '1'}", "{cpu: 100m}");
        let forbidden = "pods \"p\" is forbidden: ";
        let windows = NODE.replace("linux", "windows");
        let declares =
            NODE.replace("status: {", "status: {declaredFeatures: [InPlacePodVerticalScalingInitContainers], ");
        let lacking = "pod update requires features InPlacePodVerticalScalingInitContainers which are not available on node \"n1\"";
        for (what, node, resources, init, expected) in [
            ("all of it", NODE, "{cpu: '2', memory: 1Gi}", "{cpu: 100m}", ""),
            (
                "more",
                NODE,
                "{cpu: 2001m, memory: 2Gi}",
                "{cpu: 100m}",
                "node didn't have enough allocatable resources: cpu, requested: 2001, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824 (NodeCapacity)",
            ),
            (
                "another system",
                windows.as_str(),
                "{cpu: '2'}",
                "{cpu: 100m}",
                "pod resize is only supported on linux nodes, node \"n1\" is \"windows\" (UnsupportedPlatform)",
            ),
            ("another node", "{metadata: {name: m}}", "{cpu: '2'}", "{cpu: 100m}", "node \"n1\" not found"),
            ("an init container", NODE, "{cpu: '1'}", "{cpu: 200m}", lacking),
            ("one on a node that can", declares.as_str(), "{cpu: '1'}", "{cpu: 200m}", ""),
        ] {
            let mut new = pod(resources, init);
            new.set(&["metadata", "generation"], 2);
            let expected = if expected.is_empty() { String::new() } else { format!("{forbidden}{expected}") };
            assert_eq!(told(node, &new, &old, "resize").await, expected, "{what}");
            assert_eq!(told(node, &new, &old, "").await, "", "only a resize is judged");
            new.set(&["metadata", "generation"], 1);
            assert_eq!(told(node, &new, &old, "resize").await, "", "nothing changes");
        }
        let mut whole = pod("{cpu: '1'}", "{cpu: 100m}");
        whole.set(&["spec", "resources"], serde_json::json!({"requests": {"cpu": "2"}}));
        whole.set(&["metadata", "generation"], 2);
        let text =
            lacking.replace("InPlacePodVerticalScalingInitContainers", "InPlacePodLevelResourcesVerticalScaling");
        assert_eq!(told(NODE, &whole, &old, "resize").await, format!("{forbidden}{text}"));
    }
}
