//! Controllers and scheduler as a process of their own, which ends at a chosen write and starts anew from what is stored; and whose way to the
//! API is as bad as one likes: writes are lost or conflict, watches end or stand still, and lists show the past.

use axum::body::Body;
use client::{Client, Informers};
use fastrand::Rng;
use futures::{StreamExt, future::BoxFuture};
use http::{Method, Request, Response};
use jiff::SignedDuration;
use parking_lot::Mutex;
use server::{Server, Service, User};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What controllers and scheduler are made of.
#[derive(Clone)]
pub struct Deciders {
    pub clock: api::Clock,
    /// What the controllers sign with.
    pub keys: Arc<crate::keys::Keys>,
    /// How far their clock is ahead of it, milliseconds.
    pub skew: Arc<AtomicI64>,
    pub seed: u64,
    /// Which controllers run.
    pub selection: controllers::Selection,
}

impl Deciders {
    /// Starts all of them; they run until `token` is cancelled.
    pub fn start(
        &self,
        accounts: controllers::Accounts,
        scheduler: Client,
        informers: &Informers,
        token: &CancellationToken,
        tasks: &TaskTracker,
    ) {
        let (clock, skew) = (self.clock.clone(), self.skew.clone());
        let clock = api::Clock::new(move || clock.now() + SignedDuration::from_millis(skew.load(Ordering::SeqCst)));
        let mut options = controllers::Options::new(clock.clone(), "certificate".into());
        options.local_volumes = Some(agent::LOCAL_VOLUMES.to_owned());
        options.keys = Some(self.keys.clone());
        options.selection = self.selection.clone();
        let context = controllers::Context::new(accounts, informers.clone(), options, tasks.clone());
        controllers::start(&context, token, tasks);
        let options = scheduler::Options::new(clock, self.seed);
        let scheduler = scheduler::Scheduler::new(scheduler, informers.clone(), options);
        let token = token.clone();
        tasks.spawn(async move { scheduler.run(token).await });
    }
}

/// As whom a controller writes, by its ServiceAccount.
pub fn controller(account: &str) -> User {
    if account.is_empty() {
        return User::new("system:kube-controller-manager", &["system:authenticated"]);
    }
    let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"];
    User::new(&format!("system:serviceaccount:kube-system:{account}"), &groups)
}

/// What befalls one write of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process ends as soon as the write is stored, and another starts: nobody has read the answer.
    End,
    /// The write is stored and its answer is lost. The process goes on.
    AnswerLost,
    /// The write does not arrive. The process goes on.
    Lost,
    /// The write is refused as one of an older object.
    Conflict,
}

/// One write of so many goes wrong where the way is bad.
const BAD: usize = 12;

/// Controllers and scheduler over a way of their own to the API. Cheap to clone.
#[derive(Clone)]
pub struct Process(Arc<Inner>);

struct Inner {
    server: Server,
    deciders: Deciders,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Cancelled when the process that runs now ends.
    life: CancellationToken,
    /// The writes since they are counted, but for events: method and path.
    writes: Vec<String>,
    /// Which write is befallen by what.
    fault: Option<(usize, Fault)>,
    /// Decides over each write, where the way is bad: one in [`BAD`] is lost, its answer is, or it conflicts.
    chance: Option<Rng>,
    /// Ends the watches that are under way.
    watches: CancellationToken,
    /// Until when the watches of a resource stand still.
    still: BTreeMap<String, Instant>,
    /// The revision that the first lists of the next life show.
    past: Option<u64>,
}

impl Process {
    /// Starts the first one.
    pub fn start(server: &Server, deciders: Deciders) -> Self {
        let this = Self(Arc::new(Inner { server: server.clone(), deciders, state: Mutex::default() }));
        this.live();
        this
    }

    /// Kills the process and starts another. What the first one still does reaches nobody.
    pub fn restart(&self) {
        self.0.state.lock().life.cancel();
        self.live();
    }

    /// Kills the process and starts another that is shown what was at a revision, and for a while nothing newer.
    pub fn restart_in_the_past(&self, revision: u64) {
        self.0.state.lock().past = Some(revision);
        self.restart();
    }

    /// Ends all watches under way.
    pub fn hiccup(&self) {
        std::mem::take(&mut self.0.state.lock().watches).cancel();
    }

    /// Watches of a resource bring nothing for a while.
    pub fn stand_still(&self, resource: &str, time: Duration) {
        self.0.state.lock().still.insert(resource.to_owned(), Instant::now() + time);
    }

    /// Sets the clock of controllers and scheduler ahead of that of the API, or back.
    pub fn skew(&self, by: Duration, back: bool) {
        let millis = i64::try_from(by.as_millis()).unwrap();
        self.0.deciders.skew.store(if back { -millis } else { millis }, Ordering::SeqCst);
    }

    /// Whether writes go wrong by chance from now on.
    pub fn bad_way(&self, chance: Option<Rng>) {
        self.0.state.lock().chance = chance;
    }

