//! The distribution of jobs over messages.

use model::job::{Job, encode_job};
use model::queue_name::QueueName;

/// The largest number of jobs in one message.
pub const MAX_JOBS_PER_MESSAGE: usize = 256;
/// The largest size of a message in bytes. A longer job has a message of its own.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// Encodes jobs and groups them into messages of this queue. Webhook jobs share messages. Each poll
/// has a message of its own, so that the workers share the polls.
pub(super) fn split_into_messages(queue_name: QueueName, jobs: &[Job]) -> Vec<Vec<String>> {
    let mut groups: Vec<Vec<String>> = Vec::new();
    let mut bytes = 0;
    for encoded in jobs.iter().map(encode_job) {
        let fits = |group: &Vec<String>| {
            queue_name == QueueName::Webhooks
                && group.len() < MAX_JOBS_PER_MESSAGE
                && bytes + encoded.len() <= MAX_MESSAGE_BYTES
        };
        if let Some(group) = groups.last_mut().filter(|group| fits(group)) {
            bytes += encoded.len();
            group.push(encoded);
        } else {
            bytes = encoded.len();
            groups.push(vec![encoded]);
        }
    }
    groups
}
