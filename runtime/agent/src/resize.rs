//! The resources that the node has given to containers, which differ from what their pod asks for while a resize waits for room (KEP-1287). Pure.
//!
//! Only CPU and memory can be resized. The worker sees a pod with what was given to it ([`apply`]); what the API wants beyond that is asked of
//! [`crate::admission::AdmittedPods::resize`].

use crate::pod;
use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

type Amounts = BTreeMap<String, Quantity>;

/// CPU and memory of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Given {
    /// The request for CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_request: Option<Quantity>,
    /// The limit of CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<Quantity>,
    /// The request for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_request: Option<Quantity>,
    /// The limit of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<Quantity>,
}

/// What a container of a pod was given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Allocated {
    /// The container's name.
    pub container: String,
    /// Its share.
    #[serde(flatten)]
    pub given: Given,
}

impl Allocated {
    /// The share, if it is of this container. Neither the order nor the names of a pod's containers ever change.
    fn to(&self, container: &str) -> Option<&Given> {
        (self.container == container).then_some(&self.given)
    }
}

/// How a container that runs gets what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// While it runs.
    InPlace,
    /// It restarts, because its `resizePolicy` says so.
    Restart,
}

impl Given {
    /// What a container asks for.
    pub fn of(container: &Container) -> Self {
        let resources = container.resources.as_ref();
        Self::from(resources.and_then(|r| r.requests.as_ref()), resources.and_then(|r| r.limits.as_ref()))
    }

    fn from(requests: Option<&Amounts>, limits: Option<&Amounts>) -> Self {
        let amount = |list: Option<&Amounts>, name: &str| list.and_then(|list| list.get(name)).cloned();
        Self {
            cpu_request: amount(requests, "cpu"),
            cpu_limit: amount(limits, "cpu"),
            memory_request: amount(requests, "memory"),
            memory_limit: amount(limits, "memory"),
        }
    }

    /// The resources of a container with these amounts; the others are its own.
    pub fn within(&self, resources: Option<&ResourceRequirements>) -> ResourceRequirements {
        let mut resources = resources.cloned().unwrap_or_default();
        let put = |list: &mut Option<Amounts>, cpu: &Option<Quantity>, memory: &Option<Quantity>| {
            let mut amounts = list.take().unwrap_or_default();
            for (name, amount) in [("cpu", cpu), ("memory", memory)] {
                match amount {
                    Some(amount) => drop(amounts.insert(name.to_owned(), amount.clone())),
                    None => drop(amounts.remove(name)),
                }
            }
            *list = (!amounts.is_empty()).then_some(amounts);
        };
        put(&mut resources.requests, &self.cpu_request, &self.memory_request);
        put(&mut resources.limits, &self.cpu_limit, &self.memory_limit);
        resources
    }
}

/// The containers that can be resized.
fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod::containers(pod).map(|(container, _)| container)
}

/// What the containers of a pod ask for.
pub fn wanted(pod: &Pod) -> Vec<Allocated> {
    let all = resizable(pod).map(|c| Allocated { container: c.name.clone(), given: Given::of(c) });
    all.collect()
}

/// What a pod without a record was given: what its status says, and as long as that says nothing what it asks for.
pub fn adopt(pod: &Pod) -> Vec<Allocated> {
    let status = pod.status.as_ref();
    let init = status.and_then(|s| s.init_container_statuses.as_ref()).into_iter().flatten();
    let all = init.chain(status.and_then(|s| s.container_statuses.as_ref()).into_iter().flatten());
    let statuses: HashMap<&str, &ContainerStatus> = all.map(|status| (&*status.name, status)).collect();
    let told = |status: &ContainerStatus| {
        let resources = status.resources.as_ref()?;
        Some(Given::from(status.allocated_resources.as_ref(), resources.limits.as_ref()))
    };
    let of = |container: &Container| {
        let given =
            statuses.get(&*container.name).and_then(|status| told(status)).unwrap_or_else(|| Given::of(container));
        Allocated { container: container.name.clone(), given }
    };
    resizable(pod).map(of).collect()
}

