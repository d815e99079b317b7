//! Sending commits: one script call per commit, many in one pipeline.

use deadpool_redis::Connection;
use redis::{Pipeline, ServerErrorKind};

use super::client::{COMMIT, RedisStore};
use super::disk::{cannot_be_polled_again, wait_for_disk};
use super::durability::Durability;
use super::payload::Payload;
use super::reply::{outcome, unavailable};
use crate::store::{Commit, CommitOutcome, StoreError};

impl RedisStore {
    /// Sends commits in one pipeline and returns their outcomes in order.
    pub(super) async fn commit_batch(
        &self,
        commits: &[Commit],
    ) -> Result<Vec<CommitOutcome>, StoreError> {
        let payloads: Vec<Payload> = commits.iter().map(Payload::new).collect();
        let mut connection = self.connection().await?;
        let mut outcomes: Vec<Option<CommitOutcome>> = vec![None; payloads.len()];
        // By its name; where the server does not know it (any more), by its text: others may flush the
        // scripts between two calls.
        for (command, script) in [("EVALSHA", self.commit.get_hash()), ("EVAL", COMMIT)] {
            let open: Vec<usize> = (0..payloads.len())
                .filter(|i| outcomes[*i].is_none())
                .collect();
            let mut pipeline = Pipeline::with_capacity(open.len());
            for i in &open {
                let Payload { keys, commit } = &payloads[*i];
                let call = pipeline.cmd(command).arg(script).arg(keys.len());
                call.arg(keys).arg(commit);
            }
            let mut is_known = true;
            for (i, answer) in open
                .into_iter()
                .zip(self.ask(&mut connection, &mut pipeline).await?)
            {
                match answer {
                    Ok(reply) => outcomes[i] = Some(outcome(reply)?),
                    Err(error) if error.kind() == ServerErrorKind::NoScript.into() => {
                        is_known = false;
                    }
                    Err(error) => {
                        if error.kind() == ServerErrorKind::ReadOnly.into() {
                            // A replica since a failover: this connection must not come back.
                            drop(Connection::take(connection));
                        }
                        return Err(unavailable(&error));
                    }
                }
            }
            if is_known {
                break;
            }
        }
        if self.durability == Durability::Fsync {
            wait_for_disk(&mut connection).await?;
        } else if commits.iter().any(cannot_be_polled_again) {
            // As far as this server can say; `check` warns of one that cannot.
            if let Err(error) = wait_for_disk(&mut connection).await {
                tracing::debug!(error = %error, "a token was written, and is not known to be on disk");
            }
        }
        let unanswered = || StoreError::Unexpected("a commit without an answer".to_owned());
        outcomes
            .into_iter()
            .map(|outcome| outcome.ok_or_else(unanswered))
            .collect()
    }
}
