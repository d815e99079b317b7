//! Acknowledgement of deliveries.

use common::queue::delivery::Delivery;

use crate::context::Context;

/// Acknowledges a delivery. If that fails, the queue delivers the message again, which has no
/// effect.
pub(crate) async fn acknowledge(context: &Context, delivery: Delivery) {
    let jobs = delivery.jobs.len() as u64;
    match delivery.ack().await {
        Ok(()) => {
            context.metrics.jobs_acknowledged.inc_by(jobs);
        }
        Err(error) => {
            tracing::info!(error = %error, "a delivery could not be acknowledged; the queue delivers it again");
        }
    }
}