/// Whether a pod asks for what it was given.
pub fn is_given(pod: &Pod, allocated: &[Allocated]) -> bool {
    let same = |(c, given): (&Container, &Given)| *given == Given::of(c);
    resizable(pod).zip(allocated).filter_map(|(c, allocated)| Some((c, allocated.to(&c.name)?))).all(same)
}

/// The pod with what it was given instead of what it asks for.
pub fn apply(pod: &Arc<Pod>, allocated: &[Allocated]) -> Arc<Pod> {
    if is_given(pod, allocated) {
        return pod.clone();
    }
    let mut pod = Pod::clone(pod);
    if let Some(spec) = &mut pod.spec {
        let all = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
        for (container, allocated) in all.zip(allocated) {
            if let Some(given) = allocated.to(&container.name) {
                container.resources = Some(given.within(container.resources.as_ref()));
            }
        }
    }
    Arc::new(pod)
}

/// How a container comes from what it has to what it was given; `None` if that is the same.
pub fn change(container: &Container, has: &Given) -> Option<Change> {
    let given = Given::of(container);
    if given == *has {
        return None;
    }
    let cpu = (&given.cpu_request, &given.cpu_limit) != (&has.cpu_request, &has.cpu_limit);
    let memory = (&given.memory_request, &given.memory_limit) != (&has.memory_request, &has.memory_limit);
    let restarts = container.resize_policy.iter().flatten().any(|policy| {
        let concerns = match policy.resource_name.as_str() {
            "cpu" => cpu,
            "memory" => memory,
            _ => false,
        };
        concerns && policy.restart_policy == "RestartContainer"
    });
    Some(if restarts { Change::Restart } else { Change::InPlace })
}

/// A resize that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// [`DEFERRED`]; another agent may have written `Infeasible`.
    pub reason: Cow<'static, str>,
    /// What does not suffice.
    pub message: String,
    /// The generation of the pod that asks for it.
    pub generation: Option<i64>,
}

/// A resize that is being carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Why it was not possible so far, or empty.
    pub error: String,
    /// The generation of the pod that asked for it.
    pub generation: Option<i64>,
}

/// The progress of a pod's resize.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resize {
    /// The condition `PodResizePending`.
    pub pending: Option<Pending>,
    /// The condition `PodResizeInProgress`.
    pub progress: Option<Progress>,
}

impl Resize {
    /// What the status of a pod says of it, so that an agent that comes back does not tell it anew.
    pub fn of(pod: &Pod) -> Self {
        let pending = pod::condition(pod, PENDING).map(|condition| Pending {
            reason: condition.reason.clone().unwrap_or_default().into(),
            message: condition.message.clone().unwrap_or_default(),
            generation: condition.observed_generation,
        });
        let progress = pod::condition(pod, IN_PROGRESS).map(|condition| Progress {
            error: condition.message.clone().unwrap_or_default(),
            generation: condition.observed_generation,
        });
        Self { pending, progress }
    }
}

/// The type of the condition of a resize that waits.
pub const PENDING: &str = "PodResizePending";
/// The reason of a resize for which there may be room later. (`Infeasible` is upstream's for what sampan does not have: swap, CPU managers.)
pub const DEFERRED: &str = "Deferred";
/// The type of the condition of a resize that is being carried out.
pub const IN_PROGRESS: &str = "PodResizeInProgress";

