//! Our deadline on every operation of the broker, and what its errors mean to us.

use std::future::Future;
use std::time::Duration;

use crate::queue::error::QueueError;

/// Connecting, declaring, closing: each within this.
const OPERATION: Duration = Duration::from_secs(5);

pub(super) async fn bounded<T>(operation: impl Future<Output = T>) -> Result<T, QueueError> {
    let late =
        |_| QueueError::Unavailable(format!("the broker did not answer within {OPERATION:?}"));
    tokio::time::timeout(OPERATION, operation)
        .await
        .map_err(late)
}

pub(super) fn describe(error: &lapin::Error) -> QueueError {
    QueueError::Unavailable(error.to_string())
}
