//! The contract of informers over targets, against an API of a test that counts what it is asked.

use super::*;
use crate::{Delta, Key, PartialObjectMetadata};
use bytes::Bytes;
use futures::{StreamExt, channel::mpsc};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::client::Body;
use std::{convert::Infallible, time::Duration};

/// Answers every list with the same text, and leaves watches open.
#[derive(Clone, Default)]
struct Api(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    list: String,
    /// Paths with queries, and what was accepted.
    asked: Vec<(String, String)>,
    watches: Vec<mpsc::Sender<String>>,
}

const LIST: &str = r#"{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a","namespace":"n","uid":"1","resourceVersion":"3"},"data":{"k":"eA=="}}]}"#;

impl Api {
    fn new(list: &str) -> Self {
        let api = Self::default();
        api.0.lock().list = list.to_owned();
        api
    }

    fn client(&self) -> Client {
        let api = self.clone();
        let serve = tower::service_fn(move |request: Request<Body>| {
            let answer = api.answer(&request);
            async move { Ok::<_, Infallible>(Response::new(answer)) }
        });
        Client::new(kube::Client::new(serve, "default"))
    }

    fn answer(&self, request: &Request<Body>) -> UnsyncBoxBody<Bytes, Infallible> {
        let mut state = self.0.lock();
        let accept = request.headers()["accept"].to_str().expect("text").to_owned();
        let url = request.uri().to_string();
        state.asked.push((url.clone(), accept));
        if !url.contains("watch=true") {
            return Full::new(Bytes::from(state.list.clone())).boxed_unsync();
        }
        let (sender, receiver) = mpsc::channel(16);
        state.watches.push(sender);
        let frames = receiver.map(|line: String| Ok::<_, Infallible>(http_body::Frame::data((line + "\n").into())));
        StreamBody::new(frames).boxed_unsync()
    }

    fn asked(&self) -> Vec<String> {
        self.0.lock().asked.iter().map(|(url, _)| url.clone()).collect()
    }

    /// Sends an event to the newest watch.
    fn send(&self, event: &str) {
        self.0.lock().watches.last_mut().expect("a watch").try_send(event.to_owned()).expect("taken");
    }

    fn open(&self) -> usize {
        self.0.lock().watches.iter().filter(|watch| !watch.is_closed()).count()
    }
}

fn informers(api: &Api) -> Informers {
    Informers::new(api.client(), CancellationToken::new(), TaskTracker::new())
}

/// Waits until something holds, at most an hour of paused time.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let patience = tokio::time::timeout(Duration::from_secs(3600), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    patience.await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

fn object(kind: &str, name: &str, uid: &str, revision: u64) -> String {
    format!(
        r#"{{"type":"{kind}","object":{{"metadata":{{"name":"{name}","namespace":"n","uid":"{uid}","resourceVersion":"{revision}"}}}}}}"#
    )
}

