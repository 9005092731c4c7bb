//! The annotations that sampan reads, with their checks: what the node reads and what the API server warns of is this one table. Pure.
//!
//! Of a pod, `sampan.dev/KEY` applies to all containers, `CONTAINER.sampan.dev/KEY` to one of them, and takes precedence. Of a Service there is
//! [`CROSS_SITE`], of a Deployment [`SCALE_TO_ZERO_AFTER`]. The README says what each means.

mod value;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// The domain of our annotations.
const DOMAIN: &str = "sampan.dev";

/// The most bytes of a name or a value that a fault shows.
const SHOWN: usize = 80;

/// The annotation of a Service that opens its node ports to pages of other web sites, with the value `allow`.
pub const CROSS_SITE: &str = "sampan.dev/cross-site-requests";

/// The value of [`CROSS_SITE`].
pub const CROSS_SITE_ALLOW: &str = "allow";

/// The annotation of a Deployment that is scaled to zero when it has had no request for that time.
pub const SCALE_TO_ZERO_AFTER: &str = "sampan.dev/scale-to-zero-after";

/// The annotation by which a Deployment tells that it was scaled to zero because it was idle, until it serves again: the replicas that it
/// gets when a request comes. On its EndpointSlices: the names of such Deployments, separated by commas.
pub const SCALED_TO_ZERO: &str = "sampan.dev/scaled-to-zero";

/// The annotation of EndpointSlices by which a node tells that a request waits: when it came. It stays until the Deployments serve.
pub const WAKE_REQUESTED: &str = "sampan.dev/wake-requested";

/// Reads the value of [`SCALE_TO_ZERO_AFTER`].
///
/// # Errors
/// It is invalid; the text says what is right.
pub fn scale_to_zero_after(value: &str) -> Result<Duration, Fault> {
    value::duration(value).map_err(|wanted| invalid(SCALE_TO_ZERO_AFTER.to_owned(), value, &wanted))
}

/// An annotation of pods: its name after the `/`, and how its value is read.
pub struct Key<T> {
    name: &'static str,
    /// It means nothing where instances are not reused.
    of_reuse: bool,
    read: fn(&str) -> Result<T, String>,
}

/// Whether an instance answers one request after the other (`reuse`), or each request gets a new one (`per-request`).
pub const INSTANCES: Key<bool> = Key { name: "instances", of_reuse: false, read: value::reuse };
/// Requests that a reused instance answers.
pub const MAX_INSTANCE_REQUESTS: Key<u64> =
    Key { name: "max-instance-requests", of_reuse: true, read: value::count::<1, { u64::MAX }> };
/// The age after which a reused instance gets no more requests.
pub const MAX_INSTANCE_AGE: Key<Duration> = Key { name: "max-instance-age", of_reuse: true, read: value::duration };
/// How long a reused instance may be idle.
pub const MAX_INSTANCE_IDLE: Key<Duration> = Key { name: "max-instance-idle", of_reuse: true, read: value::duration };
/// Reused instances that are there before a request; at most a quarter of the node's pool.
pub const MIN_INSTANCES: Key<u64> = Key { name: "min-instances", of_reuse: true, read: value::count::<0, 512> };
/// The time that a request may take.
pub const REQUEST_TIMEOUT: Key<Duration> = Key { name: "request-timeout", of_reuse: false, read: value::duration };
/// Requests that compute at a time.
pub const MAX_CONCURRENT_REQUESTS: Key<u64> =
    Key { name: "max-concurrent-requests", of_reuse: false, read: value::count::<1, 65_536> };
/// Requests that wait for their turn.
pub const MAX_QUEUED_REQUESTS: Key<u64> =
    Key { name: "max-queued-requests", of_reuse: false, read: value::count::<0, { 1 << 20 }> };
/// Whether each request is a line in the log.
pub const ACCESS_LOG: Key<bool> = Key { name: "access-log", of_reuse: false, read: value::boolean };
/// Whether a request without W3C `traceparent` gets one.
pub const TRACE_CONTEXT: Key<bool> = Key { name: "trace-context", of_reuse: false, read: value::boolean };
/// Whether a trap leaves a core dump.
pub const COREDUMP: Key<bool> = Key { name: "coredump", of_reuse: false, read: value::boolean };

