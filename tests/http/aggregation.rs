//! Group versions that another API server serves: a TLS server on loopback, to which the test's dialer leads whoever calls the Service.

use crate::{connections::Network, *};
use axum::{Router, extract::Request as AxumRequest, response::IntoResponse};
use http_body_util::StreamBody;
use hyper::{service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use server::{
    dialer::{Dialer, Stream},
    pki::{self, Names, Pair, Validity},
};
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{OnceLock, atomic::AtomicUsize},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tower::ServiceExt;

const REGISTERED: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const THINGS: &str = "/apis/example.com/v1/namespaces/default/things";

/// The other server.
struct Other {
    authority: Pair,
    /// Its port on loopback, once it listens.
    port: OnceLock<u16>,
    /// What it says at `/apis`; 404 without.
    discovery: Mutex<Option<Value>>,
    /// How often it was asked for that.
    asked: AtomicUsize,
    /// Lets a watch go on.
    go_on: Notify,
}

/// Leads the addresses of Services to the other server.
struct Way(Arc<Other>);

#[async_trait::async_trait]
impl Dialer for Way {
    async fn connect(&self, to: SocketAddr) -> io::Result<Stream> {
        assert!(to.ip().to_string().starts_with("10.96."), "{to} is an address of a Service");
        match self.0.port.get() {
            Some(port) => Ok(Box::new(TcpStream::connect(("127.0.0.1", *port)).await?)),
            None => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused")),
        }
    }
}

impl Other {
    fn new() -> Arc<Self> {
        let authority = pki::authority("other", validity()).unwrap();
        Arc::new(Self {
            authority,
            port: OnceLock::new(),
            discovery: Mutex::default(),
            asked: AtomicUsize::new(0),
            go_on: Notify::new(),
        })
    }

    /// Listens, for clients with a certificate of this authority alone.
    async fn listen(self: &Arc<Self>, front_proxy: &str) {
        let names = Names { dns: vec!["other.default.svc".to_owned()], addresses: Vec::new() };
        let pair = pki::server(&self.authority, "other", &names, validity()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(front_proxy.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
            )
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.port.set(listener.local_addr().unwrap().port()).unwrap();
        let other = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, other) = (acceptor.clone(), other.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let router = Router::new().fallback(move |request: AxumRequest| other.clone().answer(request));
                    let service =
                        service_fn(move |request: Request<hyper::body::Incoming>| router.clone().oneshot(request));
                    let builder = hyper::server::conn::http1::Builder::new();
                    let _ = builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
                });
            }
        });
    }

    async fn answer(self: Arc<Self>, mut request: AxumRequest) -> axum::response::Response {
        let json =
            |media: &str, value: Value| ([("content-type", media.to_owned())], value.to_string()).into_response();
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/apis" => {
                self.asked.fetch_add(1, Ordering::SeqCst);
                let found = self.discovery.lock().clone();
                let media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
                return found.map_or(StatusCode::NOT_FOUND.into_response(), |found| json(media, found));
            }
            "/apis/example.com/v1" => {
                let things = json!({"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing",
                    "verbs": ["get", "list", "watch"]});
                let list = json!({"kind": "APIResourceList", "groupVersion": "example.com/v1", "resources": [things]});
                return json("application/json", list);
            }
            "/openapi/v3" => {
                let path = json!({"serverRelativeURL": "/openapi/v3/apis/example.com/v1?hash=A"});
                return json("application/json", json!({"paths": {"apis/example.com/v1": path, "apis/apps/v1": path}}));
            }
            "/openapi/v2" => {
                let schema = json!({"$ref": "#/definitions/com.example.Thing"});
                let get = json!({"get": {"responses": {"200": {"description": "OK", "schema": schema}}}});
                let things = json!({"/apis/example.com/v1/things": get, "/apis/apps/v1/deployments": {"get": "evil"}});
                let definitions = json!({"com.example.Thing": {"type": "object"}});
                return json("application/json", json!({"paths": things, "definitions": definitions}));
            }
            _ => {}
        }
        let query = request.uri().query().unwrap_or_default().to_owned();
        if query.contains("watch=true") {
            let events = futures::stream::unfold(0, move |count| {
                let other = self.clone();
                async move {
                    if count == 1 {
                        other.go_on.notified().await;
                    }
                    let event = Bytes::from(format!("{{\"type\":\"ADDED\",\"n\":{count}}}\n"));
                    (count < 2).then_some((Ok::<_, Infallible>(hyper::body::Frame::data(event)), count + 1))
                }
            });
            return Response::new(Body::new(StreamBody::new(events)));
        }
        if let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>().filter(|_| path.ends_with("/shout")) {
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut byte = [0];
                while stream.read_exact(&mut byte).await.is_ok() {
                    stream.write_all(&byte.to_ascii_uppercase()).await.unwrap();
                }
            });
            let headers = [("connection", "upgrade"), ("upgrade", "shout")];
            return (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
        }
        let (parts, body) = request.into_parts();
        let mut headers: Vec<_> =
            parts.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        headers.sort();
        let body = body.collect().await.unwrap().to_bytes();
        let said = json!({"line": format!("{} {}", parts.method, parts.uri), "headers": headers,
            "body": String::from_utf8_lossy(&body)});
        (StatusCode::IM_A_TEAPOT, [("content-type", "application/json")], said.to_string()).into_response()
    }
}

