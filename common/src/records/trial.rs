//! Trials: executions of a job whose message was delivered too often. The job may be what ends the
//! processes, or it may only have been received together with such a job.
//!
//! Invariant: a trial is recorded before the job is executed, and removed when the execution ends,
//! whatever its result is. A trial that is left was interrupted by the end of its process.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{load_chunk, load_decodable, load_if_decodable, put_write, write_records};
use crate::store::{
    CommitOutcome, RecordKey, RecordKind, RecordWrite, Store, StoreError, Versioned,
};

/// A job whose execution was interrupted by the end of this many processes is not executed again.
pub const MAX_INTERRUPTED: usize = 2;
/// How long trials are stored. A message is delivered again within minutes.
const TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// The trials of a job that have not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trials {
    /// The names of the processes that began to execute the job.
    pub processes: Vec<String>,
}

/// Returns the key of the trials of the job with this id.
pub fn key(job: &str) -> RecordKey {
    RecordKey::new(RecordKind::Trial, job)
}

/// Records that `process` begins to execute a job. Returns `false`, and records nothing, if
/// [`MAX_INTERRUPTED`] other processes ended while they executed it.
pub async fn begin(store: &dyn Store, job: &str, process: &str) -> Result<bool, StoreError> {
    loop {
        // Trials that this build cannot decode do not prevent the execution of the job.
        let stored = load_decodable::<Trials>(store, &key(job)).await?;
        let (version, mut trials) = stored.map_or((0, Trials::default()), |stored| {
            (stored.version, stored.value.unwrap_or_default())
        });
        // This process still runs, so its own trial was not interrupted by its end.
        trials.processes.retain(|other| other != process);
        if trials.processes.len() >= MAX_INTERRUPTED {
            return Ok(false);
        }
        trials.processes.push(process.to_owned());
        let put = put_write(key(job), &trials, Some(version), Some(TTL));
        if write_records(store, vec![put]).await? == CommitOutcome::Applied {
            return Ok(true);
        }
    }
}

/// Returns the write that removes all trials of a job, because it was executed or will not be.
pub fn remove_write(job: &str) -> RecordWrite {
    RecordWrite::Delete {
        key: key(job),
        expected: None,
    }
}

/// Removes the trial that `process` began of one job, because the execution ended without a result.
/// The trials of other processes stay, because those processes ended while they executed the job.
pub async fn withdraw(store: &dyn Store, job: &str, process: &str) -> Result<(), StoreError> {
    match load_if_decodable(store, &key(job)).await? {
        Some(stored) => remove_one(store, job, process, stored).await,
        None => Ok(()),
    }
}

/// Removes the trials of one process, which stops. The trials of others stay.
pub async fn remove_of_process(store: &dyn Store, process: &str) -> Result<(), StoreError> {
    let mut after = None;
    while let Some(found) = load_chunk::<Trials>(store, RecordKind::Trial, "", &mut after).await? {
        for (job, stored) in found {
            remove_one(store, &job, process, stored).await?;
        }
    }
    Ok(())
}

/// Removes the trial of one process from the trials of a job, if it is one of them.
async fn remove_one(
    store: &dyn Store,
    job: &str,
    process: &str,
    stored: Versioned<Trials>,
) -> Result<(), StoreError> {
    let Versioned { version, mut value } = stored;
    let before = value.processes.len();
    value.processes.retain(|other| other != process);
    if value.processes.len() == before {
        return Ok(());
    }
    let write = if value.processes.is_empty() {
        RecordWrite::Delete {
            key: key(job),
            expected: Some(version),
        }
    } else {
        put_write(key(job), &value, Some(version), Some(TTL))
    };
    // If the commit is stale, another process has executed the job meanwhile.
    write_records(store, vec![write]).await.map(drop)
}
