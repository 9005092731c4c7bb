//! Waiting until what was applied is there: Deployments and pods ready, Jobs complete, node ports open. What pods tell
//! about why they are not is shown as it comes, and what will not mend by itself is not waited for.

mod state;

use crate::{
    port::{self, Held},
    progress::Progress,
    remote::Outcome,
};
use api::selector::Selector;
use client::{Client, Error, ListOptions};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    batch::v1::Job,
    core::v1::Pod,
    discovery::v1::EndpointSlice,
};
use serde_json::Value;
use state::{State, Trouble};
use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

/// How long before the user gets the prompt back; the cluster goes on trying. `up --help` says it.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long something that will not mend by itself is given to do so after all.
const GRACE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(50);
/// How long pods without a readiness probe must stay ready: such a pod is, until its guest traps.
const STEADY: Duration = Duration::from_millis(300);
/// How long nothing but Services without pods may be waited for: their node ports refuse until there are some.
const BARE: Duration = Duration::from_secs(1);
/// What such a Service waits for.
const NO_PODS: &str = "no pod behind it is ready";

/// Something that was applied is not there.
#[derive(Debug)]
pub(crate) struct Unsettled {
    /// What, and why.
    what: String,
    /// What to describe: `-n default pod/hello-1`.
    look: String,
}

impl std::fmt::Display for Unsettled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\nlook with: kubectl describe {}", self.what, self.look)
    }
}

impl std::error::Error for Unsettled {}

/// Something that was applied and is not there yet.
struct Pending<'a> {
    outcome: &'a Outcome,
    /// Since when it is known that it will not mend by itself.
    stuck: Option<Instant>,
    /// Since when it is there.
    done: Option<Instant>,
    last: Look,
}

/// What one look at an object showed.
#[derive(Default)]
struct Look {
    state: Option<State>,
    troubles: Vec<Trouble>,
}

/// Shows progress until everything is there. An error says what is not: at once if it failed, soon if it will not mend by
/// itself, else after [`PATIENCE`].
pub(crate) async fn wait(
    client: &Client,
    outcomes: &[Outcome],
    node: IpAddr,
    progress: &mut Progress,
) -> Result<(), Unsettled> {
    let mut pending: Vec<Pending<'_>> =
        outcomes.iter().map(|outcome| Pending { outcome, stuck: None, done: None, last: Look::default() }).collect();
    let settled = timeout(PATIENCE, settle(client, &mut pending, node, progress)).await;
    settled.unwrap_or_else(|_| {
        let Some(first) = pending.first() else { return Ok(()) };
        let (what, others) = (first.words(), pending.len() - 1);
        let others = if others == 0 { String::new() } else { format!(" (and {others} more)") };
        Err(first.unsettled(format!("not ready after {} s: {what}{others}", PATIENCE.as_secs())))
    })
}

async fn settle(
    client: &Client,
    pending: &mut Vec<Pending<'_>>,
    node: IpAddr,
    progress: &mut Progress,
) -> Result<(), Unsettled> {
    let mut told = HashSet::new();
    let mut bare: Option<Instant> = None;
    loop {
        for one in pending.iter_mut() {
            one.last = look(client, one.outcome, node).await;
            for trouble in &one.last.troubles {
                // Pods of one kind have the same trouble, and its message may count.
                if told.insert((one.outcome.label.clone(), trouble.cause().to_owned())) {
                    progress.line(&format!("  {}: {}", trouble.object, trouble.words()));
                }
            }
            if let Some(error) = one.given_up(Instant::now()) {
                return Err(error);
            }
        }
        pending.retain_mut(|one| !one.settled(Instant::now()));
        let Some(first) = pending.first() else { return Ok(()) };
        bare = pending.iter().all(Pending::is_bare).then(|| bare.unwrap_or_else(Instant::now));
        if bare.is_some_and(|since| since.elapsed() >= BARE) {
            return Ok(());
        }
        if let Some(State::Waiting(what)) = &first.last.state {
            progress.step(format!("{} {what}", first.outcome.label));
        }
        sleep(STEP).await;
    }
}

