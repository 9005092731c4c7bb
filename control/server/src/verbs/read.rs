//! GET and LIST. Neither parses JSON unless a selector, a table or YAML asks for it. Follows "Kubernetes API Concepts": resource
//! versions, chunked lists, consistent reads.

use super::{
    answer,
    list::{List, Page},
    protobuf,
};
use crate::{
    Resource, Server,
    call::Call,
    codec, limits,
    negotiate::{Media, Offers},
    payload::{self, Item},
    reply,
    request::Query,
    select::{Filter, identity},
    table::{IncludeObject, Representation},
};
use api::{Cause, FieldPath, GroupVersionKind, Reason, Status, invalid};
use axum::body::Body;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use store::{Entry, Error, Revision, Snapshot};

/// How long a read waits for a revision in the future.
const REVISION_TIMEOUT: Duration = Duration::from_secs(3);

/// GET of one object.
pub(super) async fn get(server: &Server, call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Resource(&resource.names))?;
    if let Some(revision) = call.query.get("resourceVersion") {
        not_older_than(server, parse_revision(revision)?).await?;
    }
    match server.store().get(&resource.key(&call.info.namespace, &call.info.name)) {
        Some(entry) => {
            payload::convert(&resource, [&entry.payload]).await?;
            let view = entry.payload.view(&resource);
            let room = server.limits().reserve_response_memory(view.length())?;
            Ok(limits::hold_memory_until_sent(answer(server, &call, StatusCode::OK, output, &resource, view)?, room))
        }
        None => Err(Status::not_found(&resource.gvr, &call.info.name)),
    }
}

/// Reads the resourceVersion parameter of a get or a watch. To upstream one that is not a number is an error of the server.
pub(super) fn parse_revision(text: &str) -> Result<Revision, Status> {
    codec::parse_uint(text)
        .map_err(|why| Status::new(Reason::Unknown, format!("resourceVersion: Invalid value: {text:?}: {why}")))
}

/// Reads the resourceVersion parameter of a list.
fn parse_list_revision(text: &str) -> Result<Revision, Status> {
    parse_revision(text).map_err(|status| Status::bad_request(format!("invalid resource version: {}", status.message)))
}

/// Waits until the store has reached a revision, or answers 504.
pub(super) async fn not_older_than(server: &Server, revision: Revision) -> Result<(), Status> {
    let store = server.store();
    if store.revision() >= revision {
        return Ok(());
    }
    match tokio::time::timeout(REVISION_TIMEOUT, store.wait_for(revision)).await {
        Ok(Ok(())) => Ok(()),
        _ => {
            let text = format!("Too large resource version: {revision}, current: {}", store.revision());
            Err(Status::timeout(&text, 1).with_cause("ResourceVersionTooLarge", "Too large resource version", ""))
        }
    }
}

/// The status for an error of the store.
pub(super) fn store_error(error: Error<Item>) -> Status {
    match error {
        Error::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        Error::ReadOnly { .. } | Error::Full { .. } | Error::Unknown { .. } | Error::Closed => {
            Status::unavailable(error.to_string())
        }
        other => Status::internal(other),
    }
}

#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

fn encode_token(revision: i64, start: &str) -> String {
    let token = Token { v: "meta.k8s.io/v1".into(), rv: revision, start: start.into() };
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("a token is plain data"))
}

fn decode_token(text: &str) -> Result<Token, Status> {
    let refuse = |why: String| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|e| refuse(e.to_string()))?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string()))?;
    match token.v.as_str() {
        "meta.k8s.io/v1" if token.rv == 0 => {
            Err(refuse("incorrect encoded start resourceVersion (version meta.k8s.io/v1)".into()))
        }
        "meta.k8s.io/v1" if token.start.is_empty() => {
            Err(refuse("encoded start key empty (version meta.k8s.io/v1)".into()))
        }
        "meta.k8s.io/v1" if !is_clean(&token.start) => Err(refuse(token.start)),
        "meta.k8s.io/v1" => Ok(token),
        other => Err(refuse(format!("server does not recognize this encoded version {other}"))),
    }
}

