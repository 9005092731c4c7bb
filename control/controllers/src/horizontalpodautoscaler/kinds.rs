//! Which kinds are served, and their scales: targets are of any kind that has a scale, custom resources too.

use api::annotations::SCALED_TO_ZERO;
use client::{Client, Patch, discovery, discovery::Resource};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;

/// How long what was found is believed.
const FRESH: SignedDuration = SignedDuration::from_secs(60);
/// How long it is believed that something is not there.
const FRESH_ABSENCE: SignedDuration = SignedDuration::from_secs(10);

/// What discovery told of late.
pub(super) struct Kinds {
    client: Client,
    clock: api::Clock,
    known: Mutex<Option<(Timestamp, Arc<Vec<Resource>>)>>,
}

/// The scale of a target.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    /// `spec.replicas`.
    pub wanted: i32,
    /// `status.replicas`.
    pub observed: i32,
    /// `status.selector`.
    pub selector: String,
    path: String,
    whole: Value,
}

impl Scale {
    fn read(path: String, whole: Value) -> Self {
        let count = |at: &Value| at.as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
        let (wanted, observed) = (count(&whole["spec"]["replicas"]), count(&whole["status"]["replicas"]));
        let selector = whole["status"]["selector"].as_str().unwrap_or_default().to_owned();
        Self { wanted, observed, selector, path, whole }
    }
}

impl Kinds {
    pub(super) fn new(client: Client, clock: api::Clock) -> Self {
        Self { client, clock, known: Mutex::new(None) }
    }

    async fn all(&self, believed: SignedDuration) -> Result<Arc<Vec<Resource>>, client::Error> {
        let now = self.clock.now();
        let known = self.known.lock().clone();
        if let Some((_, all)) = known.filter(|(at, _)| now.duration_since(*at) < believed) {
            return Ok(all);
        }
        let all = Arc::new(discovery::resources(&self.client).await?.resources);
        *self.known.lock() = Some((now, all.clone()));
        Ok(all)
    }

    async fn find(&self, wanted: impl Fn(&Resource) -> bool) -> Result<Vec<Resource>, client::Error> {
        for believed in [FRESH, FRESH_ABSENCE] {
            let all = self.all(believed).await?;
            let found: Vec<Resource> = all.iter().filter(|r| wanted(r)).cloned().collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// The resources of a kind; one at least.
    ///
    /// # Errors
    /// Upstream's text.
    pub(super) async fn of(&self, group: &str, kind: &str) -> Result<Vec<Resource>, String> {
        let found = self.find(|r| r.group == group && r.kind == kind).await.map_err(|error| error.to_string())?;
        if found.is_empty() { Err(format!("no matches for kind {kind:?} in group {group:?}")) } else { Ok(found) }
    }

    /// The first of the versions in which a group is served.
    pub(super) async fn version(&self, group: &str, versions: &[&'static str]) -> Option<&'static str> {
        let found = self.find(|r| r.group == group).await.unwrap_or_default();
        let served =
            |version: &&&str| found.iter().any(|r| r.api_versions().any(|v| v == format!("{group}/{version}")));
        versions.iter().find(served).copied()
    }

    /// Reads the scale of an object.
    ///
    /// # Errors
    /// Upstream's text.
    pub(super) async fn scale(&self, group: &str, kind: &str, namespace: &str, name: &str) -> Result<Scale, String> {
        let mut first = None;
        for resource in self.of(group, kind).await? {
            let path = format!("{}/scale", resource.path(namespace, name));
            match self.read(&path).await {
                Ok(scale) => return Ok(scale),
                Err(error) => first = first.or(Some(error.to_string())),
            }
        }
        Err(first.unwrap_or_else(|| "unrecognized resource".to_owned()))
    }

    async fn read(&self, path: &str) -> Result<Scale, client::Error> {
        let body = self.client.raw(Method::GET, path, None).await?;
        let whole = serde_json::from_slice(&body).map_err(|error| client::Error::Decode(error.to_string()))?;
        Ok(Scale::read(path.to_owned(), whole))
    }

    /// Writes zero replicas of a Deployment together with the mark that it is idle, so that a request wakes it (`scaletozero`). It wakes with
    /// one.
    ///
    /// # Errors
    /// It is refused.
    pub(super) async fn put_to_sleep(&self, namespace: &str, name: &str) -> Result<(), client::Error> {
        let patch = json!({"metadata": {"annotations": {SCALED_TO_ZERO: "1"}}, "spec": {"replicas": 0}});
        self.client.patch::<Deployment>(namespace, name, Patch::Merge(patch)).await.map(drop)
    }

    /// Writes the wanted replicas. A scale that has changed meanwhile is read again, a few times.
    ///
    /// # Errors
    /// It is refused, or changes all the time.
    pub(super) async fn rescale(&self, mut scale: Scale, replicas: i32) -> Result<(), client::Error> {
        const TRIES: usize = 5;
        let mut tries = 0;
        loop {
            scale.whole["spec"]["replicas"] = replicas.into();
            let body = serde_json::to_vec(&scale.whole).map_err(|error| client::Error::Decode(error.to_string()))?;
            match self.client.raw(Method::PUT, &scale.path, Some(("application/json", body))).await {
                Ok(_) => return Ok(()),
                Err(error) if !error.is_conflict() || tries + 1 == TRIES => return Err(error),
                Err(_) => tries += 1,
            }
            scale = self.read(&scale.path).await?;
        }
    }
}
