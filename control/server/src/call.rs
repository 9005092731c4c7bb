//! One request, with what the chain has found out about it.

use crate::{
    User,
    codec::{self, Expected, WriteOptions},
    deadline::Deadline,
    fairness::Seat,
    limits::UserPlace,
    negotiate::{self, Offers, Output},
    notes::Notes,
    reply,
    request::{Query, RequestInfo},
};
use api::{GroupVersionKind, Object, Status};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, request::Parts};
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;

/// A request whose caller, permission and target are known.
pub struct Call {
    /// The user.
    pub user: Arc<User>,
    /// Path and verb.
    pub info: RequestInfo,
    /// The query parameters.
    pub query: Query,
    /// Method, headers and extensions: an upgraded connection is taken out of the extensions.
    pub parts: Parts,
    /// The body of a request that is not long-running; empty where there is none.
    pub body: Bytes,
    /// The body of a long-running request, which its verb reads as a stream.
    pub stream: Mutex<Body>,
    /// What admission notes of it.
    pub notes: Arc<Notes>,
    /// When it is over.
    pub deadline: Deadline,
    /// The place of its user among long-running requests: whoever takes over the connection keeps it.
    pub(crate) place: Option<Arc<UserPlace>>,
    /// The seats of a watch, until it has begun.
    pub(crate) seat: Option<Seat>,
}

impl Call {
    /// `GET` and so on.
    pub fn method(&self) -> &Method {
        &self.parts.method
    }

    /// The headers, without those of impersonation.
    pub fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// Negotiates the representation of the response.
    ///
    /// # Errors
    /// 406: the client accepts none of `offers`.
    pub fn output(&self, offers: Offers<'_>) -> Result<Output, Status> {
        negotiate::output(self.headers(), &self.query, offers, false)
    }

    /// Decodes the body as an object of `kind`, which may differ from the resource's, with the options of a create. Returns the object, the
    /// options and warnings.
    ///
    /// # Errors
    /// 400 for a body that cannot be decoded, 422 for invalid options.
    pub fn decode(&self, kind: &GroupVersionKind) -> Result<(Object, WriteOptions, Vec<String>), Status> {
        let options = WriteOptions::parse("CreateOptions", &self.query, self.headers(), false)?;
        let decoded = codec::decode(self.headers(), &self.body, &Expected::published(kind))?;
        let mut warnings = Vec::new();
        codec::enforce_field_validation(&decoded, kind, options.field_validation, &mut warnings)?;
        Ok((decoded.object, options, warnings))
    }

    /// The response to a create: 201, the value, and warnings.
    pub fn created(&self, output: Output, value: &Value, warnings: &[String]) -> Response<Body> {
        let mut response = reply::value(StatusCode::CREATED, output, value);
        codec::add_warnings(response.headers_mut(), warnings);
        response
    }
}