/// Whether Go's `path.Clean` leaves a start key as it is, so that the key cannot lead out of the prefix that it is appended to.
fn is_clean(start: &str) -> bool {
    let key = start.strip_prefix('/').unwrap_or(start);
    !key.is_empty() && key.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Refuses invalid `ListOptions` as upstream: first malformed numbers, then the violations of `ValidateListOptions`.
pub(super) fn validate_options(query: &Query, watch: bool) -> Result<(), Status> {
    query.number("timeoutSeconds")?;
    query.number("limit")?;
    let mut causes = Vec::new();
    let matching = FieldPath::new("resourceVersionMatch");
    let initial = FieldPath::new("sendInitialEvents");
    let revision = query.get("resourceVersion");
    let given = query.get("resourceVersionMatch");
    let sends = query.given("sendInitialEvents").is_some();
    if watch && sends && given != Some("NotOlderThan") {
        causes.push(Cause::forbidden(
            &matching,
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    match (watch, given) {
        (true, Some(m)) => {
            if !sends {
                causes.push(Cause::forbidden(
                    &matching,
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
            if m != "NotOlderThan" {
                causes.push(Cause::not_supported(&matching, &json!(m), &["NotOlderThan"]));
            }
            if query.get("continue").is_some() {
                causes.push(Cause::forbidden(&matching, "resourceVersionMatch is forbidden when continue is provided"));
            }
        }
        (false, Some(m)) => {
            if revision.is_none() {
                causes.push(Cause::forbidden(
                    &matching,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if query.get("continue").is_some() {
                causes.push(Cause::forbidden(&matching, "resourceVersionMatch is forbidden when continue is provided"));
            }
            if m != "Exact" && m != "NotOlderThan" {
                causes.push(Cause::not_supported(&matching, &json!(m), &["Exact", "NotOlderThan", ""]));
            }
            if m == "Exact" && revision == Some("0") {
                causes.push(Cause::forbidden(
                    &matching,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
        _ => {}
    }
    if !watch && sends {
        causes.push(Cause::forbidden(&initial, "sendInitialEvents is forbidden for list"));
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(invalid(&GroupVersionKind::new("meta.k8s.io", "v1", "ListOptions"), "", &causes))
    }
}

/// The prefix of the keys of a collection.
pub(super) fn prefix(call: &Call, resource: &Resource) -> String {
    match call.info.namespace.as_str() {
        namespace if resource.namespaced && !namespace.is_empty() => format!("{}{namespace}/", resource.prefix()),
        _ => resource.prefix(),
    }
}

/// The entries that the query selects. `pages`: the list is paginated although the query gives no limit, as upstream's list for
/// deletecollection is; its resourceVersion is then an exact one.
pub(super) async fn page(
    server: &Server,
    call: &Call,
    resource: &Resource,
    filter: &Filter,
    pages: bool,
) -> Result<Page, Status> {
    let prefix = prefix(call, resource);
    let limit = call.query.number("limit")?.map_or(0, |limit| usize::try_from(limit).unwrap_or(0));
    let (snapshot, start) = match call.query.get("continue") {
        Some(token) => resume(server, call, &prefix, token).await?,
        None => (at_revision(server, call, limit > 0 || pages).await?, None),
    };
    let mut page = Page { revision: snapshot.revision(), entries: Vec::new(), next: None, remaining: None };
    if let (Some(name), true) = (filter.name(), !resource.namespaced || prefix.len() > resource.prefix().len()) {
        let entry = snapshot.get(&format!("{prefix}{name}")).cloned();
        payload::convert(resource, entry.iter().map(|e| &e.payload)).await?;
        page.entries.extend(entry.filter(|e| selects(filter, resource, e)));
        return Ok(page);
    }
    if !filter.is_empty() {
        payload::convert(resource, snapshot.range(&prefix, start.as_deref()).map(|e| &e.payload)).await?;
    }
    for entry in snapshot.range(&prefix, start.as_deref()) {
        if !selects(filter, resource, entry) {
            continue;
        }
        if limit > 0 && page.entries.len() == limit {
            let last = &page.entries[limit - 1].key;
            page.next = Some(encode_token(
                i64::try_from(snapshot.revision()).unwrap_or(i64::MAX),
                &format!("{}\0", &last[prefix.len()..]),
            ));
            page.remaining = filter.is_empty().then(|| snapshot.count_after(&prefix, last));
            break;
        }
        page.entries.push(entry.clone());
    }
    payload::convert(resource, page.entries.iter().map(|e| &e.payload)).await?;
    Ok(page)
}

/// Whether a list may contain an entry. Bytes that another program wrote or that the disk damaged would make the whole list unreadable, for
/// every client: such an entry is left out, logged and counted.
pub(super) fn readable(server: &Server, entry: &Entry<Item>) -> bool {
    let whole = entry.payload.is_intact();
    if !whole {
        server.metrics().unreadable.inc();
        let (key, revision) = (&entry.key, entry.revision);
        tracing::error!(%key, revision, "a stored object cannot be read and is left out of lists: delete it and create it anew");
    }
    whole
}

pub(super) fn selects(filter: &Filter, resource: &Resource, entry: &Entry<Item>) -> bool {
    if filter.is_empty() {
        return true;
    }
    let (namespace, name) = identity(resource, &resource.prefix(), &entry.key);
    filter.matches(resource, namespace, name, entry.payload.view(resource))
}

/// The snapshot that `resourceVersion` and `resourceVersionMatch` ask for.
async fn at_revision(server: &Server, call: &Call, paged: bool) -> Result<Snapshot<Item>, Status> {
    let store = server.store();
    let wanted = match call.query.get("resourceVersion") {
        None | Some("0") => return store.snapshot(None).map_err(store_error),
        Some(text) => parse_list_revision(text)?,
    };
    let exact = match call.query.get("resourceVersionMatch") {
        Some(how) => how == "Exact",
        None => paged,
    };
    not_older_than(server, wanted).await?;
    store.snapshot(exact.then_some(wanted)).map_err(store_error)
}

/// Continues a list at its continue token: at the revision of the token, or at the newest for an inconsistent continue.
async fn resume(
    server: &Server,
    call: &Call,
    prefix: &str,
    token: &str,
) -> Result<(Snapshot<Item>, Option<String>), Status> {
    let token = decode_token(token)?;
    if call.query.get("resourceVersion").is_some_and(|v| v != "0") {
        return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
    }
    let start = format!("{prefix}{}", token.start.trim_start_matches('/').trim_end_matches('\0'));
    let at = u64::try_from(token.rv).ok();
    if let Some(revision) = at {
        not_older_than(server, revision).await?;
    }
    match server.store().snapshot(at) {
        Ok(snapshot) => Ok((snapshot, Some(start))),
        Err(Error::Compacted { .. }) => {
            let mut status = Status::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
            );
            status.continue_token = Some(encode_token(-1, &token.start));
            Err(status)
        }
        Err(error) => Err(store_error(error)),
    }
}

/// LIST.
pub(super) async fn list(server: &Server, call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Resource(&resource.names))?;
    validate_options(&call.query, false)?;
    let filter = Filter::parse(&call.query, &resource, None)?;
    let mut page = page(server, &call, &resource, &filter, false).await?;
    page.entries.retain(|entry| readable(server, entry));
    let representation =
        Representation { form: output.form, include: IncludeObject::parse(&call.query)?, now: server.clock().now() };
    if output.media == Media::Protobuf {
        return protobuf::list(server, &resource, representation, page).await;
    }
    let list = List::new(resource, representation, page);
    if output.media == Media::Yaml || output.pretty {
        let room = server.limits().reserve_response_memory(list.estimate())?;
        return Ok(limits::hold_memory_until_sent(reply::json(StatusCode::OK, output, list.into_bytes()), room));
    }
    let mut response = Response::new(Body::new(list));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// 410 for a watch at a revision that is no longer kept.
pub(super) fn too_old(revision: Revision, oldest: Revision) -> Status {
    Status::new(Reason::Expired, format!("too old resource version: {revision} ({oldest})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_bad_ones_are_refused() {
        let token = decode_token(&encode_token(42, "ns/name\0")).expect("a token");
        assert_eq!((token.rv, token.start.as_str()), (42, "ns/name\0"));
        for bad in ["%", "e30", &BASE64_URL_SAFE_NO_PAD.encode(br#"{"v":"v0","rv":1,"start":"a"}"#)] {
            assert_eq!(decode_token(bad).map(|_| ()).expect_err("refused").code, 400);
        }
        for start in ["../x", "a/../../b", "a//b", "a/./b", "a/", "/", ".."] {
            let refused = decode_token(&encode_token(7, start)).map(|_| ()).expect_err(start);
            assert_eq!(refused.message, format!("invalid continue token: continue key is not valid: {start}"));
        }
        assert!(decode_token(&encode_token(7, "..a/b..\0")).is_ok());
    }
}
