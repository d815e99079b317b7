//! One search for problems, and the messages about what it found.
//!
//! Invariant: an event is removed from its alert after the channel has accepted a message about it. While a
//! channel accepts nothing, its events wait, and the other channel is not delayed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::pages::COMMIT_BATCH;
use common::posting::PostError;
use common::records::alert::{self, Alert, AlertEvent, AlertKind, Channel, Finding, Step};
use common::retry::DESTINATION;
use common::store::{Commit, RecordWrite, StoreError, Versioned};
use model::time::HostTime;
use tokio::time::Instant;

use super::channels::{Channels, SendError};
use super::context::AlertContext;
use super::find;
use super::message::Message;

/// After which time without an answer of the store the operator is told of it.
const OUTAGE_TOLD_AFTER: Duration = Duration::from_secs(60);
/// How often the address of the heartbeat is called.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// How many clients get a message of their own about the same kind of event.
const MAX_CLIENTS: usize = 10;

/// A channel that did not accept the last message.
#[derive(Debug, Clone, Copy)]
struct Failing {
    failures: u32,
    retry_at: Instant,
}

/// An outage of the store.
#[derive(Debug)]
struct Outage {
    since: Instant,
    /// The channels that were told of it.
    told: BTreeSet<Channel>,
}

/// The result of a search.
#[derive(Debug)]
pub(super) enum Searched {
    /// Another process tells the operator.
    NotOwner,
    /// The stored alerts.
    Alerts(Vec<Alert>),
    /// The store did not answer.
    Failed(StoreError),
}

/// The searches of a process.
pub(super) struct Rounds {
    context: AlertContext,
    channels: Channels,
    /// Whether this process held the lease when the store last answered.
    is_owner: bool,
    outage: Option<Outage>,
    failing: BTreeMap<Channel, Failing>,
    last_heartbeat: Option<Instant>,
}

impl Rounds {
    pub(super) fn new(context: AlertContext, channels: Channels) -> Self {
        Self {
            context,
            channels,
            is_owner: false,
            outage: None,
            failing: BTreeMap::new(),
            last_heartbeat: None,
        }
    }

    /// Searches for problems and stores what has changed, if this process has the lease.
    pub(super) async fn search(&self) -> Searched {
        let searched = async {
            let store = &*self.context.store;
            if !self.has_lease().await? {
                return Ok(Searched::NotOwner);
            }
            let health = store.check().await?;
            if !health.errors.is_empty() {
                return Err(StoreError::Unavailable(health.errors.join("; ")));
            }
            let now = self.context.clock.now();
            let known = alert::list(store).await?;
            let findings = find::find(&self.context, &known, now).await?;
            let changes = self.changes(&known, &findings, now);
            let stored = if changes.is_empty() {
                known
            } else {
                self.save(changes).await?;
                alert::list(store).await?
            };
            let alerts = stored.into_iter().map(|stored| stored.value);
            Ok(Searched::Alerts(alerts.collect()))
        };
        searched.await.unwrap_or_else(Searched::Failed)
    }

    async fn has_lease(&self) -> Result<bool, StoreError> {
        let store = &*self.context.store;
        let now = store.now().await?;
        alert::acquire(store, &self.context.process, now).await
    }

    /// Returns the writes of the alerts that have changed.
    fn changes(
        &self,
        known: &[Versioned<Alert>],
        findings: &[Finding],
        now: HostTime,
    ) -> Vec<RecordWrite> {
        let channels = self.channels.list();
        let mut found: BTreeMap<String, &Finding> = BTreeMap::new();
        for finding in findings {
            found.entry(finding.id()).or_insert(finding);
        }
        let mut writes = Vec::new();
        for Versioned { version, value } in known {
            let id = value.id();
            let finding = found.remove(&id);
            match alert::next(Some(value.clone()), finding, &channels, now) {
                Step::Keep => {}
                Step::Put(alert) => writes.push(alert::put(&alert, *version)),
                Step::Delete => writes.push(RecordWrite::Delete {
                    key: alert::key(&id),
                    expected: Some(*version),
                }),
            }
        }
        for finding in found.into_values() {
            if let Step::Put(alert) = alert::next(None, Some(finding), &channels, now) {
                tracing::warn!(
                    alert = finding.id(),
                    cause = finding.cause,
                    "a problem was found"
                );
                writes.push(alert::put(&alert, 0));
            }
        }
        writes
    }

