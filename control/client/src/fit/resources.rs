//! Amounts of CPU, memory and other resources as plain numbers. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/> and, for init containers and sidecars,
//! <https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/>.

use api::quantity::Quantity;
use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod, PodSpec},
    apimachinery::pkg::api::resource::Quantity as Text,
};
use std::collections::{BTreeMap, HashMap};

/// CPU of a container without a CPU request in scores, in thousandths of a core.
const DEFAULT_CPU: Amount = 100;
/// Memory of a container without a memory request in scores, bytes.
const DEFAULT_MEMORY: Amount = 200 << 20;

type Amounts = BTreeMap<String, Text>;

/// An amount. A quantity is at most 2^63; this type is wider, so that the sum over all pods of a cluster is exact and can be subtracted again.
pub type Amount = i128;

/// Amounts of resources; an absent resource is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu: Amount,
    /// Bytes.
    pub memory: Amount,
    /// Bytes.
    pub storage: Amount,
    /// Huge pages and extended resources, by name.
    pub scalar: BTreeMap<String, Amount>,
}

impl Resources {
    /// Parses a `requests` or `allocatable` map. Text that is no quantity counts as zero: the server has validated it.
    pub fn parse(map: Option<&BTreeMap<String, Text>>) -> Self {
        let mut resources = Self::default();
        for (name, text) in map.into_iter().flatten() {
            let Ok(quantity) = Quantity::parse(&text.0) else { continue };
            match name.as_str() {
                "cpu" => resources.cpu = quantity.milli_value().into(),
                "memory" => resources.memory = quantity.value().into(),
                "ephemeral-storage" => resources.storage = quantity.value().into(),
                "pods" => {}
                other => {
                    resources.scalar.insert(other.to_owned(), quantity.value().into());
                }
            }
        }
        resources
    }

    /// Whether all amounts are zero.
    pub fn is_zero(&self) -> bool {
        self.cpu == 0 && self.memory == 0 && self.storage == 0 && self.scalar.is_empty()
    }

    /// Adds each amount.
    pub fn add(&mut self, other: &Self) {
        self.cpu += other.cpu;
        self.memory += other.memory;
        self.storage += other.storage;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() += amount;
        }
    }

    /// Subtracts each amount.
    pub fn sub(&mut self, other: &Self) {
        self.cpu -= other.cpu;
        self.memory -= other.memory;
        self.storage -= other.storage;
        for (name, amount) in &other.scalar {
            if let Some(left) = self.scalar.get_mut(name) {
                *left -= amount;
            }
        }
    }

    /// The maximum of each amount.
    fn max(&mut self, other: &Self) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.storage = self.storage.max(other.storage);
        for (name, amount) in &other.scalar {
            let mine = self.scalar.entry(name.clone()).or_default();
            *mine = (*mine).max(*amount);
        }
    }
}

/// The resource requests of a pod's spec.
pub fn requests(spec: &PodSpec) -> Resources {
    total(spec, |container, _| Resources::parse(wanted(container)))
}

/// The resource requests that a pod has on its node: of a container that is being resized the highest of what it asks for, was given and has
/// (KEP-1287). What its node can never give it does not count.
pub fn pod_requests(pod: &Pod) -> Resources {
    let shares = Shares::of(pod);
    total(crate::pod::spec(pod), |container, lasts| highest(&shares.of_container(container, lasts)))
}

/// The requests of the pod for scores: as [`pod_requests`], with a default for each container without a CPU or memory request.
pub fn non_zero_requests(pod: &Pod) -> Resources {
    let shares = Shares::of(pod);
    total(crate::pod::spec(pod), |container, lasts| {
        let shares = shares.of_container(container, lasts);
        let mut resources = highest(&shares);
        let named = |key: &str| shares.iter().flatten().any(|list| list.contains_key(key));
        if !named("cpu") {
            resources.cpu = DEFAULT_CPU;
        }
        if !named("memory") {
            resources.memory = DEFAULT_MEMORY;
        }
        resources
    })
}

/// Whether the statuses of two states of a pod say the same of what its containers have.
pub fn has_same_shares(old: &Pod, new: &Pod) -> bool {
    let all = |pod| statuses(pod).map(|s| (&s.name, &s.resources, &s.allocated_resources));
    is_infeasible(old) == is_infeasible(new) && all(old).eq(all(new))
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|s| s.init_container_statuses.as_ref()).into_iter().flatten();
    init.chain(status.and_then(|s| s.container_statuses.as_ref()).into_iter().flatten())
}

