//! Errors of API calls, and the cases that callers distinguish.

use api::{Reason, Status, StatusDetails};
use serde::Deserialize;

/// An error of an API call.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The API answered with a Status.
    #[error("{0}")]
    Api(Box<Status>),
    /// No response: connection, TLS, timeout. A retry may help.
    #[error("the API did not answer: {0}")]
    Transport(String),
    /// The response cannot be decoded. A retry does not help.
    #[error("cannot decode the answer: {0}")]
    Decode(String),
}

/// Result of a call.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The Status of the API, if it answered.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Api(status) => Some(status),
            _ => None,
        }
    }

    fn has(&self, reason: Reason) -> bool {
        self.status().is_some_and(|s| s.reason == reason)
    }

    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.has(Reason::NotFound)
    }

    /// The object exists already.
    pub fn is_already_exists(&self) -> bool {
        self.has(Reason::AlreadyExists)
    }

    /// The object has changed, or a precondition failed.
    pub fn is_conflict(&self) -> bool {
        self.has(Reason::Conflict)
    }

    /// The revision is no longer kept: list again.
    pub fn is_expired(&self) -> bool {
        self.has(Reason::Expired) || self.has(Reason::Gone)
    }

    /// Refused by validation.
    pub fn is_invalid(&self) -> bool {
        self.has(Reason::Invalid)
    }

    /// Refused because the namespace is being deleted: a retry does not help.
    pub fn is_namespace_terminating(&self) -> bool {
        self.status()
            .and_then(|s| s.details.as_ref())
            .is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"))
    }

    /// The error for the status code and body of a response.
    pub fn from_response(code: u16, body: &[u8]) -> Self {
        Self::Api(Box::new(parse_status(code, body)))
    }
}

/// Decodes a `metav1.Status`; any other body becomes the message.
pub(crate) fn parse_status(code: u16, body: &[u8]) -> Status {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(default)]
        message: String,
        #[serde(default)]
        reason: String,
        details: Option<StatusDetails>,
        #[serde(default)]
        code: u16,
    }
    match serde_json::from_slice::<Wire>(body) {
        Ok(wire) => {
            let reason = serde_json::from_value(wire.reason.into()).unwrap_or_else(|_| reason_of(code));
            Status {
                code: if wire.code == 0 { code } else { wire.code },
                details: wire.details.map(Box::new),
                ..Status::new(reason, wire.message)
            }
        }
        Err(_) => {
            let text = String::from_utf8_lossy(&body[..body.len().min(1024)]).into_owned();
            Status { code, ..Status::new(reason_of(code), text) }
        }
    }
}

fn reason_of(code: u16) -> Reason {
    match code {
        401 => Reason::Unauthorized,
        403 => Reason::Forbidden,
        404 => Reason::NotFound,
        409 => Reason::Conflict,
        410 => Reason::Gone,
        422 => Reason::Invalid,
        429 => Reason::TooManyRequests,
        503 => Reason::ServiceUnavailable,
        504 => Reason::Timeout,
        _ => Reason::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_round_trip() {
        let pods = api::GroupVersionResource::new("", "v1", "pods");
        let error = Error::from_response(404, &Status::not_found(&pods, "x").to_json());
        assert!(error.is_not_found());
        assert_eq!(error.to_string(), "pods \"x\" not found");
    }

    #[test]
    fn a_plain_body_is_the_message() {
        let error = Error::from_response(404, b"404 page not found\n");
        assert!(error.is_not_found());
        assert_eq!(error.status().map(|s| s.code), Some(404));
    }
}
