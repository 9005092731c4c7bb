//! What is configured: which requests belong together, and how many of them are served at the same time. The kinds read it from their objects.

use super::dealer;

/// All that is configured.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    /// The flow schemas, in any order. Each names a level that is there.
    pub schemas: Vec<FlowSchema>,
    /// The priority levels, in any order; each name once.
    pub levels: Vec<PriorityLevel>,
}

/// Which requests belong to a priority level, and which of them are one flow.
#[derive(Clone, Debug, Default)]
pub struct FlowSchema {
    /// Its name.
    pub name: String,
    /// The uid of its object; empty where there is no object.
    pub uid: String,
    /// The name of its level.
    pub level: String,
    /// Of the schemas that match a request, that with the lowest number counts, then that with the first name.
    pub precedence: i64,
    /// What tells one flow from another; without it all requests of the schema are one flow.
    pub distinguisher: Option<Distinguisher>,
    /// A request matches if one of them does.
    pub rules: Vec<Rule>,
}

/// What tells the flows of a schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distinguisher {
    /// The name of the user.
    User,
    /// The namespace of the request.
    Namespace,
}

/// Requests of some subjects. `*` in a list of its own is everything.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Who asks.
    pub subjects: Vec<Subject>,
    /// For which resources.
    pub resources: Vec<ResourceRule>,
    /// For which documents.
    pub documents: Vec<DocumentRule>,
}

/// Who asks. The name `*` is everybody of the kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A user, by name.
    User(String),
    /// The users of a group.
    Group(String),
    /// An account of a namespace.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Requests for resources.
#[derive(Clone, Debug, Default)]
pub struct ResourceRule {
    /// `get`.
    pub verbs: Vec<String>,
    /// `apps`.
    pub groups: Vec<String>,
    /// `deployments`, `deployments/status`.
    pub resources: Vec<String>,
    /// Whether requests outside of namespaces match.
    pub cluster_scope: bool,
    /// The namespaces of the others.
    pub namespaces: Vec<String>,
}

/// Requests for documents.
#[derive(Clone, Debug, Default)]
pub struct DocumentRule {
    /// `get`.
    pub verbs: Vec<String>,
    /// `/healthz`, `/healthz/*`.
    pub paths: Vec<String>,
}

/// How many requests are served at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriorityLevel {
    /// Its name.
    pub name: String,
    /// The uid of its object; empty where there is no object.
    pub uid: String,
    /// Its share of the server's seats, in proportion to those of the others.
    pub shares: u32,
    /// How much of its seats others may have while it does not need them, percent.
    pub lendable: u32,
    /// How many seats of others it may have, percent of its own; `None`: as many as there are.
    pub borrowing: Option<u32>,
    /// What happens to requests without a free seat.
    pub response: Response,
}

/// What happens to a request that finds no free seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// It is served nevertheless.
    Exempt,
    /// It is refused.
    Reject,
    /// It waits.
    Queue(Queuing),
}

/// The queues of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queuing {
    pub(super) queues: u32,
    pub(super) hand: u32,
    pub(super) length: usize,
}

impl Queuing {
    /// So many queues, each flow spread over `hand` of them, and at most `length` requests in each; `None` where the hands cannot be dealt
    /// from a hash.
    pub fn new(queues: u32, hand: u32, length: usize) -> Option<Self> {
        dealer::can_deal(queues, hand).then_some(Self { queues, hand, length })
    }
}