impl Pending<'_> {
    /// Whether it is a Service that only lacks pods.
    fn is_bare(&self) -> bool {
        matches!(&self.last.state, Some(State::Waiting(what)) if what == NO_PODS)
    }

    /// Why it is waited for no longer.
    fn given_up(&mut self, now: Instant) -> Option<Unsettled> {
        if let Some(State::Failed(why)) = &self.last.state {
            return Some(self.unsettled(format!("{}: {why}", self.outcome.label)));
        }
        let lasting = self.last.state != Some(State::Done) && self.last.troubles.iter().any(|trouble| trouble.lasting);
        self.stuck = lasting.then(|| self.stuck.unwrap_or(now));
        let stuck = self.stuck.is_some_and(|since| now - since >= GRACE);
        stuck.then(|| self.unsettled(format!("not ready, and it will not mend by itself: {}", self.words())))
    }

    /// Whether it is there, and not for a moment only.
    fn settled(&mut self, now: Instant) -> bool {
        let done = self.last.state == Some(State::Done);
        self.done = done.then(|| self.done.unwrap_or(now));
        let steady = if is_unprobed(&self.outcome.object) { STEADY } else { Duration::ZERO };
        self.done.is_some_and(|since| now - since >= steady)
    }

    /// What it waits for and why, in one line.
    fn words(&self) -> String {
        let label = &self.outcome.label;
        match (self.last.worst(), &self.last.state) {
            (Some(trouble), _) if trouble.object == *label => trouble.message.clone(),
            // What it means was told when it came.
            (Some(trouble), _) => format!("{label}: {}: {}", trouble.object, trouble.reason),
            (None, Some(State::Waiting(what))) => format!("{label}: {what}"),
            (None, _) => label.clone(),
        }
    }

    fn unsettled(&self, what: String) -> Unsettled {
        let namespace = self.outcome.object["metadata"]["namespace"].as_str().unwrap_or("default");
        let object = self.last.worst().map_or(&self.outcome.label, |trouble| &trouble.object);
        Unsettled { what, look: format!("-n {namespace} {object}") }
    }
}

impl Look {
    /// The trouble to tell if only one can be: the one that stays.
    fn worst(&self) -> Option<&Trouble> {
        self.troubles.iter().find(|trouble| trouble.lasting).or(self.troubles.first())
    }
}

/// Whether it has pods that are ready as soon as they run.
fn is_unprobed(object: &Value) -> bool {
    let pod = match object["kind"].as_str() {
        Some("Deployment" | "ReplicaSet") => &object["spec"]["template"]["spec"],
        Some("Pod") => &object["spec"],
        _ => return false,
    };
    pod["containers"].as_array().into_iter().flatten().any(|container| container["readinessProbe"].is_null())
}

/// Looks once. What is gone is not waited for: a Job may be removed when it is over.
async fn look(client: &Client, outcome: &Outcome, node: IpAddr) -> Look {
    let found = match outcome.object["kind"].as_str() {
        Some("Deployment" | "ReplicaSet" | "Job" | "Pod") => workload(client, &outcome.object).await,
        Some("Service") => service(client, outcome, node).await,
        _ => Ok((State::Done, Vec::new())),
    };
    let (state, troubles) = match found {
        Ok(found) => found,
        Err(error) if error.is_not_found() => (State::Done, Vec::new()),
        Err(error) => (State::Waiting(error.to_string()), Vec::new()),
    };
    Look { state: Some(state), troubles }
}

