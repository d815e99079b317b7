//! Counts the steps of SQLite's virtual machine, so that tests can compare the costs of statements.
//!
//! Invariant: the steps of every statement on every connection to a file are counted once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use rusqlite::trace::{TraceEvent, TraceEventCodes};
use rusqlite::{Connection, StatementStatus};

/// The steps of each statement, by the path of the database file and the text of the statement.
static STEPS: Mutex<BTreeMap<(String, String), u64>> = Mutex::new(BTreeMap::new());

/// Counts the steps of the statements that are executed on a connection.
pub(super) fn observe(connection: &mut Connection) -> rusqlite::Result<()> {
    let path = connection.path().unwrap_or_default().to_owned();
    // SQLite reports the steps of a prepared statement since it was prepared.
    let mut known: HashMap<String, u64> = HashMap::new();
    let count = move |event: TraceEvent<'_>| {
        let TraceEvent::Profile(statement, _) = event else {
            return;
        };
        let total = statement.get_status(StatementStatus::VmStep);
        let total = u64::try_from(total).unwrap_or(0);
        let text = statement.sql().into_owned();
        let before = known.insert(text.clone(), total).unwrap_or(0);
        let new = total.checked_sub(before).unwrap_or(total);
        let mut steps = STEPS.lock().unwrap_or_else(PoisonError::into_inner);
        *steps.entry((path.clone(), text)).or_default() += new;
    };
    connection.trace_v2(TraceEventCodes::SQLITE_TRACE_PROFILE, Some(count))
}

/// Returns the steps of each statement on the database files in `directory` since the last call.
pub(crate) fn take(directory: &std::path::Path) -> BTreeMap<String, u64> {
    let mut steps = STEPS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut taken = BTreeMap::new();
    steps.retain(|(path, text), n| {
        let is_inside = std::path::Path::new(path).starts_with(directory);
        if is_inside {
            *taken.entry(text.clone()).or_default() += *n;
        }
        !is_inside
    });
    taken
}
