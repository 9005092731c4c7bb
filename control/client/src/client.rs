//! The one seam through which components reach the API.

use crate::{
    Cached, DeleteOptions, Error, Key, Kind, ListOptions, Patch, Result, Target, Undecodable, cached, decode as typed,
    gate,
    paths::{escape, path},
    watch,
};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

const JSON: &str = "application/json";

/// A list and its metadata.
#[derive(Clone, Debug)]
pub struct List<K> {
    /// The objects.
    pub items: Vec<K>,
    /// Objects that cannot be decoded. They are not among `items`.
    pub undecodable: Vec<Undecodable>,
    /// The resourceVersion of the list.
    pub resource_version: String,
    /// Token of the next page, or empty.
    pub continue_token: String,
}

/// The one seam through which components reach the API. Cheap to clone. Typed: a round trip of a whole object would lose fields that the type
/// does not know, so prefer patches for objects that others own.
#[derive(Clone)]
pub struct Client {
    inner: kube::Client,
    agent: Option<HeaderValue>,
}

impl Client {
    /// Over any kube client: in process, over TLS, or a fake.
    pub fn new(inner: kube::Client) -> Self {
        Self { inner, agent: None }
    }

    /// With a `User-Agent`, which names the owner of the fields that it writes (upstream's component names: `kubelet`, …).
    pub fn named(mut self, agent: &'static str) -> Self {
        self.agent = Some(HeaderValue::from_static(agent));
        self
    }

    /// The kube client below.
    pub fn kube(&self) -> &kube::Client {
        &self.inner
    }

    /// Reads an object.
    pub async fn get<K: Kind>(&self, namespace: &str, name: &str) -> Result<K> {
        decode_object(&self.call(Method::GET, &path::<K>(namespace, name, ""), None).await?)
    }