async fn service(client: &Client, outcome: &Outcome, node: IpAddr) -> Result<(State, Vec<Trouble>), Error> {
    let (state, troubles) = node_ports(outcome, node);
    if !matches!(state, State::Waiting(_)) || !troubles.is_empty() {
        return Ok((state, troubles));
    }
    let text = |path: &str| outcome.object["metadata"][path].as_str().unwrap_or_default();
    let labels = format!("kubernetes.io/service-name={}", text("name"));
    let options = ListOptions { labels, ..ListOptions::default() };
    let slices = client.list::<EndpointSlice>(text("namespace"), &options).await?.items;
    let mut endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.any(|it| it.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
    Ok(if ready { (state, troubles) } else { (State::Waiting(NO_PODS.to_owned()), troubles) })
}

async fn workload(client: &Client, object: &Value) -> Result<(State, Vec<Trouble>), Error> {
    let text = |path: &str| object["metadata"][path].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    let pods = match object["kind"].as_str() {
        Some("Pod") => vec![client.get::<Pod>(namespace, name).await?],
        _ => {
            let selector = Selector::from_label_selector(&object["spec"]["selector"]).map_err(Error::Decode)?;
            let options = ListOptions { labels: selector.to_string(), ..ListOptions::default() };
            client.list::<Pod>(namespace, &options).await?.items
        }
    };
    let state = match object["kind"].as_str() {
        Some("Deployment") => state::deployment(&client.get::<Deployment>(namespace, name).await?, &pods),
        Some("ReplicaSet") => state::replica_set(&client.get::<ReplicaSet>(namespace, name).await?, &pods),
        Some("Job") => state::job(&client.get::<Job>(namespace, name).await?),
        _ => pods.first().map_or(State::Done, state::pod),
    };
    Ok((state, pods.iter().flat_map(state::troubles).collect()))
}

/// The TCP node ports of a Service.
pub(crate) fn tcp_node_ports(service: &Value) -> impl Iterator<Item = u16> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let tcp = ports.filter(|port| port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP"));
    tcp.filter_map(|port| port["nodePort"].as_u64().and_then(|number| u16::try_from(number).ok()))
}

/// Whether this process listens on a Service's node ports: an answer there could be somebody else's.
fn node_ports(outcome: &Outcome, node: IpAddr) -> (State, Vec<Trouble>) {
    let mut waiting = None;
    let mut troubles = Vec::new();
    for number in tcp_node_ports(&outcome.object) {
        match port::holder(SocketAddr::new(node, number)) {
            Held::Us => continue,
            Held::Other(who) => troubles.push(Trouble {
                object: outcome.label.clone(),
                reason: "NodePortUnavailable".to_owned(),
                message: format!("node port {number} of {} is taken by {who}", outcome.label),
                lasting: true,
            }),
            Held::Nobody => {}
        }
        waiting.get_or_insert_with(|| State::Waiting(format!("node port {number} is not open")));
    }
    (waiting.unwrap_or(State::Done), troubles)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn outcome(object: Value) -> Outcome {
        Outcome { label: "service/hello".into(), verb: "created", object }
    }

    #[test]
    fn a_node_port_counts_only_if_this_process_has_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("free");
        let address = listener.local_addr().expect("bound");
        let service = outcome(json!({"kind": "Service", "spec": {"ports": [
            {"port": 80, "nodePort": address.port(), "protocol": "TCP"},
            {"port": 53, "nodePort": 1, "protocol": "UDP"}]}}));
        assert_eq!(node_ports(&service, address.ip()).0, State::Done);
        drop(listener);
        let want = State::Waiting(format!("node port {} is not open", address.port()));
        assert_eq!(node_ports(&service, address.ip()), (want, Vec::new()));
    }

    #[test]
    fn pods_without_a_readiness_probe_must_stay_ready() {
        let deployment = |container: Value| {
            outcome(json!({"kind": "Deployment", "spec": {"template": {"spec": {"containers": [container]}}}}))
        };
        let start = Instant::now();
        let look = |state| Look { state: Some(state), troubles: Vec::new() };
        let probed = deployment(json!({"readinessProbe": {}}));
        assert!(Pending { outcome: &probed, stuck: None, done: None, last: look(State::Done) }.settled(start));
        let unprobed = deployment(json!({}));
        let mut one = Pending { outcome: &unprobed, stuck: None, done: None, last: look(State::Done) };
        assert!(!one.settled(start));
        one.last = look(State::Waiting("0/1 ready".into()));
        assert!(!one.settled(start + STEADY), "its guest trapped");
        one.last = look(State::Done);
        assert!(!one.settled(start + STEADY * 2));
        assert!(one.settled(start + STEADY * 3));
    }

    #[test]
    fn lasting_trouble_is_given_up_after_a_grace_and_other_trouble_is_not() {
        let object = outcome(json!({"kind": "Deployment", "metadata": {"namespace": "n"}}));
        let trouble = |lasting| Trouble {
            object: "pod/p".into(),
            reason: "ErrImagePull".into(),
            message: "none".into(),
            lasting,
        };
        let waiting =
            |lasting| Look { state: Some(State::Waiting("0/1 ready".into())), troubles: vec![trouble(lasting)] };
        let mut one = Pending { outcome: &object, stuck: None, done: None, last: waiting(true) };
        let start = Instant::now();
        assert!(one.given_up(start).is_none());
        let error = one.given_up(start + GRACE).expect("given up").to_string();
        assert!(error.contains("service/hello: pod/p: ErrImagePull\n"), "{error}");
        assert!(error.ends_with("kubectl describe -n n pod/p"), "{error}");
        one.last = waiting(false);
        assert!(one.given_up(start + GRACE * 2).is_none());
        one.last = waiting(true);
        assert!(one.given_up(start + GRACE * 3).is_none(), "the grace begins again");
        one.last.state = Some(State::Failed("Failed".into()));
        assert!(one.given_up(start + GRACE * 3).is_some(), "at once");
    }
}
