//! LimitRanger: gives containers the resources that a LimitRange of their namespace has for those that name none, and refuses pods and
//! claims beyond its bounds.

use api::{
    Object, Status,
    quantity::Quantity,
    quota::{self, Usage},
};
use serde_json::{Map, Value};
use server::{
    Derived,
    admission::{Admission, Attributes, Operation, forbidden},
};
use std::{collections::HashMap, sync::Arc};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(super) struct LimitRanger {
    ranges: Derived<HashMap<String, Vec<Vec<Limit>>>>,
}

impl Default for LimitRanger {
    fn default() -> Self {
        Self { ranges: Derived::new("", "limitranges", by_namespace) }
    }
}

/// An item of a LimitRange.
struct Limit {
    kind: String,
    min: Usage,
    max: Usage,
    ratio: Usage,
    /// As they are written into containers.
    default: Map<String, Value>,
    request: Map<String, Value>,
}

impl Limit {
    fn of(item: &Value) -> Self {
        let map = |name: &str| item[name].as_object().cloned().unwrap_or_default();
        Self {
            kind: item["type"].as_str().unwrap_or_default().to_owned(),
            min: quota::amounts(&item["min"]),
            max: quota::amounts(&item["max"]),
            ratio: quota::amounts(&item["maxLimitRequestRatio"]),
            default: map("default"),
            request: map("defaultRequest"),
        }
    }
}

fn by_namespace(objects: Vec<Arc<Object>>) -> HashMap<String, Vec<Vec<Limit>>> {
    let mut ranges = HashMap::<String, Vec<Vec<Limit>>>::new();
    for object in objects {
        let limits = object.list_at(&["spec", "limits"]).iter().map(Limit::of).collect();
        ranges.entry(object.namespace().to_owned()).or_default().push(limits);
    }
    ranges
}

#[async_trait::async_trait]
impl Admission for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, attributes: &Attributes) -> bool {
        // By an update of a pod itself its resources cannot change.
        let update = attributes.context.operation == Operation::Update;
        let leaving = attributes.old.as_ref().is_some_and(|old| old.is_deleting());
        let claims = "persistentvolumeclaims";
        attributes.creates("", "pods")
            || attributes.creates("", claims)
            || update && !leaving && (attributes.is("", claims) || attributes.updates("", "pods", "resize"))
    }

    async fn admit(&self, attributes: &Attributes, object: &mut Object) -> Result<(), Status> {
        if is_pod(attributes) {
            let ranges = self.ranges.read(attributes.context.objects.as_ref());
            let told = object.at(&["metadata", "annotations"]).cloned();
            ranges.get(object.namespace()).into_iter().flatten().for_each(|range| fill(range, object));
            if attributes.updates("", "pods", "resize") {
                // A resize changes no metadata.
                match told {
                    Some(told) => object.set(&["metadata", "annotations"], told),
                    None => drop(object.remove(&["metadata", "annotations"])),
                }
            }
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes, object: &Object) -> Result<(), Status> {
        let ranges = self.ranges.read(attributes.context.objects.as_ref());
        let Some(ranges) = ranges.get(object.namespace()) else { return Ok(()) };
        let (spec, pod) = (object.at(&["spec"]).unwrap_or(&Value::Null), is_pod(attributes));
        for range in ranges {
            let faults = if pod { pod_faults(range, spec) } else { claim_faults(range, spec) };
            if let Some(why) = aggregate(faults) {
                return Err(forbidden(attributes, object, &why));
            }
        }
        Ok(())
    }
}

fn is_pod(attributes: &Attributes) -> bool {
    attributes.is("", "pods") || attributes.updates("", "pods", "resize")
}

/// Several errors as upstream prints them, each once.
fn aggregate(faults: Vec<String>) -> Option<String> {
    let mut all: Vec<String> = Vec::new();
    for fault in faults {
        if !all.contains(&fault) {
            all.push(fault);
        }
    }
    if all.len() < 2 { all.pop() } else { Some(format!("[{}]", all.join(", "))) }
}