fn is_infeasible(pod: &Pod) -> bool {
    crate::pod::condition(pod, "PodResizePending").is_some_and(|c| c.reason.as_deref() == Some("Infeasible"))
}

fn wanted(container: &Container) -> Option<&Amounts> {
    container.resources.as_ref()?.requests.as_ref()
}

/// What the containers of a pod have.
struct Shares<'a> {
    /// By name, of the containers whose resources are told.
    told: HashMap<&'a str, &'a ContainerStatus>,
    infeasible: bool,
}

impl<'a> Shares<'a> {
    fn of(pod: &'a Pod) -> Self {
        let told = statuses(pod).filter(|status| status.resources.is_some());
        Self { told: told.map(|status| (&*status.name, status)).collect(), infeasible: is_infeasible(pod) }
    }

    /// The lists of requests that count for a container: what it asks for, has and was given. An init container that ends is not resized.
    fn of_container(&self, container: &'a Container, lasts: bool) -> [Option<&'a Amounts>; 3] {
        let wanted = wanted(container);
        let Some(status) = self.told.get(&*container.name).filter(|_| lasts) else { return [wanted, None, None] };
        let has = status.resources.as_ref().and_then(|r| r.requests.as_ref());
        [wanted.filter(|_| !self.infeasible), has, status.allocated_resources.as_ref()]
    }
}

fn highest(lists: &[Option<&Amounts>]) -> Resources {
    let mut all = lists.iter().flatten().map(|list| Resources::parse(Some(list)));
    let mut highest = all.next().unwrap_or_default();
    all.for_each(|other| highest.max(&other));
    highest
}