/// All annotations of pods.
const PODS: [&dyn Checked; 11] = [
    &INSTANCES,
    &MAX_INSTANCE_REQUESTS,
    &MAX_INSTANCE_AGE,
    &MAX_INSTANCE_IDLE,
    &MIN_INSTANCES,
    &REQUEST_TIMEOUT,
    &MAX_CONCURRENT_REQUESTS,
    &MAX_QUEUED_REQUESTS,
    &ACCESS_LOG,
    &TRACE_CONTEXT,
    &COREDUMP,
];

/// A [`Key`], whatever its value is.
trait Checked: Sync {
    fn name(&self) -> &'static str;
    fn of_reuse(&self) -> bool;
    fn check(&self, value: &str) -> Result<(), String>;
}

impl<T> Checked for Key<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn of_reuse(&self) -> bool {
        self.of_reuse
    }

    fn check(&self, value: &str) -> Result<(), String> {
        (self.read)(value).map(drop)
    }
}

/// An annotation that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The whole name, `sampan.dev/KEY` or `CONTAINER.sampan.dev/KEY`.
    pub name: String,
    /// What is wrong, and what is right.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "annotation {}: {}", self.name, self.text)
    }
}

/// The annotations of one container.
pub struct OfContainer<'a> {
    /// The name of the container.
    pub container: &'a str,
    /// The value of an annotation of the pod.
    pub value: &'a dyn Fn(&str) -> Option<&'a str>,
}

impl<'a> OfContainer<'a> {
    fn find(&self, key: &str) -> Option<(String, &'a str)> {
        let names = [format!("{}.{DOMAIN}/{key}", self.container), format!("{DOMAIN}/{key}")];
        names.into_iter().find_map(|name| (self.value)(&name).map(|value| (name, value)))
    }

    /// Reads a value: `None` where the annotation is absent.
    ///
    /// # Errors
    /// The value is invalid.
    pub fn read<T>(&self, key: &Key<T>) -> Result<Option<T>, Fault> {
        let Some((name, value)) = self.find(key.name) else { return Ok(None) };
        (key.read)(value).map(Some).map_err(|wanted| invalid(name, value, &wanted))
    }

    /// Whether instances are reused.
    ///
    /// # Errors
    /// The value of [`INSTANCES`] is invalid, or instances are not reused and there is an annotation about reused ones.
    pub fn reuses(&self) -> Result<bool, Fault> {
        let reuses = self.read(&INSTANCES)?.unwrap_or(false);
        if reuses {
            return Ok(true);
        }
        let unused = PODS.iter().filter(|key| key.of_reuse()).find_map(|key| self.find(key.name()));
        unused.map_or(Ok(false), |(name, _)| Err(without_reuse(name)))
    }
}

fn invalid(name: String, value: &str, wanted: &str) -> Fault {
    Fault { name, text: format!("invalid value {:?}: {wanted}", cut(value)) }
}

fn without_reuse(name: String) -> Fault {
    Fault { name, text: format!("means nothing without {DOMAIN}/{}: reuse", INSTANCES.name) }
}

/// What is wrong with the annotations of a pod that has these containers: each fault that the node would find, and names that nobody reads.
/// At most `most` faults.
pub fn faults_of_pod<'a>(
    annotations: impl Iterator<Item = (&'a str, &'a str)>,
    containers: &BTreeSet<&str>,
    most: usize,
) -> Vec<Fault> {
    let ours: Vec<(&str, &str, &str, &str)> = annotations.filter_map(|(name, value)| ours(name, value)).collect();
    let mut faults = BTreeSet::new();
    for &(name, prefix, key, value) in &ours {
        if faults.len() >= most {
            break;
        }
        let container = prefix.strip_suffix(DOMAIN).and_then(|start| start.strip_suffix('.'));
        let fault = match PODS.iter().find(|known| known.name() == key) {
            None => Some(unknown(name, key)),
            Some(_) if container.is_some_and(|container| !containers.contains(container)) => {
                let text = format!("the pod has no container {:?}", cut(container.unwrap_or_default()));
                Some(Fault { name: name.to_owned(), text })
            }
            Some(known) => known.check(value).err().map(|wanted| invalid(name.to_owned(), value, &wanted)),
        };
        faults.extend(fault);
    }
    if ours.iter().any(|(_, _, key, _)| PODS.iter().any(|known| known.of_reuse() && known.name() == *key)) {
        let all: BTreeMap<&str, &str> = ours.iter().map(|(name, _, _, value)| (*name, *value)).collect();
        let value = |name: &str| all.get(name).copied();
        for container in containers {
            if faults.len() >= most {
                break;
            }
            let of = OfContainer { container, value: &value };
            if of.read(&INSTANCES).is_ok_and(|reuses| reuses != Some(true)) {
                let unused = PODS.iter().filter(|key| key.of_reuse()).filter_map(|key| of.find(key.name()));
                faults.extend(unused.map(|(name, _)| without_reuse(name)));
            }
        }
    }
    faults.into_iter().take(most).collect()
}

