//! What other servers add to discovery. Their documents are asked for when somebody asks this server: at once after a change of their
//! registration, and behind the answer when they are a minute old. So there is no task, and a server that hangs holds up nobody twice.

use super::{
    form::{self, Listed},
    found::{Age, Documents},
    outline::Outline,
    registration::{Registration, Remote},
    remotes::Remotes,
    swagger::Part,
};
use crate::{Server, registry::Registry};
use futures::future::join_all;
use http::{StatusCode, header};
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, timeout};

/// Both forms of aggregated discovery.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
    application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
const JSON: &str = "application/json";

/// How long one server may take for all that it is asked.
const LONGEST: Duration = Duration::from_secs(10);

/// Groups and versions in the order of discovery, with those of other servers.
pub(crate) fn outline(server: &Server, registry: &Registry) -> Outline {
    let own = Outline::new(registry);
    match server.remotes() {
        Some(remotes) => own.with(&remotes.registered(server)),
        None => own,
    }
}

/// The documents of other servers, by group and version.
pub(crate) async fn documents(server: &Server, outline: &Outline) -> HashMap<(String, String), Documents> {
    let all = outline.elsewhere();
    let Some(remotes) = server.remotes().filter(|_| !all.is_empty()) else { return HashMap::new() };
    let found = remotes.found();
    let are = |age: Age| all.iter().filter(move |one| found.age(one) == age).cloned().collect::<Vec<_>>();
    if !are(Age::Unknown).is_empty() {
        let _one = found.asking.lock().await;
        let (at, unknown) = (Instant::now(), are(Age::Unknown));
        found.put(ask(server, remotes, unknown).await, at, &all);
    }
    let old = are(Age::Old);
    if !old.is_empty() && !found.renewing.swap(true, Ordering::AcqRel) {
        let (renewing, all) = (Renewing(server.clone()), all.clone());
        tokio::spawn(async move {
            let Some(remotes) = renewing.0.remotes() else { return };
            let at = Instant::now();
            remotes.found().put(ask(&renewing.0, remotes, old).await, at, &all);
        });
    }
    let known = all.iter().filter_map(|one| Some(((one.group.clone(), one.version.clone()), found.get(one)?)));
    known.collect()
}

/// Whoever asks again for what is old; when it ends in any way, the next one may.
struct Renewing(Server);

impl Drop for Renewing {
    fn drop(&mut self) {
        if let Some(remotes) = self.0.remotes() {
            remotes.found().renewing.store(false, Ordering::Release);
        }
    }
}

/// The parts of other servers in the OpenAPI v2 document, in the order of discovery.
pub(crate) async fn parts(server: &Server, registry: &Registry) -> Vec<Arc<Part>> {
    let outline = outline(server, registry);
    let mut known = documents(server, &outline).await;
    let key = |one: &Arc<Registration>| (one.group.clone(), one.version.clone());
    outline.elsewhere().iter().filter_map(|one| known.remove(&key(one))?.swagger).collect()
}

/// Asks the servers of these registrations, each once, all at the same time.
async fn ask(server: &Server, remotes: &Remotes, of: Vec<Arc<Registration>>) -> Vec<(Arc<Registration>, Documents)> {
    let mut servers: Vec<(Remote, Vec<Arc<Registration>>)> = Vec::new();
    for one in of {
        let Some(remote) = one.remote.clone() else { continue };
        match servers.iter_mut().find(|(known, _)| *known == remote) {
            Some((_, registrations)) => registrations.push(one),
            None => servers.push((remote, vec![one])),
        }
    }
    let asked = servers.into_iter().map(|(remote, of)| async move {
        let in_time = timeout(LONGEST, Box::pin(ask_one(server, remotes, remote, of.clone()))).await;
        in_time.unwrap_or_else(|_| of.into_iter().map(stale).collect())
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// What is said of a registration whose server gives nothing.
fn stale(one: Arc<Registration>) -> (Arc<Registration>, Documents) {
    let version = Arc::new(form::version(&one, None));
    (one, Documents { version, known: false, open_api: None, swagger: None })
}

async fn ask_one(
    server: &Server,
    remotes: &Remotes,
    remote: Remote,
    of: Vec<Arc<Registration>>,
) -> Vec<(Arc<Registration>, Documents)> {
    if !remote.available {
        return of.into_iter().map(stale).collect();
    }
    let get = |path: &'static str, accept| remotes.get(server, &remote, path, accept);
    let (whole, open_api, swagger) =
        tokio::join!(get("/apis", AGGREGATED), get("/openapi/v3", JSON), get("/openapi/v2", JSON));
    let swagger = swagger.ok().filter(|answer| answer.code == StatusCode::OK);
    let urls: Value = open_api
        .ok()
        .filter(|answer| answer.code == StatusCode::OK)
        .and_then(|answer| serde_json::from_slice(&answer.body).ok())
        .unwrap_or_default();
    let is_aggregated = |media: &str| media.contains("as=APIGroupDiscoveryList");
    let mut known: Option<HashMap<(String, String), Vec<Listed>>> = None;
    match whole {
        Ok(answer) if answer.code == StatusCode::OK => {
            let media = answer.headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok());
            if media.is_some_and(is_aggregated) {
                match form::aggregated(&answer.body) {
                    Ok(found) => known = Some(found),
                    Err(_) => return of.into_iter().map(stale).collect(),
                }
            }
        }
        Ok(answer) if answer.code != StatusCode::SERVICE_UNAVAILABLE => {}
        _ => return of.into_iter().map(stale).collect(),
    }
    let mut made = Vec::with_capacity(of.len());
    for one in of {
        let resources = match &mut known {
            Some(known) => Some(known.remove(&(one.group.clone(), one.version.clone())).unwrap_or_default()),
            None => legacy(server, remotes, &remote, &one).await,
        };
        let documents = Documents {
            version: Arc::new(form::version(&one, resources.as_deref())),
            known: resources.is_some(),
            open_api: open_api_of(&urls, &one),
            swagger: swagger.as_ref().and_then(|answer| Part::read(&answer.body, &one)).map(Arc::new),
        };
        made.push((one, documents));
    }
    made
}

/// The resources of a server without aggregated discovery.
async fn legacy(server: &Server, remotes: &Remotes, remote: &Remote, one: &Registration) -> Option<Vec<Listed>> {
    let path = format!("/apis/{}/{}", one.group, one.version);
    let answer = remotes.get(server, remote, &path, JSON).await.ok().filter(|answer| answer.code == StatusCode::OK)?;
    form::legacy(&answer.body, one).ok()
}

/// Where the server has the OpenAPI document of a group version: at the same path as here, for requests are passed on to it.
fn open_api_of(index: &Value, one: &Registration) -> Option<Arc<str>> {
    let path = format!("apis/{}/{}", one.group, one.version);
    let url = index.get("paths")?.get(&path)?.get("serverRelativeURL")?.as_str()?;
    let rest = url.strip_prefix("/openapi/v3/")?.strip_prefix(&path)?;
    let good = rest.is_empty() || (rest.starts_with("?hash=") && rest.len() < 512);
    good.then(|| Arc::from(url))
}