    /// Executes the writes of alerts. One that is stale, because a command has changed the alert, is repeated
    /// by the next search.
    async fn save(&self, writes: Vec<RecordWrite>) -> Result<(), StoreError> {
        let commit = |write| Commit {
            records: vec![write],
            ..Commit::default()
        };
        let commits: Vec<Commit> = writes.into_iter().map(commit).collect();
        for batch in commits.chunks(COMMIT_BATCH) {
            self.context.store.commit(batch).await?;
        }
        Ok(())
    }

    /// Tells the channels what a search has found, and calls the address of the heartbeat if all is well.
    pub(super) async fn tell(&mut self, searched: Searched) {
        let alerts = match searched {
            Searched::NotOwner => {
                self.is_owner = false;
                // The process with the lease sets the metric.
                self.count(&[]);
                // This process told of an outage, so it also tells of its end.
                return self.end_outage().await;
            }
            Searched::Failed(error) => return self.outage(&error).await,
            Searched::Alerts(alerts) => alerts,
        };
        self.is_owner = true;
        self.end_outage().await;
        self.count(&alerts);
        for channel in self.channels.list() {
            if let Err(error) = self.tell_channel(channel, &alerts).await {
                tracing::warn!(error = %error, "the store does not answer while the operator is told of problems");
                return;
            }
        }
        let is_paused = alerts
            .iter()
            .any(|alert| alert.kind == AlertKind::ProcessingPaused && alert.resolved_at.is_none());
        let is_due = self
            .last_heartbeat
            .is_none_or(|last| last.elapsed() >= HEARTBEAT);
        if is_due && !is_paused && self.failing.is_empty() {
            self.last_heartbeat = Some(Instant::now());
            if let Err(error) = self.channels.heartbeat().await {
                tracing::warn!(error = %error, "the address of PAGESYNC_HEARTBEAT_URL did not accept a call");
            }
        }
    }

    /// Sets the metric of the open problems.
    fn count(&self, alerts: &[Alert]) {
        for kind in AlertKind::ALL {
            let open = alerts.iter().filter(|alert| {
                alert.kind == kind && alert.told_at.is_some() && alert.resolved_at.is_none()
            });
            let count = i64::try_from(open.count()).unwrap_or(i64::MAX);
            self.context.metrics.open_alerts.set(kind.name(), count);
        }
    }

