//! Acknowledging deliveries.

use common::queue::delivery::Delivery;

use crate::context::Context;

/// Acknowledges. If that fails the message comes again and has no effect.
pub(crate) async fn acknowledge(context: &Context, delivery: Delivery) {
    let jobs = delivery.jobs.len() as u64;
    match delivery.ack().await {
        Ok(()) => {
            context.metrics.jobs_acknowledged.inc_by(jobs);
        }
        Err(error) => {
            tracing::info!(error = %error, "an acknowledgement did not arrive; the message comes again");
        }
    }
}