    /// Reads an object that may be absent.
    pub async fn find<K: Kind>(&self, namespace: &str, name: &str) -> Result<Option<K>> {
        match self.get(namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads an object at a path, for kinds that are known only at run time; it may be absent.
    pub async fn find_at<K: Cached>(&self, path: &str) -> Result<Option<K>> {
        let body = match self.raw_as(K::ACCEPT.0, Method::GET, path, None).await {
            Ok(body) => body,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let body = std::str::from_utf8(&body).map_err(|e| Error::Decode(e.to_string()))?;
        K::read(body).map(Some).map_err(|error| Error::Decode(format!("{path}: {error}")))
    }

    /// Lists objects; an empty namespace is all of them. An object that cannot be decoded does not affect the others.
    pub async fn list<K: Kind>(&self, namespace: &str, options: &ListOptions) -> Result<List<K>> {
        self.list_at(&path::<K>(namespace, "", ""), options).await
    }

    /// Lists the objects of a target.
    pub async fn list_target<K: Cached>(&self, target: &Target) -> Result<List<K>> {
        decode_list(&self.list_body(target, K::ACCEPT.1).await?)
    }

    async fn list_at<K: Cached>(&self, path: &str, options: &ListOptions) -> Result<List<K>> {
        decode_list(&self.list_bytes(path, K::ACCEPT.1, options).await?)
    }

    /// The list of the objects of a target, for [`decode_list`].
    pub(crate) async fn list_body(&self, target: &Target, accept: &'static str) -> Result<Bytes> {
        self.list_bytes(&target.path(), accept, &target.options()).await
    }

    async fn list_bytes(&self, path: &str, accept: &'static str, options: &ListOptions) -> Result<Bytes> {
        self.raw_as(accept, Method::GET, &format!("{path}{}", options.query(false)), None).await
    }

    /// Watches the objects of a target from a revision, for [`watch::decode`]. The lines end when the server closes the watch.
    pub(crate) async fn watch_lines(
        &self,
        target: &Target,
        accept: &'static str,
        resource_version: String,
    ) -> Result<watch::Lines> {
        let options = ListOptions { resource_version, ..target.options() };
        let url = format!("{}{}", target.path(), options.query(true));
        let response = self.send(accept, Method::GET, &url, None).await?;
        Ok(watch::Lines::new(response.into_body()))
    }

    /// Creates an object in its namespace.
    pub async fn create<K: Kind>(&self, object: &K) -> Result<K> {
        let url = path::<K>(object.metadata().namespace.as_deref().unwrap_or_default(), "", "");
        self.write(Method::POST, &url, json(encode_object(object)?)).await
    }

    /// Creates an object whose stored form the caller does not need: the answer is not decoded.
    pub async fn submit<K: Kind>(&self, object: &K) -> Result<()> {
        let url = path::<K>(object.metadata().namespace.as_deref().unwrap_or_default(), "", "");
        self.call(Method::POST, &url, json(encode_object(object)?)).await.map(drop)
    }

    /// Replaces an object; its `resourceVersion`, if set, must be current.
    pub async fn update<K: Kind>(&self, object: &K) -> Result<K> {
        self.write(Method::PUT, &own_path(object, ""), json(encode_object(object)?)).await
    }

    /// Replaces an object's status.
    pub async fn update_status<K: Kind>(&self, object: &K) -> Result<K> {
        self.write(Method::PUT, &own_path(object, "status"), json(encode_object(object)?)).await
    }

    /// Patches an object.
    pub async fn patch<K: Kind>(&self, namespace: &str, name: &str, patch: Patch) -> Result<K> {
        self.patch_at(&path::<K>(namespace, name, ""), patch).await
    }

    /// Patches an object's status.
    pub async fn patch_status<K: Kind>(&self, namespace: &str, name: &str, patch: Patch) -> Result<K> {
        self.patch_at(&path::<K>(namespace, name, "status"), patch).await
    }

    /// Patches an object's status; the answer is not decoded.
    pub async fn submit_status<K: Kind>(&self, namespace: &str, name: &str, patch: Patch) -> Result<()> {
        let (kind, body, url) = patch_request(&path::<K>(namespace, name, "status"), patch)?;
        self.call(Method::PATCH, &url, Some((kind, body))).await.map(drop)
    }

    /// Deletes an object; an absent one is no error. A failed precondition is a conflict.
    pub async fn delete<K: Kind>(&self, namespace: &str, name: &str, options: &DeleteOptions) -> Result<()> {
        match self.call(Method::DELETE, &path::<K>(namespace, name, ""), json(encode(options)?)).await {
            Ok(_) => {
                gate::deleted::<K>(
                    Key::new(namespace, name),
                    options.preconditions.as_ref().and_then(|p| p.uid.clone()),
                );
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes to a subresource (`binding`, `token`, `finalize`) and decodes the response.
    pub async fn subresource<K: Kind, B: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        (namespace, name, subresource): (&str, &str, &str),
        body: &B,
    ) -> Result<A> {
        decode(&self.call(method, &path::<K>(namespace, name, subresource), json(encode(body)?)).await?)
    }

    /// Any request by path and query, for kinds that are known only at run time.
    pub async fn raw(&self, method: Method, url: &str, body: Option<(&str, Vec<u8>)>) -> Result<Bytes> {
        self.call(method, url, body).await
    }

    /// As [`Client::raw`], with an `Accept` header.
    pub async fn raw_as(
        &self,
        accept: &'static str,
        method: Method,
        url: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<Bytes> {
        let response = self.send(accept, method, url, body).await?;
        Ok(response.into_body().collect().await.map_err(|e| Error::Transport(e.to_string()))?.to_bytes())
    }

    async fn patch_at<K: Kind>(&self, path: &str, patch: Patch) -> Result<K> {
        let (kind, body, url) = patch_request(path, patch)?;
        self.write(Method::PATCH, &url, Some((kind, body))).await
    }

    async fn write<K: Kind>(&self, method: Method, url: &str, body: Option<(&str, Vec<u8>)>) -> Result<K> {
        let object: K = decode_object(&self.call(method, url, body).await?)?;
        gate::wrote(&object);
        Ok(object)
    }

    async fn call(&self, method: Method, url: &str, body: Option<(&str, Vec<u8>)>) -> Result<Bytes> {
        self.raw_as(JSON, method, url, body).await
    }

    async fn send(
        &self,
        accept: &'static str,
        method: Method,
        url: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<Response<Body>> {
        let mut request = Request::builder().method(method).uri(url).header(header::ACCEPT, accept);
        if let Some(agent) = &self.agent {
            request = request.header(header::USER_AGENT, agent);
        }
        let body = match body {
            Some((kind, bytes)) => {
                request = request.header(header::CONTENT_TYPE, kind);
                Body::from(bytes)
            }
            None => Body::empty(),
        };
        let request = request.body(body).map_err(|e| Error::Decode(e.to_string()))?;
        let response = self.inner.send(request).await.map_err(|e| Error::Transport(e.to_string()))?;
        let code = response.status().as_u16();
        if code < 400 {
            return Ok(response);
        }
        let body = response.into_body().collect().await.map_err(|e| Error::Transport(e.to_string()))?.to_bytes();
        Err(Error::from_response(code, &body))
    }
}

/// Content type, body and URL of a patch.
fn patch_request(path: &str, patch: Patch) -> Result<(&'static str, Vec<u8>, String)> {
    let (kind, body, query) = match patch {
        Patch::Merge(v) => ("application/merge-patch+json", v, String::new()),
        Patch::Strategic(v) => ("application/strategic-merge-patch+json", v, String::new()),
        Patch::Json(v) => ("application/json-patch+json", v, String::new()),
        Patch::Apply { config, manager, force } => {
            ("application/apply-patch+yaml", config, format!("?fieldManager={}&force={force}", escape(&manager)))
        }
    };
    Ok((kind, encode(&body)?, format!("{path}{query}")))
}

fn own_path<K: Kind>(object: &K, subresource: &str) -> String {
    let meta = object.metadata();
    path::<K>(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default(), subresource)
}

fn json(body: Vec<u8>) -> Option<(&'static str, Vec<u8>)> {
    Some((JSON, body))
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::Decode(e.to_string()))
}

fn encode_object<K: Kind>(object: &K) -> Result<Vec<u8>> {
    object.to_json().map_err(|e| Error::Decode(e.to_string()))
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|e| Error::Decode(e.to_string()))
}

fn decode_object<K: Kind>(body: &[u8]) -> Result<K> {
    let body = std::str::from_utf8(body).map_err(|e| Error::Decode(e.to_string()))?;
    typed::object(body).map_err(Error::Decode)
}

/// Decodes a list item by item.
pub(crate) fn decode_list<K: Cached>(body: &[u8]) -> Result<List<K>> {
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Meta {
        resource_version: String,
        r#continue: String,
    }
    #[derive(Deserialize)]
    struct Wire<'a> {
        metadata: Meta,
        #[serde(borrow)]
        items: Vec<&'a RawValue>,
    }
    let list: Wire<'_> = serde_json::from_slice(body).map_err(|e| Error::Decode(e.to_string()))?;
    let (mut items, mut undecodable) = (Vec::with_capacity(list.items.len()), Vec::new());
    for raw in list.items {
        match cached::item(raw.get()) {
            Ok(item) => items.push(item),
            Err(bad) => undecodable.push(bad),
        }
    }
    Ok(List {
        items,
        undecodable,
        resource_version: list.metadata.resource_version,
        continue_token: list.metadata.r#continue,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    #[test]
    fn a_list_is_read_item_by_item() {
        let text = br#"{"kind":"PodList","metadata":{"resourceVersion":"5"},"items":[{"metadata":{"name":"a"}},
            {"metadata":{"name":"b","namespace":"n","creationTimestamp":"-001-12-31T00:01:00Z"}}, {"metadata":{"name":"c"}}]}"#;
        let list = decode_list::<Pod>(text).expect("a list");
        let names: Vec<_> = list.items.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
        assert_eq!((names.as_slice(), list.resource_version.as_str()), (["a", "c"].as_slice(), "5"));
        let bad: Vec<_> = list.undecodable.iter().map(|bad| bad.key.to_string()).collect();
        assert_eq!(bad, ["n/b"]);
    }
}