/// Gives the containers of a pod what they lack, and says so in an annotation.
fn fill(range: &[Limit], pod: &mut Object) {
    let (mut limits, mut requests) = (Map::new(), Map::new());
    for limit in range.iter().filter(|limit| limit.kind == "Container") {
        requests.extend(limit.request.clone());
        limits.extend(limit.default.clone());
    }
    let mut told = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        if pod.list_at(&["spec", list]).is_empty() {
            continue;
        }
        let Value::Array(containers) = pod.entry(&["spec", list]) else { continue };
        for container in containers {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (field, defaults, word) in [("requests", &requests, "request"), ("limits", &limits, "limit")] {
                let set = fill_list(container, field, defaults);
                if !set.is_empty() {
                    told.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        pod.set(&["metadata", "annotations", ANNOTATION], format!("LimitRanger plugin set: {}", told.join("; ")));
    }
}

/// Sets the amounts that a list of a container lacks; their names, sorted.
fn fill_list(container: &mut Value, field: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let given = &container["resources"][field];
    let lacking = |name: &&String| given.get(name.as_str()).is_none_or(Value::is_null);
    let mut names: Vec<String> = defaults.keys().filter(lacking).cloned().collect();
    names.sort();
    for name in &names {
        if let Some(resources) = container.as_object_mut() {
            let list = crate::edit::object(crate::edit::object(resources, "resources"), field);
            list.insert(name.clone(), defaults[name].clone());
        }
    }
    names
}

fn pod_faults(range: &[Limit], spec: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for limit in range {
        match limit.kind.as_str() {
            "Container" => {
                for list in ["containers", "initContainers"] {
                    for container in spec[list].as_array().into_iter().flatten() {
                        let of = |which: &str| quota::amounts(&container["resources"][which]);
                        check(limit, &of("requests"), &of("limits"), &mut faults);
                    }
                }
            }
            "Pod" => check(limit, &quota::total(spec, "requests"), &quota::total(spec, "limits"), &mut faults),
            _ => {}
        }
    }
    faults
}

fn check(limit: &Limit, requests: &Usage, limits: &Usage, faults: &mut Vec<String>) {
    let kind = limit.kind.as_str();
    faults.extend(limit.min.iter().filter_map(|(name, least)| below(kind, name, *least, requests, limits)));
    faults.extend(limit.max.iter().filter_map(|(name, most)| above(kind, name, *most, requests, limits)));
    faults.extend(limit.ratio.iter().filter_map(|(name, most)| beyond(kind, name, *most, requests, limits)));
}

fn below(kind: &str, name: &str, least: Quantity, requests: &Usage, limits: &Usage) -> Option<String> {
    let text = format!("minimum {name} usage per {kind} is {least}");
    match (requests.get(name), limits.get(name)) {
        (None, _) => Some(format!("{text}.  No request is specified")),
        (Some(request), _) if *request < least => Some(format!("{text}, but request is {request}")),
        (_, Some(limit)) if *limit < least => Some(format!("{text}, but limit is {limit}")),
        _ => None,
    }
}

fn above(kind: &str, name: &str, most: Quantity, requests: &Usage, limits: &Usage) -> Option<String> {
    let text = format!("maximum {name} usage per {kind} is {most}");
    match (requests.get(name), limits.get(name)) {
        (_, None) => Some(format!("{text}.  No limit is specified")),
        (_, Some(limit)) if *limit > most => Some(format!("{text}, but limit is {limit}")),
        (Some(request), _) if *request > most => Some(format!("{text}, but request is {request}")),
        _ => None,
    }
}

#[allow(clippy::cast_precision_loss, reason = "upstream compares ratios as floating-point numbers")]
fn beyond(kind: &str, name: &str, most: Quantity, requests: &Usage, limits: &Usage) -> Option<String> {
    let text = format!("{name} max limit to request ratio per {kind} is {most}");
    let amount = |list: &Usage| list.get(name).map(Quantity::milli_value).filter(|amount| *amount != 0);
    let Some(request) = amount(requests) else {
        return Some(format!("{text}, but no request is specified or request is 0"));
    };
    let Some(limit) = amount(limits) else {
        return Some(format!("{text}, but no limit is specified or limit is 0"));
    };
    let ratio = limit as f64 / request as f64;
    (ratio * 1000.0 > most.milli_value() as f64).then(|| format!("{text}, but provided ratio is {ratio:.6}"))
}

fn claim_faults(range: &[Limit], spec: &Value) -> Vec<String> {
    let requests = quota::amounts(&spec["resources"]["requests"]);
    let mut faults = Vec::new();
    for limit in range.iter().filter(|limit| limit.kind == "PersistentVolumeClaim") {
        let kind = limit.kind.as_str();
        let none = Usage::new();
        faults.extend(limit.min.iter().filter_map(|(name, least)| below(kind, name, *least, &requests, &none)));
        for (name, most) in &limit.max {
            let text = format!("maximum {name} usage per {kind} is {most}");
            match requests.get(name) {
                None => faults.push(format!("{text}.  No request is specified")),
                Some(request) if request > most => faults.push(format!("{text}, but request is {request}")),
                Some(_) => {}
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stored, context_for, parse};
    use serde_json::json;
    use server::{Resource, strategy::Plain};

    fn range(items: &str) -> Vec<Limit> {
        parse(&format!("{{limits: {items}}}")).list_at(&["limits"]).iter().map(Limit::of).collect()
    }

    #[test]
    fn containers_get_what_they_lack_and_an_annotation_says_so() {
        let range = range(
            "[{type: Container, default: {cpu: '1', memory: 1Gi}, defaultRequest: {cpu: 500m}}, {type: Pod, max: {cpu: '9'}}]",
        );
        let mut pod = parse(
            "{metadata: {}, spec: {containers: [{name: a}, {name: b, resources: {limits: {cpu: '2', memory: 2Gi}, requests: {cpu: '1'}}}], \
             initContainers: [{name: i, resources: {requests: {cpu: 1m}, limits: {cpu: '1'}}}]}}",
        );
        let whole = pod.list_at(&["spec", "containers"])[1].clone();
        fill(&range, &mut pod);
        let containers = pod.list_at(&["spec", "containers"]);
        assert_eq!(
            containers[0]["resources"],
            json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1", "memory": "1Gi"}})
        );
        assert_eq!(containers[1], whole);
        let text = "LimitRanger plugin set: cpu request for container a; cpu, memory limit for container a; memory limit for init container i";
        assert_eq!(pod.str_at(&["metadata", "annotations", ANNOTATION]), Some(text));
        let (mut again, before) = (pod.clone(), pod);
        fill(&range, &mut again);
        assert_eq!(again, before, "nothing is lacking now");
    }

    #[tokio::test]
    async fn a_resize_gets_defaults_and_keeps_within_bounds() {
        let stored = Stored::default().with(
            "",
            "limitranges",
            "{metadata: {name: r, namespace: default}, spec: {limits: [{type: Container, defaultRequest: {cpu: 100m}, max: {cpu: '1'}}]}}",
        );
        let pod = |resources: &str| {
            parse(&format!(
                "{{metadata: {{name: p, namespace: default}}, spec: {{containers: [{{name: a, resources: {resources}}}]}}}}"
            ))
        };
        let mut context = context_for(Resource::new("", "v1", "pods", "Pod", Plain), stored);
        (context.operation, context.subresource) = (Operation::Update, "resize".to_owned());
        let attributes = Attributes::new(context, Some(Arc::new(pod("{limits: {cpu: '1'}}"))));
        let plugin = LimitRanger::default();
        assert!(plugin.handles(&attributes));
        let mut small = pod("{limits: {cpu: 500m}}");
        plugin.admit(&attributes, &mut small).await.expect("admitted");
        assert_eq!(small, pod("{limits: {cpu: 500m}, requests: {cpu: 100m}}"), "without an annotation");
        plugin.validate(&attributes, &small).await.expect("within the bounds");
        let refused = plugin.validate(&attributes, &pod("{limits: {cpu: '2'}}")).await.map_err(|status| status.message);
        let text = "pods \"p\" is forbidden: maximum cpu usage per Container is 1, but limit is 2";
        assert_eq!(refused, Err(text.to_owned()));
    }

    #[test]
    fn each_bound_has_upstreams_text() {
        let pod = |requests: &str, limits: &str| {
            let resources = format!("{{requests: {requests}, limits: {limits}}}");
            parse(&format!(
                "{{spec: {{containers: [{{name: a, resources: {resources}}}, {{name: b, resources: {resources}}}]}}}}"
            ))
        };
        let bounds = |kind: &str| {
            range(&format!(
                "[{{type: {kind}, min: {{cpu: 200m}}, max: {{cpu: '1'}}, maxLimitRequestRatio: {{cpu: '2'}}}}]"
            ))
        };
        for (kind, requests, limits, expected) in [
            ("Container", "{cpu: 500m}", "{cpu: '1'}", None),
            (
                "Container",
                "{}",
                "{cpu: '1'}",
                Some(
                    "[minimum cpu usage per Container is 200m.  No request is specified, cpu max limit to request ratio per Container is 2, but no request is specified or request is 0]",
                ),
            ),
            (
                "Container",
                "{cpu: 100m}",
                "{cpu: 150m}",
                Some("minimum cpu usage per Container is 200m, but request is 100m"),
            ),
            (
                "Container",
                "{cpu: 200m}",
                "{cpu: 150m}",
                Some("minimum cpu usage per Container is 200m, but limit is 150m"),
            ),
            (
                "Container",
                "{cpu: '1'}",
                "{cpu: 1100m}",
                Some("maximum cpu usage per Container is 1, but limit is 1100m"),
            ),
            (
                "Container",
                "{cpu: 1100m}",
                "{cpu: '1'}",
                Some("maximum cpu usage per Container is 1, but request is 1100m"),
            ),
            (
                "Container",
                "{cpu: 500m}",
                "{}",
                Some(
                    "[maximum cpu usage per Container is 1.  No limit is specified, cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0]",
                ),
            ),
            (
                "Container",
                "{cpu: 300m}",
                "{cpu: '1'}",
                Some("cpu max limit to request ratio per Container is 2, but provided ratio is 3.333333"),
            ),
            ("Pod", "{cpu: 300m}", "{cpu: 500m}", None),
            ("Pod", "{cpu: 300m}", "{cpu: 600m}", Some("maximum cpu usage per Pod is 1, but limit is 1200m")),
            ("Other", "{}", "{}", None),
        ] {
            let pod = pod(requests, limits);
            let told = aggregate(pod_faults(&bounds(kind), pod.at(&["spec"]).expect("a spec")));
            assert_eq!(told.as_deref(), expected, "{kind} {requests} {limits}");
        }
        let claims = range("[{type: PersistentVolumeClaim, min: {storage: 1Gi}, max: {storage: 2Gi}}]");
        for (requests, expected) in [
            (json!({"storage": "1Gi"}), None),
            (json!({"storage": "1"}), Some("minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1")),
            (
                json!({"storage": "3Gi"}),
                Some("maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"),
            ),
            (
                json!({}),
                Some(
                    "[minimum storage usage per PersistentVolumeClaim is 1Gi.  No request is specified, maximum storage usage per PersistentVolumeClaim is 2Gi.  No request is specified]",
                ),
            ),
        ] {
            let told = aggregate(claim_faults(&claims, &json!({"resources": {"requests": requests}})));
            assert_eq!(told.as_deref(), expected, "{requests}");
        }
    }
}