/// What is wrong with the annotations of an object of this kind that makes pods, beside its pod template: those for pods have no effect there.
/// At most `most` faults.
pub fn faults_of_workload<'a>(
    annotations: impl Iterator<Item = (&'a str, &'a str)>,
    kind: &str,
    template: &str,
    most: usize,
) -> Vec<Fault> {
    let fault = |(name, _, key, value): (&str, &str, &str, &str)| match name {
        SCALE_TO_ZERO_AFTER | SCALED_TO_ZERO if kind != "Deployment" => Some(Fault {
            name: name.to_owned(),
            text: "has no effect here: it means something on a Deployment only".to_owned(),
        }),
        SCALE_TO_ZERO_AFTER => scale_to_zero_after(value).err(),
        SCALED_TO_ZERO => None,
        _ if PODS.iter().any(|known| known.name() == key) => {
            let text = format!("has no effect here: what pods read is in {template}.metadata.annotations");
            Some(Fault { name: name.to_owned(), text })
        }
        _ if kind == "Deployment" && key.starts_with("scale") => {
            let text = format!("unknown annotation; did you mean {SCALE_TO_ZERO_AFTER}?");
            Some(Fault { name: name.to_owned(), text })
        }
        _ => Some(unknown(name, key)),
    };
    annotations.filter_map(|(name, value)| ours(name, value)).filter_map(fault).take(most).collect()
}

/// What is wrong with the annotations of a Service. At most `most` faults.
pub fn faults_of_service<'a>(annotations: impl Iterator<Item = (&'a str, &'a str)>, most: usize) -> Vec<Fault> {
    let fault = |(name, _, key, value): (&str, &str, &str, &str)| {
        if name == CROSS_SITE {
            let wanted = format!("must be {CROSS_SITE_ALLOW}");
            return (value != CROSS_SITE_ALLOW).then(|| invalid(name.to_owned(), value, &wanted));
        }
        let text = match PODS.iter().any(|known| known.name() == key) {
            true => "has no effect here: pods read it".to_owned(),
            false => format!("unknown annotation; of Services {CROSS_SITE} is known"),
        };
        Some(Fault { name: name.to_owned(), text })
    };
    annotations.filter_map(|(name, value)| ours(name, value)).filter_map(fault).take(most).collect()
}

/// The name, prefix, key and value of an annotation of our domain.
fn ours<'a>(name: &'a str, value: &'a str) -> Option<(&'a str, &'a str, &'a str, &'a str)> {
    let (prefix, key) = name.split_once('/')?;
    let start = prefix.strip_suffix(DOMAIN)?;
    (start.is_empty() || start.ends_with('.')).then_some((name, prefix, key, value))
}

/// A name that nobody reads, with the nearest one that is read, or all of them.
fn unknown(name: &str, key: &str) -> Fault {
    let prefix = name.split_once('/').map_or(DOMAIN, |(prefix, _)| prefix);
    let known = || PODS.iter().map(|known| known.name());
    let lower = cut(key).to_lowercase().replace('_', "-");
    let distance = |known: &str| strsim::damerau_levenshtein(known, &lower);
    let near = known().map(|known| (distance(known), known)).min().filter(|(distance, _)| *distance <= lower.len() / 3);
    let advice = match near {
        _ if name == CROSS_SITE => "it means something on a Service only".to_owned(),
        _ if name == SCALE_TO_ZERO_AFTER => "it means something on a Deployment only".to_owned(),
        Some((_, near)) => format!("did you mean {}/{near}?", cut(prefix)),
        None => format!("known are {}", known().collect::<Vec<_>>().join(", ")),
    };
    Fault { name: name.to_owned(), text: format!("unknown annotation; {advice}") }
}

/// The beginning of a text that a client sent.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(SHOWN)]
}

#[cfg(test)]
mod tests;
