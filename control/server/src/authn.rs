//! Authentication: the identity of a part of this process, else a client certificate, else a bearer token, else anonymous. An identity
//! never comes from a header or an extension of the network.

use crate::{
    User,
    server::{Caller, Server},
};
use api::Status;
use http::{HeaderMap, header};
use std::sync::Arc;

/// The group of everybody who has an identity.
pub const AUTHENTICATED: &str = "system:authenticated";

/// Who asks, or 401 for a credential that is not valid.
pub(crate) fn authenticate(server: &Server, caller: &Caller, headers: &HeaderMap) -> Result<Arc<User>, Status> {
    let certificate = match caller {
        Caller::Process(user) => return Ok(user.clone()),
        Caller::Network { certificate } => certificate,
    };
    if let Some(user) = certificate {
        return Ok(user.clone());
    }
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(anonymous()) };
    let text = value.to_str().map_err(|_| Status::unauthorized())?;
    let token = match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => return Err(Status::unauthorized()),
    };
    let user = server.0.tokens.authenticate(token, server.0.clock.now(), server);
    user.map(Arc::new).ok_or_else(Status::unauthorized)
}

fn anonymous() -> Arc<User> {
    Arc::new(User::new("system:anonymous", &["system:unauthenticated"]))
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
