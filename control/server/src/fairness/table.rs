//! The flow schemas and priority levels that are in force. The table is made anew after each change of what is configured; a level that stays keeps
//! its requests. One that is gone serves those that it has, with the seats that it had, and counts no more among the others.

use super::{
    Clock, Nanos,
    config::{Configuration, FlowSchema, Response},
    counts::Counts,
    level::{self, Level},
    matching,
    shares::Bounds,
};
use crate::{
    User,
    metrics::{FlowLabels, FlowMetrics},
    request::RequestInfo,
};
use http::HeaderValue;
use std::{collections::HashMap, sync::Arc};

/// The schema of requests that match none, as upstream has it for users without groups.
const CATCH_ALL: &str = "catch-all";

/// What is in force.
pub(super) struct Table {
    /// The revisions of the last changes that it includes.
    pub(super) seen: [u64; 2],
    /// In the order in which they are asked.
    pub(super) schemas: Vec<Arc<Schema>>,
    /// By name.
    pub(super) levels: Vec<Arc<Level>>,
}

/// A flow schema with its level.
pub(super) struct Schema {
    pub(super) configured: FlowSchema,
    pub(super) level: Arc<Level>,
    /// Whether it matters which flow a request belongs to.
    pub(super) has_flows: bool,
    /// The uids of schema and level.
    pub(super) uids: (HeaderValue, HeaderValue),
    pub(super) counts: Arc<Counts>,
}

impl Table {
    /// What is configured, for `total` seats. Levels with the names of former ones are those.
    pub(super) fn new(
        configuration: Configuration,
        former: Option<&Self>,
        (seen, total): ([u64; 2], u32),
        (clock, now): (Clock, Nanos),
        metrics: &FlowMetrics,
    ) -> Self {
        let Configuration { mut schemas, mut levels } = configuration;
        levels.sort_by(|one, other| one.name.cmp(&other.name));
        schemas.sort_by(|one, other| (one.precedence, &one.name).cmp(&(other.precedence, &other.name)));
        let shares = levels.iter().map(|level| u64::from(level.shares)).sum();
        let known =
            |name: &str| former.and_then(|former| former.levels.iter().find(|level| level.name == name)).cloned();
        let mut made = HashMap::new();
        let mut all = Vec::with_capacity(levels.len());
        for configured in &levels {
            let level = known(&configured.name).unwrap_or_else(|| Level::new(&configured.name, clock));
            level.configure(now, configured, Bounds::of(configured, total, shares));
            made.insert(configured.name.as_str(), (level.clone(), configured));
            all.push(level);
        }
        level::adjust(&all, now);
        let uid = |uid: &str| HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static(""));
        let schemas = schemas.into_iter().filter_map(|configured| {
            let (level, of) = made.get(configured.level.as_str())?;
            let labels = FlowLabels { priority_level: level.name.clone(), flow_schema: configured.name.clone() };
            Some(Arc::new(Schema {
                level: level.clone(),
                has_flows: matches!(of.response, Response::Queue(queuing) if queuing.queues > 1),
                uids: (uid(&configured.uid), uid(&of.uid)),
                counts: Arc::new(Counts::new(metrics, labels)),
                configured,
            }))
        });
        let made = Self { seen, schemas: schemas.collect(), levels: all };
        former.into_iter().for_each(|former| former.forget(&made));
        made
    }

    /// Takes the metrics of what is there no more out.
    fn forget(&self, now: &Self) {
        let still = |counts: &Counts| now.schemas.iter().any(|schema| schema.counts.are_of(counts));
        self.schemas.iter().filter(|schema| !still(&schema.counts)).for_each(|schema| schema.counts.forget());
    }

    /// The schema of a request; `None` where nothing is configured.
    pub(super) fn find(&self, user: &User, info: &RequestInfo) -> Option<&Arc<Schema>> {
        let matches = |schema: &&Arc<Schema>| matching::matches(&schema.configured, user, info);
        let is_last = |schema: &&Arc<Schema>| schema.configured.name == CATCH_ALL;
        self.schemas.iter().find(matches).or_else(|| self.schemas.iter().find(is_last))
    }
}
