//! The deadline of an operation of the broker, and the conversion of lapin's errors.

use std::future::Future;
use std::time::Duration;

use crate::queue::error::QueueError;

/// The deadline of one operation: connecting, declaring, acknowledging or closing.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs an operation of the broker. Fails if it takes longer than [`OPERATION_TIMEOUT`].
pub(super) async fn with_timeout<T>(operation: impl Future<Output = T>) -> Result<T, QueueError> {
    let timed_out = |_| {
        QueueError::Unavailable(format!(
            "the broker did not answer within {OPERATION_TIMEOUT:?}"
        ))
    };
    tokio::time::timeout(OPERATION_TIMEOUT, operation)
        .await
        .map_err(timed_out)
}

/// Converts an error of lapin.
pub(super) fn unavailable(error: &lapin::Error) -> QueueError {
    QueueError::Unavailable(error.to_string())
}