    /// Waits until the watches of a resource may bring news.
    async fn news(&self, resource: &str) {
        loop {
            let until = self.0.state.lock().still.get(resource).copied();
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => tokio::time::sleep_until(until).await,
                None => return,
            }
        }
    }

    /// Counts writes from now on. `fault`: what befalls the write of that number, of which the first is 1.
    pub fn count(&self, fault: Option<(usize, Fault)>) {
        let mut state = self.0.state.lock();
        state.writes.clear();
        state.fault = fault;
    }

    /// The writes since they are counted.
    pub fn writes(&self) -> Vec<String> {
        self.0.state.lock().writes.clone()
    }

    fn live(&self) {
        let (life, tasks) = (CancellationToken::new(), TaskTracker::new());
        let past = {
            let mut state = self.0.state.lock();
            state.life = life.clone();
            state.past.take().map(|revision| Arc::new((revision, Mutex::default())))
        };
        let (process, of) = (self.clone(), life.clone());
        let client = move |user: User| {
            let service = process.0.server.service_for(user);
            let way = Way { service, process: process.clone(), life: of.clone(), past: past.clone() };
            Client::new(kube::Client::new(way, "default"))
        };
        let scheduler = client(User::new("system:kube-scheduler", &["system:authenticated"]));
        let accounts: controllers::Accounts = Arc::new(move |account: &str| client(controller(account)));
        let informers = Informers::new(accounts(""), life.clone(), tasks.clone());
        self.0.deciders.start(accounts, scheduler, &informers, &life, &tasks);
    }

    /// Counts a write, and tells what befalls it.
    fn writes_now(&self, request: &Request<kube::client::Body>) -> Option<Fault> {
        let path = request.uri().path();
        if request.method() == Method::GET || path.ends_with("/events") || path.contains("/events/") {
            return None;
        }
        let mut state = self.0.state.lock();
        state.writes.push(format!("{} {path}", request.method()));
        let number = state.writes.len();
        if let Some(chance) = &mut state.chance {
            let bad = [Fault::AnswerLost, Fault::Lost, Fault::Conflict];
            return bad.get(chance.usize(..bad.len() * BAD)).copied();
        }
        state.fault.filter(|(at, _)| *at == number).map(|(_, fault)| fault)
    }
}

/// The way of one life of the process.
#[derive(Clone)]
struct Way {
    service: Service,
    process: Process,
    life: CancellationToken,
    /// The revision that first lists show, and the paths that have been listed.
    past: Option<Arc<(u64, Mutex<BTreeSet<String>>)>>,
}

/// The answer to a write that conflicts.
fn conflict() -> Response<Body> {
    let status = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict", "code": 409,
        "message": "the object has been modified; please apply your changes to the latest version and try again"});
    Response::builder()
        .status(409)
        .header("content-type", "application/json")
        .body(Body::from(status.to_string()))
        .unwrap()
}

/// A list as it was at a revision, once for each path.
fn in_the_past(request: &mut Request<kube::client::Body>, (revision, listed): &(u64, Mutex<BTreeSet<String>>)) {
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    // Those of informers: all objects of a resource.
    let parts: Vec<&str> = path.split('/').collect();
    let of_all = matches!(parts[..], ["", "api", _, _] | ["", "apis", _, _, _]);
    if request.method() == Method::GET && of_all && query.is_empty() && listed.lock().insert(path.clone()) {
        let past = format!("{path}?resourceVersion={revision}&resourceVersionMatch=Exact");
        *request.uri_mut() = past.parse().unwrap();
    }
}

impl tower::Service<Request<kube::client::Body>> for Way {
    type Response = Response<Body>;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<kube::client::Body>) -> Self::Future {
        let Self { service, process, life, past } = self.clone();
        Box::pin(async move {
            let lost = || Err(io::ErrorKind::ConnectionReset.into());
            if life.is_cancelled() {
                return lost();
            }
            let fault = process.writes_now(&request);
            match fault {
                Some(Fault::Lost) => return lost(),
                Some(Fault::Conflict) => return Ok(conflict()),
                _ => {}
            }
            if let Some(past) = past {
                in_the_past(&mut request, &past);
            }
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch="));
            let resource = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            let watches = process.0.state.lock().watches.clone();
            let response = service.handle(request).await;
            if fault == Some(Fault::End) {
                process.restart();
            }
            if fault.is_some() || life.is_cancelled() {
                return lost();
            }
            let (parts, body) = response.into_parts();
            let body = body.into_data_stream().take_until(life.cancelled_owned());
            if !is_watch {
                return Ok(Response::from_parts(parts, Body::from_stream(body)));
            }
            let news = move |frame| {
                let (process, resource) = (process.clone(), resource.clone());
                async move {
                    process.news(&resource).await;
                    frame
                }
            };
            let body = body.then(news).take_until(watches.cancelled_owned());
            Ok(Response::from_parts(parts, Body::from_stream(body)))
        })
    }
}
