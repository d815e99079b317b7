//! The distribution of jobs over messages.

use model::job::{Job, encode_job};
use model::queue_name::QueueName;

/// The largest number of jobs in one message.
pub const MAX_JOBS_PER_MESSAGE: usize = 256;
/// The largest number of forwarded deliveries in one message. A message is acknowledged when each of them
/// was sent or stored, so a small one holds fewer others.
const MAX_FORWARDS_PER_MESSAGE: usize = 16;
/// The largest size of a message in bytes. A longer job has a message of its own.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// Returns how many jobs of a queue one message has at most. Each poll has a message of its own, so that
/// the workers share the polls.
pub(super) fn max_jobs(queue_name: QueueName) -> usize {
    match queue_name {
        QueueName::Webhooks => MAX_JOBS_PER_MESSAGE,
        QueueName::Forwards => MAX_FORWARDS_PER_MESSAGE,
        QueueName::Logins | QueueName::PollsNow | QueueName::PollsDaily => 1,
    }
}

/// Encodes jobs and groups them into messages of this queue, as [`max_jobs`] allows.
pub(super) fn split_into_messages(queue_name: QueueName, jobs: &[Job]) -> Vec<Vec<String>> {
    let mut groups: Vec<Vec<String>> = Vec::new();
    let mut bytes = 0;
    for encoded in jobs.iter().map(encode_job) {
        let fits = |group: &Vec<String>| {
            group.len() < max_jobs(queue_name) && bytes + encoded.len() <= MAX_MESSAGE_BYTES
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