#[tokio::test(start_paused = true)]
async fn two_holders_share_one_watch_and_the_last_ends_it() {
    let api = Api::new(LIST);
    let informers = informers(&api);
    let target = || Target::of::<Secret>().named("n", "a");
    let (one, two) = (informers.over::<Secret>(target()), informers.over::<Secret>(target()));
    one.synced().await;
    until("the watch", || api.open() == 1).await;
    let path = "/api/v1/namespaces/n/secrets";
    let (list, watch) = (
        format!("{path}?fieldSelector=metadata.name%3Da"),
        format!("{path}?watch=true&allowWatchBookmarks=true&fieldSelector=metadata.name%3Da&resourceVersion=7"),
    );
    assert_eq!(api.asked(), [list, watch]);
    drop(one);
    api.send(&object("MODIFIED", "a", "1", 8));
    until("the change", || two.revision() == 8).await;
    assert_eq!((api.open(), informers.inner.informers.lock().len()), (1, 1));
    drop(two);
    until("the end", || api.open() == 0 && informers.inner.informers.lock().is_empty()).await;
    assert!(tokio::time::timeout(Duration::from_secs(60), informers.ended()).await.is_err(), "that is no failure");
    let again = informers.over::<Secret>(target());
    until("a new watch", || api.open() == 1).await;
    assert_eq!((api.asked().len(), again.len()), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_ended_and_a_list_comes_when_that_is_forgotten() {
    let api = Api::new(LIST);
    let informers = informers(&api);
    let maps = informers.over::<ConfigMap>(Target::of::<ConfigMap>().labels("a=b"));
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let lines = log.clone();
    maps.subscribe(move |delta| {
        let word = ["deleted", "there"][usize::from(!matches!(delta, Delta::Deleted(_)))];
        lines.lock().push(format!("{word} {}", Key::of(&**delta.object())));
    });
    until("the watch", || api.open() == 1).await;
    api.send(&object("ADDED", "b", "2", 9));
    api.send(r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"12"}}}"#);
    until("the bookmark", || maps.revision() == 12).await;
    api.0.lock().watches.clear();
    until("another watch", || api.open() == 1).await;
    assert!(api.asked()[2].ends_with("&labelSelector=a%3Db&resourceVersion=12"), "{:?}", api.asked());
    api.send(r#"{"type":"ERROR","object":{"kind":"Status","reason":"Expired","code":410}}"#);
    until("a list and a watch", || api.asked().len() == 5).await;
    assert!(!api.asked()[3].contains("watch"), "{:?}", api.asked());
    assert_eq!(*log.lock(), ["there n/a", "there n/b", "deleted n/b"]);
}

#[tokio::test(start_paused = true)]
async fn metadata_are_asked_for_alone_and_no_more_is_read() {
    // An object that is no Secret in any version: whoever read more than the metadata would stumble.
    let list = LIST.replace(r#""data":{"k":"eA=="}"#, r#""spec":[7],"data":7,"kind":{}"#);
    let api = Api::new(&list);
    let informers = informers(&api);
    let metadata = informers.over::<PartialObjectMetadata>(Target::of::<Secret>());
    metadata.synced().await;
    until("the watch", || api.open() == 1).await;
    let whole = r#"{"type":"ADDED","object":{"metadata":{"name":"b","namespace":"n","uid":"2","resourceVersion":"9",
        "ownerReferences":[{"uid":"1","controller":true}]},"data":"no map","spec":[]}}"#;
    api.send(&whole.replace('\n', ""));
    until("the object", || metadata.len() == 2).await;
    assert_eq!(metadata.by_owner("1").iter().map(|object| object.name.as_str()).collect::<Vec<_>>(), ["b"]);
    let accepts: Vec<String> = api.0.lock().asked.iter().map(|(_, accept)| accept.clone()).collect();
    let form = |name: &str| format!("application/json;as={name};g=meta.k8s.io;v=v1,application/json");
    assert_eq!(accepts, [form("PartialObjectMetadataList"), form("PartialObjectMetadata")]);
    // A typed informer of the same target is another.
    let typed = informers.of::<Secret>();
    until("what it cannot read", || typed.undecodable().len() == 1).await;
    let mut registry = Registry::default();
    informers.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
    assert!(text.contains("informer_undecodable_objects{kind=\"Secret\"} 1\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_two_identities_have_read_is_in_memory_once() {
    let (api, other) = (Api::new(LIST), Api::new(LIST));
    let informers = informers(&api);
    let token = CancellationToken::new();
    let kubelet = informers.on_behalf(other.client(), token.clone());
    let (all, own) = (informers.of::<Secret>(), kubelet.over::<Secret>(Target::of::<Secret>().fields("type=Opaque")));
    tokio::join!(all.synced(), own.synced());
    let same = || Arc::ptr_eq(&all.get("n", "a").expect("there"), &own.get("n", "a").expect("there"));
    assert!(same());
    until("the watches", || api.open() + other.open() == 2).await;
    assert_eq!((api.asked().len(), other.asked().len()), (2, 2), "each asks with its own client");
    for api in [&api, &other] {
        api.send(&object("MODIFIED", "a", "1", 8));
        until("the change", || all.revision() == 8 || own.revision() == 8).await;
    }
    until("both", || all.revision() == 8 && own.revision() == 8).await;
    assert!(same());
    let pool = informers.pool::<Secret>();
    assert_eq!(pool.len(), 1, "nothing is kept of what was");
    token.cancel();
    until("its end", || other.open() == 0).await;
    assert_eq!(api.open(), 1);
    assert!(tokio::time::timeout(Duration::from_secs(60), informers.ended()).await.is_err());
    drop((all, own));
    assert_eq!(pool.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_informer_that_panics_is_told() {
    let (fine, informers) = (informers(&Api::new(LIST)), informers(&Api::new(LIST)));
    let _maps = fine.of::<ConfigMap>();
    tokio::time::timeout(Duration::from_secs(60), fine.ended()).await.expect_err("it runs");
    let maps = informers.of::<ConfigMap>();
    maps.index("odd", |_| panic!("an index of a test"));
    tokio::time::timeout(Duration::from_secs(60), informers.ended()).await.expect("told");
}
