//! `EventService`: the audit log's records, oldest first, then as they become durable.

use super::{Context, authorize::Principal, convert};
use failsafe_journal::{Entry, Filter, LogReader};
use failsafe_proto::v1;
use std::{collections::BTreeSet, pin::Pin, sync::Arc};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// Records that may wait for a slow reader; the log is read on only as it keeps up.
const AHEAD: usize = 64;

/// `EventService`.
pub struct Events(pub Arc<Context>);

#[tonic::async_trait]
impl v1::event_service_server::EventService for Events {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Record, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let who = self.0.principal(&request)?;
        let v1::WatchRequest { from, follow, run, incident } = request.into_inner();
        let run = match run.as_str() {
            "" => None,
            wanted => Some(self.run_id(who, wanted)?),
        };
        let optional = |text: String| (!text.is_empty()).then_some(text);
        let filter = Filter { run, incident: optional(incident), kinds: Vec::new() };
        let (tx, rx) = mpsc::channel(AHEAD);
        let context = self.0.clone();
        tokio::task::spawn_blocking(move || send(&context, who, from, follow, filter, &tx));
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(rx))))
    }
}

impl Events {
    fn run_id(&self, who: Principal, wanted: &str) -> Result<String, Status> {
        let found =
            self.0.registry.find(wanted, |run| who.may_see(run).is_some()).map_err(|e| convert::find_error(&e))?;
        Ok(found.run().id.to_string())
    }
}

/// The runs whose records this caller may read; `None`: all.
fn readable(context: &Context, who: Principal) -> Option<BTreeSet<String>> {
    if who.admin {
        return None;
    }
    let live = context.registry.live().into_iter().map(|l| l.run.clone());
    let ended = context.registry.ended().into_iter().map(|e| e.run.clone());
    let guarded = context.registry.guarded().into_iter().map(|g| g.run.clone());
    Some(live.chain(guarded).chain(ended).filter(|r| who.may_see(r).is_some()).map(|r| r.id.to_string()).collect())
}

fn send(
    context: &Context,
    who: Principal,
    from: u64,
    follow: bool,
    filter: Filter,
    tx: &mpsc::Sender<Result<v1::Record, Status>>,
) {
    let mut latest = context.log.latest();
    let failed = |error: String| {
        let _gone = tx.blocking_send(Err(Status::data_loss(format!("the audit log cannot be read: {error}"))));
    };
    let opened = LogReader::open(context.log.path()).map_err(|e| e.to_string());
    let mut reader = match opened.and_then(|r| r.with_filter(filter).from_index(from).map_err(|e| e.to_string())) {
        Ok(reader) => reader,
        Err(error) => return failed(error),
    };
    loop {
        latest.mark_unchanged();
        let allowed = readable(context, who);
        for entry in reader.by_ref() {
            match entry {
                Ok(entry) => {
                    if allowed.as_ref().is_some_and(|runs| !entry.run.as_ref().is_some_and(|r| runs.contains(r))) {
                        continue;
                    }
                    if tx.blocking_send(Ok(record(entry))).is_err() {
                        return;
                    }
                }
                Err(error) => return failed(error.to_string()),
            }
        }
        if !follow {
            return;
        }
        let waited = tokio::runtime::Handle::current().block_on(async {
            tokio::select! {
                changed = latest.changed() => changed.is_ok(),
                () = tx.closed() => false,
            }
        });
        if !waited {
            return;
        }
    }
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
