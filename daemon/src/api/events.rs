//! `EventService`: the audit log's records, oldest first, then as they become durable.

use super::{
    Context,
    authorize::Principal,
    convert,
    follow::{Answer, Batch, Bounds, Follow, Source},
    peer::Peer,
    runs::shortened,
};
use crate::log::DurableSearch;
use failsafe_journal::{Entry, Filter, Query};
use failsafe_proto::{ErrorReason, v1};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tonic::{Request, Response, Status};

/// Runs of which a stream remembers whether its client may see them.
const REMEMBERED: usize = 4_096;

/// `EventService`.
pub struct Events(pub Arc<Context>);

#[tonic::async_trait]
impl v1::event_service_server::EventService for Events {
    type WatchStream = Answer<v1::Record>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let who = self.0.principal(&request)?;
        let peer = Peer::of(&request)?;
        let v1::WatchRequest { from, follow, run, incident, since_ns, until_ns, tail, kinds } = request.into_inner();
        let run = match run.as_str() {
            "" => None,
            wanted => Some(self.run_id(&who, wanted)?),
        };
        is_there(&self.0, from)?;
        if !incident.is_empty() {
            self.knows(&who, &peer, &incident).await?;
        }
        let optional = |text: String| (!text.is_empty()).then_some(text);
        let time = |ns: i64| u64::try_from(ns).ok().filter(|ns| *ns > 0);
        let filter = Filter {
            run,
            runs: None,
            incident: optional(incident),
            kinds,
            since_ns: time(since_ns),
            until_ns: time(until_ns),
        };
        let query = Query { from, filter, tail: tail.map(|n| n as usize), tail_of: None };
        Ok(Response::new(stream(&self.0, who, peer, query, follow)))
    }
}

/// Whether a stream may begin at `from`: at an entry, or at the one that comes next. A stream that began later would be silent until
/// the log is that long, or for ever if it is another log.
///
/// # Errors
/// `INVALID_REQUEST`.
pub(super) fn is_there(context: &Context, from: u64) -> Result<(), Status> {
    let next = *context.log.latest().borrow();
    if from <= next {
        return Ok(());
    }
    Err(ErrorReason::InvalidRequest
        .status(format!("from: entry {from} is past the end of the log, whose next entry is {next}")))
}

/// Sends the entries that a client may read; with `follow`, also those that come later.
pub(super) fn stream(
    context: &Arc<Context>,
    who: Principal,
    peer: Arc<Peer>,
    query: Query,
    follow: bool,
) -> Answer<v1::Record> {
    let work = context.work(peer.share()).clone();
    let growth = follow.then(|| work.growth());
    let source = Log::new(context.clone(), who, query);
    Follow { work, peer, unread: context.config.limits.unread(), growth }.stream(source)
}

impl Events {
    /// Whether the log has an entry about the incident that the caller may read. A stream of none would read as "nothing happened".
    async fn knows(&self, who: &Principal, peer: &Peer, incident: &str) -> Result<(), Status> {
        let filter = Filter { incident: Some(incident.to_owned()), ..Filter::default() };
        let mut log = Log::new(self.0.clone(), who.clone(), Query { filter, ..Query::default() });
        let known = self.0.work(peer.share()).read(peer.share(), move || log.has_any());
        if known.await?? {
            return Ok(());
        }
        Err(ErrorReason::IncidentNotFound.status(format!("no incident `{}` in the audit log", shortened(incident, 80))))
    }

    fn run_id(&self, who: &Principal, wanted: &str) -> Result<String, Status> {
        let found =
            self.0.registry.find(wanted, |run| who.may_see(run).is_some()).map_err(|e| convert::find_error(&e))?;
        Ok(found.run().id.to_string())
    }
}

/// The log as one client reads it.
pub(super) struct Log {
    context: Arc<Context>,
    who: Principal,
    query: Query,
    reader: Option<DurableSearch>,
    visible: BTreeMap<String, bool>,
    /// What is missing was reported.
    reported: bool,
}

/// Entries that a client may read.
pub(super) struct Page {
    pub items: Vec<v1::Record>,
    /// Whether there may be more now.
    pub more: bool,
    /// The index behind the last entry that was looked at.
    pub behind: Option<u64>,
}

impl Source for Log {
    type Item = v1::Record;