/// The message of an event: what is told, and what the pod asks for.
pub fn message(told: &str, pod: &Pod, generation: Option<i64>, error: &str) -> String {
    let list = |containers: &[Container]| -> serde_json::Value {
        let one = |c: &Container| {
            let resources = c.resources.as_ref().map(|r| json!(r)).unwrap_or_else(|| json!({}));
            json!({"name": c.name, "resources": resources})
        };
        containers.iter().map(one).collect()
    };
    // In upstream's order of fields.
    let mut fields = Vec::new();
    for (name, containers) in
        [("initContainers", pod::init_containers(pod)), ("containers", &pod::spec(pod).containers[..])]
    {
        if !containers.is_empty() {
            fields.push(format!("\"{name}\":{}", list(containers)));
        }
    }
    fields.push(format!("\"generation\":{}", generation.unwrap_or(0)));
    if !error.is_empty() {
        fields.push(format!("\"error\":{}", json!(error)));
    }
    format!("{told}: {{{}}}", fields.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn pod(cpu: &str, status: Value) -> Arc<Pod> {
        let resources = json!({"requests": {"cpu": cpu, "ephemeral-storage": "1Gi"}, "limits": {"memory": "1Gi"}});
        let spec = json!({"containers": [{"name": "a", "resources": resources}, {"name": "b"}]});
        Arc::new(
            serde_json::from_value(json!({"metadata": {"generation": 3}, "spec": spec, "status": status})).unwrap(),
        )
    }

    #[test]
    fn a_pod_is_seen_with_what_it_was_given() {
        let (small, large) = (pod("1", json!({})), pod("2", json!({})));
        let given = wanted(&small);
        assert!(is_given(&small, &given) && !is_given(&large, &given));
        assert!(Arc::ptr_eq(&apply(&small, &given), &small), "nothing is copied");
        assert_eq!(pod::spec(&apply(&large, &given)).containers[0], pod::spec(&small).containers[0]);
        assert!(is_given(&large, &[]), "nothing is known");
        let text = serde_json::to_value(&given).unwrap();
        assert_eq!(text, json!([{"container": "a", "cpuRequest": "1", "memoryLimit": "1Gi"}, {"container": "b"}]));
        assert_eq!(serde_json::from_value::<Vec<Allocated>>(text).unwrap(), given);
    }

    #[test]
    fn without_a_record_the_status_says_what_was_given() {
        let told = json!({"containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "2Gi"}}}]});
        let quantity = |text: &str| Some(Quantity(text.into()));
        let expected = Given { cpu_request: quantity("1"), memory_limit: quantity("2Gi"), ..Given::default() };
        assert_eq!(adopt(&pod("3", told))[0].given, expected);
        assert_eq!(adopt(&pod("3", json!({}))), wanted(&pod("3", json!({}))));
    }

    #[test]
    fn the_policy_of_what_changes_says_whether_it_restarts() {
        let policies = json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        let container = |cpu: &str, memory: &str, policies: &Value| -> Container {
            let resources = json!({"requests": {"cpu": cpu}, "limits": {"memory": memory}});
            serde_json::from_value(json!({"name": "a", "resources": resources, "resizePolicy": policies})).unwrap()
        };
        for (cpu, memory, expected) in [
            ("1", "1Gi", None),
            ("2", "1Gi", Some(Change::InPlace)),
            ("1", "2Gi", Some(Change::Restart)),
            ("2", "2Gi", Some(Change::Restart)),
        ] {
            let has = Given::of(&container("1", "1Gi", &policies));
            assert_eq!(change(&container(cpu, memory, &policies), &has), expected, "{cpu} {memory}");
            let kept = expected.map(|_| Change::InPlace);
            assert_eq!(change(&container(cpu, memory, &json!([])), &has), kept, "NotRequired is the default");
        }
    }

    #[test]
    fn an_event_says_what_is_asked_for() {
        let told = message("Pod resize started", &pod("1", json!({})), Some(3), "");
        let resources = r#"{"limits":{"memory":"1Gi"},"requests":{"cpu":"1","ephemeral-storage":"1Gi"}}"#;
        let containers =
            format!(r#""containers":[{{"name":"a","resources":{resources}}},{{"name":"b","resources":{{}}}}]"#);
        assert_eq!(told, format!(r#"Pod resize started: {{{containers},"generation":3}}"#));
        let told = message("Pod resize Deferred", &pod("1", json!({})), None, "no \"room\"");
        assert!(told.ends_with(r#","generation":0,"error":"no \"room\""}"#), "{told}");
    }
}