/// The effective requests: containers run together, init containers one after another beside the sidecars that started before them; the higher
/// of the two counts, plus the overhead of the RuntimeClass. Pod-level requests replace the sum for the resources they name. `of` is told whether a
/// container runs as long as the pod.
fn total<'a>(spec: &'a PodSpec, of: impl Fn(&'a Container, bool) -> Resources) -> Resources {
    let mut sum = Resources::default();
    spec.containers.iter().for_each(|c| sum.add(&of(c, true)));
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let lasts = crate::pod::is_sidecar(container);
        let mut step = of(container, lasts);
        if lasts {
            sum.add(&step);
            sidecars.add(&step);
            peak.max(&sidecars);
        } else {
            step.add(&sidecars);
            peak.max(&step);
        }
    }
    sum.max(&peak);
    let whole = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    for (name, _) in whole.into_iter().flatten() {
        let amounts = Resources::parse(whole);
        match name.as_str() {
            "cpu" => sum.cpu = amounts.cpu,
            "memory" => sum.memory = amounts.memory,
            other => {
                if let Some(amount) = amounts.scalar.get(other) {
                    sum.scalar.insert(other.to_owned(), *amount);
                }
            }
        }
    }
    sum.add(&Resources::parse(spec.overhead.as_ref()));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> PodSpec {
        serde_json::from_value(spec).expect("a pod spec")
    }

    fn container(cpu: &str, memory: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn containers_add_up_and_init_containers_peak() {
        let init = |cpu, policy: Option<&str>| {
            let mut c = container(cpu, "1Mi");
            c["restartPolicy"] = json!(policy);
            c
        };
        for (what, spec, cpu) in [
            ("sum", json!({"containers": [container("100m", "1Mi"), container("0.2", "1Mi")]}), 300),
            (
                "a small init container hides",
                json!({"containers": [container("1", "1Mi")], "initContainers": [init("500m", None)]}),
                1000,
            ),
            (
                "a large one counts",
                json!({"containers": [container("1", "1Mi")], "initContainers": [init("3", None)]}),
                3000,
            ),
            (
                "sidecars add",
                json!({"containers": [container("1", "1Mi")], "initContainers": [init("2", Some("Always"))]}),
                3000,
            ),
            (
                "later init containers run beside sidecars",
                json!({"containers": [container("1", "1Mi")], "initContainers": [init("2", Some("Always")), init("3", None)]}),
                5000,
            ),
            ("overhead", json!({"containers": [container("1", "1Mi")], "overhead": {"cpu": "250m"}}), 1250),
            (
                "the whole pod",
                json!({"containers": [container("1", "1Mi")], "resources": {"requests": {"cpu": "4"}}}),
                4000,
            ),
        ] {
            assert_eq!(requests(&pod(spec)).cpu, cpu, "{what}");
        }
    }

    #[test]
    fn of_a_container_that_is_resized_the_highest_counts() {
        let has = |cpu: &str, given: &str| {
            json!({"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": {"cpu": given}, "resources": {"requests": {"cpu": cpu}}})
        };
        let app = |cpu: &str| json!({"containers": [container(cpu, "1Mi")]});
        let init = |policy: Option<&str>| {
            let mut init = container("1", "1Mi");
            init["restartPolicy"] = json!(policy);
            json!({"containers": [{"name": "a"}], "initContainers": [init]})
        };
        let pending = |reason: &str| json!([{"type": "PodResizePending", "status": "True", "reason": reason}]);
        for (what, spec, status, cpu) in [
            ("nobody has told", app("3"), json!({}), 3000),
            ("it asks for more", app("3"), json!({"containerStatuses": [has("1", "1")]}), 3000),
            ("it was given more", app("1"), json!({"containerStatuses": [has("1", "2")]}), 2000),
            ("it has more", app("1"), json!({"containerStatuses": [has("4", "1")]}), 4000),
            (
                "it waits",
                app("3"),
                json!({"conditions": pending("Deferred"), "containerStatuses": [has("1", "2")]}),
                3000,
            ),
            (
                "it never gets it",
                app("3"),
                json!({"conditions": pending("Infeasible"), "containerStatuses": [has("1", "2")]}),
                2000,
            ),
            ("a sidecar", init(Some("Always")), json!({"initContainerStatuses": [has("2", "3")]}), 3000),
            ("an init container", init(None), json!({"initContainerStatuses": [has("2", "3")]}), 1000),
        ] {
            let pod: Pod = serde_json::from_value(json!({"spec": spec, "status": status})).expect("a pod");
            assert_eq!(pod_requests(&pod).cpu, cpu, "{what}");
            let spec_only = Pod { status: None, ..pod.clone() };
            assert_eq!(has_same_shares(&pod, &spec_only), status == json!({}), "{what}");
            assert!(has_same_shares(&pod, &pod));
        }
    }

    #[test]
    fn unnamed_requests_count_only_in_scores() {
        let spec = pod(json!({"containers": [{"name": "a"}, container("50m", "1Mi")]}));
        assert_eq!((requests(&spec).cpu, requests(&spec).memory), (50, 1 << 20));
        let whole = Pod { spec: Some(spec.clone()), ..Pod::default() };
        let scored = non_zero_requests(&whole);
        assert_eq!((scored.cpu, scored.memory), (150, (200 << 20) + (1 << 20)));
        assert!(requests(&pod(json!({"containers": [{"name": "a"}]}))).is_zero());
    }

    #[test]
    fn what_is_added_and_taken_away_leaves_every_amount_as_it_was() {
        let most = json!({"cpu": "9E", "memory": "9E", "ephemeral-storage": "9E", "hugepages-2Mi": "9E", "example.com/gpu": "9E"});
        let huge = json!({"name": "c", "resources": {"requests": most}});
        let huge = requests(&pod(json!({"containers": [huge, huge, huge], "overhead": most})));
        assert_eq!(huge.memory, 4 * 9_000_000_000_000_000_000);
        let mut used = requests(&pod(json!({"containers": [{"name": "c", "resources": {"requests": {
            "cpu": "1", "memory": "600Mi", "ephemeral-storage": "1Gi", "hugepages-2Mi": "4Mi", "example.com/gpu": "2"}}}]})));
        let before = used.clone();
        for _ in 0..3 {
            used.add(&huge);
        }
        for _ in 0..3 {
            used.sub(&huge);
        }
        assert_eq!(used, before);
    }

    #[test]
    fn extended_resources_are_kept_by_name() {
        let spec = pod(json!({"containers": [{"name": "a", "resources": {"requests": {"example.com/gpu": "2"}}}]}));
        let mut sum = requests(&spec);
        sum.add(&requests(&spec));
        assert_eq!(sum.scalar["example.com/gpu"], 4);
        sum.sub(&requests(&spec));
        assert_eq!(sum.scalar["example.com/gpu"], 2);
    }
}