    fn next(&mut self, bounds: &Bounds) -> Result<Batch<v1::Record>, Status> {
        let Page { items, more, .. } = self.page(bounds, usize::MAX)?;
        Ok(Batch { items, more })
    }
}

impl Log {
    /// What `query` finds, as `who` may read it.
    pub(super) fn new(context: Arc<Context>, who: Principal, query: Query) -> Log {
        Log { context, who, query, reader: None, visible: BTreeMap::new(), reported: false }
    }

    /// The bytes of entry `index`, where the query begins, if it is there and this client may read it.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) fn entry(&mut self, index: u64) -> Result<Option<Vec<u8>>, Status> {
        let found = self.context.log.search(self.query.clone()).map_err(unreadable)?.next();
        let found = found.transpose().map_err(unreadable)?;
        Ok(found.filter(|entry| entry.index == index && self.may_read(entry)).map(|entry| entry.bytes.to_vec()))
    }

    /// Whether the query finds an entry that this client may read.
    ///
    /// # Errors
    /// The log cannot be read.
    fn has_any(&mut self) -> Result<bool, Status> {
        for found in self.context.log.search(self.query.clone()).map_err(unreadable)? {
            if self.may_read(&found.map_err(unreadable)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next entries, at most `most` and within `bounds`.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) fn page(&mut self, bounds: &Bounds, most: usize) -> Result<Page, Status> {
        let (mut items, mut bytes, mut behind) = (Vec::new(), 0, None);
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => {
                let query = Query { tail_of: self.readable(), ..self.query.clone() };
                self.context.log.search(query).map_err(unreadable)?
            }
        };
        let mut more = true;
        while more && items.len() < most && !bounds.are_reached(bytes) {
            match reader.next() {
                Some(Ok(entry)) => {
                    behind = Some(entry.index.saturating_add(1));
                    if self.may_read(&entry) {
                        bytes += entry.bytes.len();
                        items.push(record(entry));
                    }
                }
                Some(Err(error)) => return Err(unreadable(error)),
                None => {
                    if let Some(what) = reader.missing_in_words().filter(|_| !self.reported) {
                        tracing::error!(what, "the audit log does not have all entries");
                        self.reported = true;
                    }
                    more = false;
                }
            }
        }
        self.reader = Some(reader);
        Ok(Page { items, more, behind })
    }

    /// The runs of which a client that is no administrator may read entries: those that its `tail` counts.
    fn readable(&self) -> Option<BTreeSet<String>> {
        if self.who.reads_log() || self.query.tail.is_none() {
            return None;
        }
        let registry = &self.context.registry;
        let (live, guarded) = registry.live_and_guarded();
        let (live, guarded) = (live.into_iter().map(|l| l.known().clone()), guarded.into_iter().map(|g| g.run.clone()));
        // Last: a run that ends meanwhile is in both.
        let ended = registry.ended().into_iter().map(|e| e.run.clone());
        let all = live.chain(guarded).chain(ended);
        Some(all.filter(|run| self.who.may_see(run).is_some()).map(|run| run.id.to_string()).collect())
    }

    /// Whether this client may read the entry. What is about no run is for administrators.
    fn may_read(&mut self, entry: &Entry) -> bool {
        if self.who.reads_log() {
            return true;
        }
        let Some(run) = &entry.run else { return false };
        if entry.body["type"] == "run-owner" {
            // Before it, the run was nobody's.
            self.visible.remove(run);
        }
        if let Some(visible) = self.visible.get(run) {
            return *visible;
        }
        let found = self.context.registry.find(run, |run| self.who.may_see(run).is_some());
        let visible = found.is_ok_and(|found| found.run().id.to_string() == *run);
        if self.visible.len() >= REMEMBERED {
            self.visible.clear();
        }
        self.visible.insert(run.clone(), visible);
        visible
    }
}

fn unreadable(error: impl std::error::Error) -> Status {
    ErrorReason::DataDamaged.status(format!("the audit log cannot be read: {}", crate::causes::chain(&error)))
}

fn record(entry: Entry) -> v1::Record {
    v1::Record {
        index: entry.index,
        wall_ns: i64::try_from(entry.wall_ns).unwrap_or(i64::MAX),
        kind: entry.kind,
        run_id: entry.run.unwrap_or_default(),
        incident: entry.incident.unwrap_or_default(),
        entry: entry.bytes.to_vec(),
    }
}
