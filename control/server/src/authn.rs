//! Authentication: the identity of a component of this process, else a client certificate, else the user that an authenticator finds, else
//! anonymous. An identity never comes from a header or extension that no authenticator has verified.

use crate::{Objects, User, caller::Caller};
use api::Status;
use http::HeaderMap;
use jiff::Timestamp;
use std::sync::Arc;

/// The group of all authenticated users.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The user of requests without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of requests without credentials.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";

/// The input of an authenticator.
pub struct Credentials<'a> {
    /// The headers of the request.
    pub headers: &'a HeaderMap,
    /// The time of the request.
    pub now: Timestamp,
    /// The stored objects.
    pub objects: &'a dyn Objects,
}

/// Verifies one kind of credentials.
#[async_trait::async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// The user, or `None` when the request has no credentials of this kind.
    ///
    /// # Errors
    /// 401 for invalid credentials of this kind. A later authenticator may still accept them.
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Option<User>, Status>;
}

/// The user of a request, or 401 for credentials that no authenticator accepts.
pub(crate) async fn authenticate(
    authenticators: &[Arc<dyn Authenticator>],
    caller: &Caller,
    credentials: &Credentials<'_>,
) -> Result<Arc<User>, Status> {
    let certificate = match caller {
        Caller::Process(user) => return Ok(user.clone()),
        Caller::Network { certificate } => certificate,
    };
    if let Some(user) = certificate {
        return Ok(user.clone());
    }
    let mut refused = None;
    for authenticator in authenticators {
        match authenticator.authenticate(credentials).await {
            Ok(Some(user)) => return Ok(Arc::new(user)),
            Ok(None) => {}
            Err(status) => refused = Some(status),
        }
    }
    refused.map_or_else(|| Ok(Arc::new(User::new(ANONYMOUS, &[UNAUTHENTICATED]))), Err)
}

/// The user of a verified client certificate: common name and organisations.
pub fn user_of_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    groups.push(AUTHENTICATED.into());
    Some(User { name, groups, ..User::default() })
}
