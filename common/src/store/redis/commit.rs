//! Sends commits to Redis.
//!
//! Invariant: each commit is one call of `commit.lua`. The calls of a batch share a pipeline.

use redis::{Pipeline, ServerErrorKind};

use super::client::{COMMIT_SCRIPT, RedisStore, failure_on};
use super::disk::{polls_cannot_restore, wait_for_disk, wait_for_replicas};
use super::durability::Durability;
use super::payload::Payload;
use super::reply::outcome;
use crate::store::{Commit, CommitOutcome, StoreError};

impl RedisStore {
    /// Sends commits in one pipeline and returns their outcomes in order.
    pub(super) async fn commit_batch(
        &self,
        commits: &[Commit],
    ) -> Result<Vec<CommitOutcome>, StoreError> {
        let payloads: Vec<Payload> = {
            let now = self.clock.now();
            let payload = |commit| Payload::new(commit, now);
            commits.iter().map(payload).collect()
        };
        let mut connection = self.connection().await?;
        let mut outcomes: Vec<Option<CommitOutcome>> = vec![None; payloads.len()];
        // The script is called by its hash. If the server does not know the hash, for example
        // because a client has flushed the scripts, the commits are sent again with the text of the
        // script.
        for (command, script) in [("EVALSHA", self.commit.get_hash()), ("EVAL", COMMIT_SCRIPT)] {
            let pending: Vec<usize> = (0..payloads.len())
                .filter(|i| outcomes[*i].is_none())
                .collect();
            let mut pipeline = Pipeline::with_capacity(pending.len());
            for i in &pending {
                let Payload { keys, commit } = &payloads[*i];
                let call = pipeline.cmd(command).arg(script).arg(keys.len());
                call.arg(keys).arg(commit);
            }
            let mut is_script_known = true;
            for (i, reply) in pending
                .into_iter()
                .zip(self.query_each(&mut connection, &mut pipeline).await?)
            {
                match reply {
                    Ok(reply) => outcomes[i] = Some(outcome(reply)?),
                    Err(error) if error.kind() == ServerErrorKind::NoScript.into() => {
                        is_script_known = false;
                    }
                    Err(error) => return Err(failure_on(connection, &error)),
                }
            }
            if is_script_known {
                break;
            }
        }
        match self.durability {
            Durability::Fsync => wait_for_disk(&mut connection).await?,
            Durability::Replicated(replicas) => {
                wait_for_replicas(&mut connection, replicas).await?;
            }
            Durability::Relaxed if commits.iter().any(polls_cannot_restore) => {
                // A failure is only logged, because in relaxed mode the server may be unable to
                // confirm the write. `check` warns if the server has no append-only file.
                if let Err(error) = wait_for_disk(&mut connection).await {
                    tracing::debug!(error = %error, "cannot confirm that a login or the end of a connection is on disk");
                }
            }
            Durability::Relaxed => {}
        }
        let missing = || StoreError::Unexpected("Redis returned no reply for a commit".to_owned());
        outcomes
            .into_iter()
            .map(|outcome| outcome.ok_or_else(missing))
            .collect()
    }
}
