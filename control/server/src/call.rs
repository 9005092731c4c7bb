//! One request on its way to a verb: what the chain found out about it.

use crate::{
    User,
    codec::{self, Expected, WriteOptions},
    negotiate::{self, Offers, Output},
    reply,
    request::{Query, RequestInfo},
};
use api::{GroupVersionKind, Object, Status};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, request::Parts};
use parking_lot::Mutex;
use serde_json::Value;
use std::{any::Any, sync::Arc};

/// A request whose caller, permission and target are known.
pub struct Call {
    /// Who asks.
    pub user: Arc<User>,
    /// For what.
    pub info: RequestInfo,
    /// The query parameters.
    pub query: Query,
    /// Method, headers and extensions: an upgraded connection is taken out of the extensions.
    pub parts: Parts,
    /// The body of a request that is not long-running; empty where there is none.
    pub body: Bytes,
    /// The body of a long-running request, which its verb reads as it comes.
    pub stream: Mutex<Body>,
    /// What the request holds of the limits: an upgraded connection keeps it until its end.
    pub(crate) kept: Kept,
}

/// Something to be held by whoever clones this, filled in when the answer is known. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<Option<Box<dyn Any + Send>>>>);

impl Kept {
    pub(crate) fn hold(&self, held: impl Any + Send) {
        *self.0.lock() = Some(Box::new(held));
    }
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

    /// The form of the answer.
    ///
    /// # Errors
    /// 406 for a form that is not offered.
    pub fn output(&self, offers: Offers) -> Result<Output, Status> {
        negotiate::output(self.headers(), &self.query, offers, false)
    }

    /// Decodes the body as an object of `kind`, which may be another one than the resource's, with the options of a create. Answers the
    /// object, the options and warnings.
    ///
    /// # Errors
    /// 400 for a body that is none, 422 for options that there are not.
    pub fn decode(&self, kind: &GroupVersionKind) -> Result<(Object, WriteOptions, Vec<String>), Status> {
        let options = WriteOptions::parse("CreateOptions", &self.query, self.headers(), false)?;
        let decoded = codec::decode(self.headers(), &self.body, &Expected::published(kind))?;
        let mut warnings = Vec::new();
        codec::judge(&decoded, kind, options.field_validation, &mut warnings)?;
        Ok((decoded.object, options, warnings))
    }

    /// The answer to a create: 201, the value, and warnings.
    pub fn created(&self, output: Output, value: &Value, warnings: &[String]) -> Response<Body> {
        let mut response = reply::value(StatusCode::CREATED, output, value);
        codec::add_warnings(response.headers_mut(), warnings);
        response
    }
}