fn validity() -> Validity {
    let time = |text: &str| text.parse().unwrap();
    Validity { from: time("2020-01-01T00:00:00Z"), until: time("2120-01-01T00:00:00Z") }
}

/// Registers a version of a group with Service `default/other`, or another one.
async fn register(cluster: &Cluster, other: &Other, name: &str, service: &str, priority: i64) {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let (version, group) = name.split_once('.').unwrap();
    let spec = json!({"group": group, "version": version, "groupPriorityMinimum": priority, "versionPriority": 10,
        "caBundle": BASE64_STANDARD.encode(&other.authority.certificate),
        "service": {"namespace": "default", "name": service}});
    cluster.post(REGISTERED, json!({"metadata": {"name": name}, "spec": spec})).await.ok();
}

async fn available(cluster: &Cluster, name: &str, status: &str) {
    let condition = json!({"type": "Available", "status": status, "reason": "r", "message": "m",
        "lastTransitionTime": "2026-01-02T03:04:05Z"});
    let status = json!({"status": {"conditions": [condition]}});
    cluster.patch(&format!("{REGISTERED}/{name}/status"), "merge-patch+json", status).await.ok();
}

/// The other server behind its Service, registered and available.
async fn prepare(cluster: &Cluster, other: &Arc<Other>) {
    let map = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let data = cluster.get(map).await.ok()["data"].clone();
    assert_eq!(data["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    other.listen(data["requestheader-client-ca-file"].as_str().unwrap()).await;
    let ports = json!([{"name": "https", "port": 443}]);
    let services = "/api/v1/namespaces/default/services";
    cluster.post(services, json!({"metadata": {"name": "other"}, "spec": {"ports": ports}})).await.ok();
    register(cluster, other, "v1.example.com", "other", 1_500).await;
    available(cluster, "v1.example.com", "True").await;
}

async fn start() -> (Cluster, Arc<Other>) {
    let other = Other::new();
    let way = other.clone();
    let cluster = Cluster::with(|options, _| options.dialer = Arc::new(Way(way))).await;
    prepare(&cluster, &other).await;
    (cluster, other)
}

fn headers(said: &Value, name: &str) -> Vec<String> {
    let all = said["headers"].as_array().unwrap().iter().filter_map(Value::as_str);
    all.filter_map(|line| line.strip_prefix(&format!("{name}: "))).map(str::to_owned).collect()
}

/// A user who may read things, by a role.
async fn jane(cluster: &Cluster) -> Service {
    let group = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rules = json!([{"apiGroups": ["example.com"], "resources": ["things", "things/shout"], "verbs": ["*"]}]);
    cluster.post(&format!("{group}/roles"), json!({"metadata": {"name": "things"}, "rules": rules})).await.ok();
    let binding = json!({"metadata": {"name": "things"}, "subjects": [{"kind": "User", "name": "jane"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "things"}});
    cluster.post(&format!("{group}/rolebindings"), binding).await.ok();
    let mut user = User::new("jane", &["system:authenticated", "staff"]);
    user.uid = "7".to_owned();
    user.extra.insert("example.com/scope".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
    cluster.server.service_for(user)
}

#[tokio::test]
async fn a_request_is_passed_on_with_who_asks_and_without_what_the_client_says_of_it() {
    let (cluster, _other) = start().await;
    let jane = jane(&cluster).await;
    let sent = [
        ("authorization", "Bearer secret"),
        ("connection", "keep-alive, X-Remote-User, x-remote-group"),
        ("x-remote-user", "system:admin"),
        ("x-remote-group", "system:masters"),
        ("x-remote-extra-evil", "1"),
        ("x-remote-uid", "0"),
        ("x-own", "2"),
    ];
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let target = format!("{THINGS}/a?pretty=true");
        let answer = cluster.send(&jane, method, &target, &sent, "words").await;
        assert_eq!((answer.code, content_type(&answer)), (418, "application/json"), "{}", answer.text());
        let (said, id) = (answer.json(), answer.header("audit-id").to_owned());
        assert_eq!((&said["line"], &said["body"]), (&json!(format!("{method} {target}")), &json!("words")));
        assert_eq!(headers(&said, "x-remote-user"), ["jane"]);
        assert_eq!(headers(&said, "x-remote-group"), ["staff", "system:authenticated"]);
        assert_eq!(headers(&said, "x-remote-uid"), ["7"]);
        assert_eq!(headers(&said, "x-remote-extra-example.com%2fscope"), ["a", "b"]);
        assert_eq!((headers(&said, "x-own"), headers(&said, "audit-id")), (vec!["2".to_owned()], vec![id]));
        for gone in ["authorization", "x-remote-extra-evil", "connection"] {
            assert!(headers(&said, gone).is_empty(), "{gone}: {said}");
        }
    }
    // The path that was authorized is the one that is passed on.
    let said = cluster.send(&cluster.admin, "GET", "/apis/example.com/v1/things/a%2Fstatus", &[], "").await.json();
    assert_eq!(said["line"], "GET /apis/example.com/v1/things/a/status");
}

#[tokio::test]
async fn who_may_not_is_refused_here_and_what_is_not_available_is_told() {
    let (cluster, other) = start().await;
    let nobody = cluster.server.service_for(User::new("joe", &["system:authenticated"]));
    let answer = cluster.send(&nobody, "GET", THINGS, &[], "").await;
    answer.fails(403, "things.example.com is forbidden: User \"joe\" cannot list resource \"things\" in API group \"example.com\" in the namespace \"default\"");
    for status in ["False", "Unknown"] {
        available(&cluster, "v1.example.com", status).await;
        let answer = cluster.get(THINGS).await;
        assert_eq!((answer.code, answer.text().as_str()), (503, "service unavailable\n"));
    }
    // Available, and yet nobody is there; and somebody whom nobody vouches for.
    register(&cluster, &other, "v1.gone.example.com", "gone", 100).await;
    available(&cluster, "v1.gone.example.com", "True").await;
    let answer = cluster.get("/apis/gone.example.com/v1/things").await;
    assert_eq!((answer.code, answer.text().as_str()), (503, "service unavailable\n"));
    let stranger = Other::new();
    register(&cluster, &stranger, "v1.stranger.example.com", "other", 100).await;
    available(&cluster, "v1.stranger.example.com", "True").await;
    let answer = cluster.get("/apis/stranger.example.com/v1/things").await;
    assert_eq!(answer.code, 503);
    assert!(answer.text().starts_with("error trying to reach service: ") && answer.text().contains("certificate"));
    // What is served here is never passed on.
    register(&cluster, &other, "v1.apps", "other", 100).await;
    available(&cluster, "v1.apps", "True").await;
    assert_eq!(cluster.get(DEPLOYMENTS).await.ok()["kind"], "DeploymentList");
    // A registration that is gone counts no more.
    cluster.delete(&format!("{REGISTERED}/v1.example.com"), Value::Null).await.ok();
    assert_eq!(cluster.get(THINGS).await.code, 404);
}

#[tokio::test]
async fn a_watch_arrives_as_it_is_sent() {
    let (cluster, other) = start().await;
    let request = Request::builder().uri(format!("{THINGS}?watch=true")).body(Body::empty()).unwrap();
    let mut body = cluster.admin.handle(request).await.into_body();
    let mut next = async || {
        let frame = tokio::time::timeout(Duration::from_secs(20), body.frame()).await.expect("in time");
        frame.map(|frame| String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
    };
    assert_eq!(next().await.as_deref(), Some("{\"type\":\"ADDED\",\"n\":0}\n"), "before there is a second one");
    other.go_on.notify_one();
    assert_eq!(next().await.as_deref(), Some("{\"type\":\"ADDED\",\"n\":1}\n"));
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn an_upgraded_connection_leads_to_the_other_server() {
    let other = Other::new();
    let way = other.clone();
    let network = Network::with(4, |options, _| options.dialer = Arc::new(Way(way))).await;
    prepare(&network.cluster, &other).await;
    let mut stream = network.connect(Some(&network.admin()), "http/1.1").await.unwrap();
    let request = format!("GET {THINGS}/a/shout HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: shout\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: shout"), "{head}");
    stream.write_all(b"abc").await.unwrap();
    let mut said = [0; 3];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"ABC");
    drop(stream);
    network.end().await;
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The version of the group in the aggregated document.
async fn discovered(cluster: &Cluster) -> Value {
    let list = cluster.get_as("/apis", AGGREGATED).await.ok();
    let group = list["items"].as_array().unwrap().iter().find(|group| group["metadata"]["name"] == "example.com");
    group.map(|group| group["versions"][0].clone()).unwrap_or_default()
}

#[tokio::test]
async fn discovery_and_open_api_have_what_the_other_server_serves() {
    let (cluster, other) = start().await;
    // From its old document, for it has no new one.
    let kind = json!({"group": "example.com", "version": "v1", "kind": "Thing"});
    let thing = json!({"resource": "things", "responseKind": kind, "scope": "Namespaced", "singularResource": "thing",
        "verbs": ["get", "list", "watch"]});
    let expected = json!({"version": "v1", "resources": [thing], "freshness": "Current"});
    assert_eq!(discovered(&cluster).await, expected);
    assert_eq!(discovered(&cluster).await, expected);
    assert_eq!(other.asked.load(Ordering::SeqCst), 1, "it is kept");
    // Not available: it is said to be stale; available again: it is asked again, here for its new document.
    available(&cluster, "v1.example.com", "False").await;
    assert_eq!(discovered(&cluster).await, json!({"version": "v1", "freshness": "Stale"}));
    let fake = json!({"resource": "fakes", "scope": "Cluster", "verbs": ["get"], "subresources": null});
    let versions = json!([{"version": "v1", "resources": [fake]}, {"version": "v1", "resources": [fake]}]);
    *other.discovery.lock() = Some(json!({"kind": "APIGroupDiscoveryList", "items": [
        {"metadata": {"name": "example.com"}, "versions": versions}, {"metadata": {"name": "apps"}, "versions": versions}]}));
    available(&cluster, "v1.example.com", "True").await;
    let found = discovered(&cluster).await;
    assert_eq!((&found["resources"][0]["resource"], &found["freshness"]), (&json!("fakes"), &json!("Current")));
    assert_eq!(found["resources"][0]["responseKind"], json!({"group": "", "version": "", "kind": ""}));
    let list = cluster.get_as("/apis", AGGREGATED).await;
    assert!(!list.header("etag").is_empty() && list.text().matches("fakes").count() == 1, "its own versions only");
    // The old documents: the list of groups, the group, and the version, which is the other server's own.
    let groups = cluster.get("/apis").await.ok();
    let groups: Vec<&str> = groups["groups"].as_array().unwrap().iter().filter_map(|g| g["name"].as_str()).collect();
    assert!(groups.contains(&"example.com") && groups.first() == Some(&"apiregistration.k8s.io"), "{groups:?}");
    let group = cluster.get("/apis/example.com").await.ok();
    assert_eq!(group["preferredVersion"], json!({"groupVersion": "example.com/v1", "version": "v1"}));
    assert_eq!(cluster.get("/apis/example.com/v1").await.ok()["groupVersion"], "example.com/v1");
    let paths = cluster.get("/").await.ok()["paths"].clone();
    assert!(paths.as_array().unwrap().contains(&json!("/apis/example.com/v1")));
    let index = cluster.get("/openapi/v3").await.ok()["paths"].clone();
    let url = "/openapi/v3/apis/example.com/v1?hash=A";
    assert_eq!(index["apis/example.com/v1"]["serverRelativeURL"], url);
    assert_ne!(index["apis/apps/v1"]["serverRelativeURL"], url, "another group is this server's own");
    assert_eq!(cluster.get(url).await.json()["line"], format!("GET {url}"));
    let whole = cluster.get("/openapi/v2").await;
    let (etag, whole) = (whole.header("etag").to_owned(), whole.ok());
    assert!(whole["paths"]["/apis/example.com/v1/things"]["get"].is_object());
    assert!(whole["paths"]["/apis/apps/v1/deployments"]["get"].is_object(), "another group is this server's own");
    assert_eq!(whole["definitions"]["com.example.Thing"]["type"], "object");
    let packed = cluster.get_as("/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf").await;
    assert!(packed.code == 200 && packed.bytes.windows(17).any(|part| part == b"com.example.Thing"));
    cluster.delete(&format!("{REGISTERED}/v1.example.com"), Value::Null).await.ok();
    let whole = cluster.get("/openapi/v2").await;
    assert!(whole.header("etag") != etag && !whole.text().contains("com.example.Thing"));
}

#[tokio::test]
async fn whether_a_server_answers_is_told_at_a_path_of_its_own() {
    let (cluster, other) = start().await;
    let check = |name: &str| format!("/aggregator/checks/{name}");
    available(&cluster, "v1.example.com", "False").await;
    let answer = cluster.get(&check("v1.example.com")).await;
    assert_eq!((answer.code, answer.text().as_str()), (200, "ok"), "also while it is not available");
    register(&cluster, &other, "v9.example.com", "other", 100).await;
    let answer = cluster.get(&check("v9.example.com")).await;
    let (code, _, message) = answer.status();
    assert_eq!(code, 503);
    assert!(message.starts_with("failing or missing response from https://10.96."), "{message}");
    assert!(message.ends_with(":443/apis/example.com/v9: 418"), "{message}");
    assert_eq!(cluster.get(&check("v1.apps")).await.code, 404);
    let nobody = cluster.server.service_for(User::new("joe", &["system:authenticated"]));
    assert_eq!(cluster.send(&nobody, "GET", &check("v1.example.com"), &[], "").await.code, 403);
}