    /// Sends the pending events of a channel, those of one kind and client in one message.
    async fn tell_channel(&mut self, channel: Channel, alerts: &[Alert]) -> Result<(), StoreError> {
        let groups = groups(channel, alerts);
        if groups.is_empty() {
            // The message that was not accepted is out of date.
            self.failing.remove(&channel);
        }
        if self.is_waiting(channel) {
            return Ok(());
        }
        for (event, kind, group) in groups {
            let message = Message::compose(&self.context, event, kind, &group).await?;
            if !self.has_lease().await? {
                return Ok(());
            }
            match self.send(channel, &message).await {
                Ok(()) => {}
                // A receiver that refuses one message may accept the others.
                Err(SendError::Post(PostError::Status(status)))
                    if status.is_client_error() && status.as_u16() != 429 =>
                {
                    continue;
                }
                Err(_) => return Ok(()),
            }
            for told in group {
                alert::change(&*self.context.store, &told.id(), |alert| {
                    if alert.pending.get(&channel) == Some(&event) {
                        alert.pending.remove(&channel);
                    }
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Returns whether a channel that failed is not tried yet.
    fn is_waiting(&self, channel: Channel) -> bool {
        let failing = self.failing.get(&channel);
        failing.is_some_and(|failing| failing.retry_at > Instant::now())
    }

    /// Sends a message. Fails if the channel does not accept it; it is then tried again later.
    async fn send(&mut self, channel: Channel, message: &Message) -> Result<(), SendError> {
        let sent = self.channels.send(channel, message).await;
        let outcome = match &sent {
            Ok(()) => "accepted",
            Err(SendError::Post(error)) => error.label(),
            Err(SendError::Smtp(_) | SendError::Message) => "refused",
        };
        self.context.metrics.alert_messages.count(outcome);
        match &sent {
            Ok(()) => drop(self.failing.remove(&channel)),
            Err(error) => {
                let failing = self.failing.get(&channel);
                let failures = failing.map_or(0, |failing| failing.failures);
                tracing::error!(channel = channel.name(), error = %error, "the operator could not be told of a problem; this is tried again with growing pauses");
                let failing = Failing {
                    failures: failures.saturating_add(1),
                    retry_at: Instant::now() + DESTINATION.delay(failures),
                };
                self.failing.insert(channel, failing);
            }
        }
        sent
    }

    /// Tells the channels of an outage of the store. The process that held the lease does this, because no
    /// record can say that another one has.
    async fn outage(&mut self, error: &StoreError) {
        tracing::warn!(error = %error, "cannot search for problems");
        if !self.is_owner || !error.is_outage() {
            return;
        }
        let outage = self.outage.get_or_insert_with(|| Outage {
            since: Instant::now(),
            told: BTreeSet::new(),
        });
        if outage.since.elapsed() < OUTAGE_TOLD_AFTER {
            return;
        }
        let told = outage.told.clone();
        for channel in self.channels.list() {
            if !told.contains(&channel) && !self.is_waiting(channel) {
                let message = self.outage_message(AlertEvent::Opened);
                if self.send(channel, &message).await.is_ok()
                    && let Some(outage) = &mut self.outage
                {
                    outage.told.insert(channel);
                }
            }
        }
    }

    /// Tells the channels that knew of it that an outage of the store is over.
    async fn end_outage(&mut self) {
        let Some(outage) = &self.outage else {
            return;
        };
        let told = outage.told.clone();
        if let Some(outage) = &mut self.outage {
            // The next outage begins later.
            outage.since = Instant::now();
        }
        for channel in told {
            let message = self.outage_message(AlertEvent::Resolved);
            if !self.is_waiting(channel)
                && self.send(channel, &message).await.is_ok()
                && let Some(outage) = &mut self.outage
            {
                outage.told.remove(&channel);
            }
        }
        self.outage = self.outage.take().filter(|outage| !outage.told.is_empty());
    }

    fn outage_message(&self, event: AlertEvent) -> Message {
        Message::outage(self.context.config.deployment_name.as_deref(), event)
    }
}

/// Returns the pending events of a channel, those of one kind and client together. If one kind of event
/// concerns many clients, they share a message.
fn groups(channel: Channel, alerts: &[Alert]) -> Vec<(AlertEvent, AlertKind, Vec<&Alert>)> {
    let mut by_kind: BTreeMap<_, BTreeMap<_, Vec<&Alert>>> = BTreeMap::new();
    for alert in alerts {
        if let Some(event) = alert.pending.get(&channel) {
            let clients = by_kind.entry((*event, alert.kind)).or_default();
            clients
                .entry(alert.client.as_deref())
                .or_default()
                .push(alert);
        }
    }
    let mut groups = Vec::new();
    for ((event, kind), clients) in by_kind {
        if clients.len() > MAX_CLIENTS {
            groups.push((event, kind, clients.into_values().flatten().collect()));
        } else {
            groups.extend(clients.into_values().map(|group| (event, kind, group)));
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_kind_share_a_message_for_each_client_or_for_all_if_they_are_many() {
        let alert = |client: u64| {
            let mut finding = Finding::new(AlertKind::LoginEnded, client.to_string(), "x");
            finding.client = Some(format!("client {}", client / 2));
            match alert::next(None, Some(&finding), &[Channel::Url], HostTime(1)) {
                Step::Put(alert) => *alert,
                step => panic!("{step:?}"),
            }
        };
        let alerts: Vec<Alert> = (0..20).map(alert).collect();
        assert_eq!(groups(Channel::Url, &alerts).len(), 10);
        assert_eq!(groups(Channel::Email, &alerts).len(), 0);
        let alerts: Vec<Alert> = (0..22).map(alert).collect();
        let shared = groups(Channel::Url, &alerts);
        assert_eq!((shared.len(), shared[0].2.len()), (1, 22));
    }
}
