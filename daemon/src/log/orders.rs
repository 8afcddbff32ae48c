//! The orders that are in force by the audit log, and the files that the state folder had: against these, the daemon holds what it finds in the state folder at its start.
//!
//! Each file of the log begins with them, and the entry of each start of the daemon has them. So only the entries behind the last of
//! these are read: the time does not depend on the size of the log. In a log of an earlier version, all entries about orders are read.

use super::Log;
use failsafe_core::record::{Orders, Record};
use failsafe_journal::{Entry, Filter, Query, Search, kind, search::SearchError};
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// The field of an entry with the orders.
pub(super) const ORDERS: &str = "orders";
/// The last entries among which one that states them is looked for; most of them are about other things.
const LAST: [usize; 2] = [4, 64];
/// Kinds of the entries that change them.
const KINDS: [&str; 3] = ["order", kind::POLICY, kind::DAEMON];

/// What the log has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoggedOrders {
    /// The orders.
    pub orders: Orders,
    /// Entries may be missing before the first that was read: the log of an earlier version from which retention removed some. An order
    /// that it does not have may all the same have been given.
    pub may_lack: bool,
}

/// The orders as this daemon knows them; none before those of earlier daemons were read.
#[derive(Debug, Clone, Default)]
pub(super) struct Current(Arc<Mutex<Option<Orders>>>);

impl Current {
    pub(super) fn know(&self, orders: Orders) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(orders);
    }

    /// An entry that is to be queued.
    pub(super) fn note(&self, record: &Record) {
        if let Some(orders) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            orders.take(record);
        }
    }

    pub(super) fn get(&self) -> Option<Orders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl LoggedOrders {
    /// Reads the log at `path`. From one that cannot be read, or that was found amiss (`is_sound`), nothing is taken on trust.
    pub(super) fn read(path: &Path, is_sound: bool) -> LoggedOrders {
        match read(path) {
            Ok(read) => LoggedOrders { may_lack: read.may_lack && is_sound, ..read },
            Err(why) => {
                tracing::error!(why, "the orders that are in force by the audit log are not known");
                LoggedOrders::default()
            }
        }
    }
}

fn read(path: &Path) -> Result<LoggedOrders, String> {
    let words = |error: SearchError| crate::causes::chain(&error);
    let search = |query| Search::open(path, query).map_err(words);
    let stating = Filter { kinds: vec![kind::SEGMENT.to_owned(), kind::DAEMON.to_owned()], ..Filter::default() };
    let mut stated = None;
    for tail in LAST {
        let last = search(Query { filter: stating.clone(), tail: Some(tail), ..Query::default() })?;
        let last: Vec<Entry> = last.collect::<Result<_, _>>().map_err(words)?;
        stated = last.into_iter().rev().find(|entry| entry.body[ORDERS].is_object());
        if stated.is_some() {
            break;
        }
    }
    let (from, mut read) = match stated {
        Some(mut entry) => {
            let orders = serde_json::from_value(entry.body[ORDERS].take()).map_err(|error| error.to_string())?;
            (entry.index, LoggedOrders { orders, may_lack: false })
        }
        None => {
            let first = search(Query::default())?.next().transpose().map_err(words)?;
            let may_lack = first.is_some_and(|first| first.index > 0);
            (0, LoggedOrders { may_lack, ..LoggedOrders::default() })
        }
    };
    let filter = Filter { kinds: KINDS.map(str::to_owned).to_vec(), ..Filter::default() };
    let mut entries = search(Query { from, filter, ..Query::default() })?;
    for entry in entries.by_ref() {
        if let Ok(record) = serde_json::from_value::<Record>(entry.map_err(words)?.body) {
            read.orders.take(&record);
        }
    }
    entries.missing_in_words().map_or(Ok(read), Err)
}

impl Log {
    /// The orders that are in force by the entries of earlier daemons. Each file of the log begins with those in force from here on.
    pub fn logged_orders(&self) -> LoggedOrders {
        let logged = LoggedOrders::read(&self.path, self.findings().is_empty());
        self.orders.know(logged.orders.clone());
        logged
    }

    /// The orders that are in force by the entries until now.
    pub fn orders(&self) -> Option<Orders> {
        self.orders.get()
    }
}
