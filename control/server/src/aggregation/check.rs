//! Whether the server of a group version answers: the last one of upstream's checks of availability. The controller that makes the conditions
//! has no way to Services and no front proxy's certificate; so it asks here, at a path of its own.

use super::registration::{Registration, Remote};
use crate::{Server, reply};
use api::Status;
use axum::body::Body;
use futures::future;
use http::{Response, StatusCode};

/// The paths of checks; the name of a registration follows.
pub(crate) const PATH: &str = "/aggregator/checks/";

/// How often a server is asked at the same time: one answer will do, for one of several replicas may be broken.
const ATTEMPTS: usize = 5;

/// Asks the server of a registration for its discovery document.
///
/// # Errors
/// 404: nothing with this name is served elsewhere. 503, with upstream's text: it does not answer as it must.
pub(crate) async fn answer(server: &Server, name: &str) -> Result<Response<Body>, Status> {
    let registered = server.remotes().map(|remotes| remotes.registered(server));
    let found = registered.and_then(|all| all.all().iter().find(|one| one.name() == name).cloned());
    let Some((registration, remote)) = found.as_ref().and_then(|one| Some((one, one.remote.as_ref()?))) else {
        return Err(Status::resource_not_found());
    };
    let attempts = (0..ATTEMPTS).map(|_| Box::pin(attempt(server, registration, remote)));
    match future::select_ok(attempts).await {
        Ok(_) => Ok(reply::text(StatusCode::OK, "ok")),
        Err(error) => Err(Status::unavailable(error)),
    }
}

async fn attempt(server: &Server, registration: &Registration, remote: &Remote) -> Result<(), String> {
    let remotes = server.remotes().ok_or("nothing is served elsewhere")?;
    let to = remotes.address(server, remote)?;
    let path = match registration.group.as_str() {
        "" => format!("/api/{}", registration.version),
        group => format!("/apis/{group}/{}", registration.version),
    };
    let url = format!("https://{to}{path}");
    let failed = |error: String| format!("failing or missing response from {url}: {error}");
    let answer = remotes.get(server, remote, &path, "*/*").await;
    let answer = answer.map_err(|error| failed(format!("Get {url:?}: {error}")))?;
    match answer.code.as_u16() {
        200..300 => Ok(()),
        code => Err(failed(format!("bad status from {url}: {code}"))),
    }
}
