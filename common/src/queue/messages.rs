//! How jobs share messages.

use model::job::{Job, encode_job};
use model::queue_name::QueueName;

/// Most jobs in one message.
pub const MAX_JOBS_PER_MESSAGE: usize = 256;
/// Most bytes in one message, unless a single job is longer.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// Encodes jobs and splits them into the groups that may share a message of this queue. Polls travel
/// alone so that workers share them.
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
