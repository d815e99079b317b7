//! Alerts: problems of which the operator is told when they open, every day, and when they are resolved.
//!
//! Invariant: a record says of which events each channel still has to be told. An event is removed after the
//! channel has accepted it, so each channel is told of each event at least once, and twice only if a process
//! ends in between. A channel whose message about the opening still waits is not told of the end.

use std::collections::BTreeMap;
use std::time::Duration;

use model::time::HostTime;
use serde::{Deserialize, Serialize};

pub use super::alert_kind::AlertKind;
use super::lease::Lease;
use super::{load_all, load_bodies, load_record, put_write, write_records};
use crate::store::{
    CommitOutcome, RecordKey, RecordKind, RecordWrite, Store, StoreError, Versioned,
};

/// How long a process tells the operator of problems without renewing its lease.
pub const LEASE: Duration = Duration::from_secs(60);
/// How often the operator is reminded of an open problem.
pub const REMINDER: Duration = Duration::from_secs(24 * 3600);
/// How long a resolved problem is remembered. One that opens again meanwhile is told of later than a new
/// one.
pub const REMEMBERED: Duration = Duration::from_secs(3600);
/// After which time a problem that opens again is told of.
const REOPENED: Duration = Duration::from_secs(600);

/// What happened to a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertEvent {
    /// The problem opened.
    Opened,
    /// The problem is still open.
    Reminder,
    /// The problem is resolved.
    Resolved,
}

impl AlertEvent {
    /// Returns the name of the event.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Reminder => "reminder",
            Self::Resolved => "resolved",
        }
    }
}

/// A way in which the operator is told of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// A post to `PAGESYNC_ALERT_URL`.
    Url,
    /// A message to `PAGESYNC_ALERT_EMAIL`.
    Email,
}

impl Channel {
    /// Returns the name of the channel.
    pub fn name(self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::Email => "email",
        }
    }
}

/// A problem as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The kind of the problem.
    pub kind: AlertKind,
    /// What has the problem: the id of a person or of a Page, or another name.
    pub subject: String,
    /// The client whose Pages are concerned.
    pub client: Option<String>,
    /// The cause, without a name of a person or of a Page.
    pub cause: String,
    /// The step of a problem that gets worse. A new step is a reminder, and there is no daily one.
    pub step: Option<u64>,
}

impl Finding {
    /// Returns a finding without a client or a step.
    pub fn new(kind: AlertKind, subject: impl Into<String>, cause: impl Into<String>) -> Self {
        Self {
            kind,
            subject: subject.into(),
            client: None,
            cause: cause.into(),
            step: None,
        }
    }

    /// Returns the id of the alert of this problem.
    pub fn id(&self) -> String {
        format!("{}.{}", self.kind.name(), self.subject)
    }
}

/// A problem of which the operator is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// The kind of the problem.
    pub kind: AlertKind,
    /// What has the problem.
    pub subject: String,
    /// The client whose Pages are concerned.
    #[serde(default)]
    pub client: Option<String>,
    /// The cause.
    pub cause: String,
    /// The step of a problem that gets worse.
    #[serde(default)]
    pub step: Option<u64>,
    /// When the problem was found, on the host's clock.
    pub opened_at: HostTime,
    /// Whether the problem opened again soon after it had been resolved.
    #[serde(default)]
    pub is_reopened: bool,
    /// When the last event happened, on the host's clock; `None` before the operator is told.
    #[serde(default)]
    pub told_at: Option<HostTime>,
    /// The events of which channels still have to be told.
    #[serde(default)]
    pub pending: BTreeMap<Channel, AlertEvent>,
    /// Until when there are no reminders, on the host's clock.
    #[serde(default)]
    pub snoozed_until: Option<HostTime>,
    /// When the problem was resolved, on the host's clock; `None` while it is open.
    #[serde(default)]
    pub resolved_at: Option<HostTime>,
}

/// What becomes of the record of an alert.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It stays as it is.
    Keep,
    /// It is written.
    Put(Box<Alert>),
    /// It is deleted.
    Delete,
}

impl Alert {
    fn new(finding: &Finding, now: HostTime) -> Self {
        Self {
            kind: finding.kind,
            subject: finding.subject.clone(),
            client: finding.client.clone(),
            cause: finding.cause.clone(),
            step: finding.step,
            opened_at: now,
            is_reopened: false,
            told_at: None,
            pending: BTreeMap::new(),
            snoozed_until: None,
            resolved_at: None,
        }
    }

    /// Returns the id of the alert.
    pub fn id(&self) -> String {
        format!("{}.{}", self.kind.name(), self.subject)
    }

    /// Adds an event for each of `channels`.
    fn tell(&mut self, event: AlertEvent, channels: &[Channel], now: HostTime) {
        self.told_at = Some(now);
        for channel in channels {
            match (self.pending.get(channel), event) {
                // A channel that does not know of the problem gets its opening, or nothing.
                (Some(AlertEvent::Opened), AlertEvent::Resolved) => {
                    self.pending.remove(channel);
                }
                (Some(AlertEvent::Opened), _) => {}
                _ => {
                    self.pending.insert(*channel, event);
                }
            }
        }
    }

    /// Opens the alert again.
    fn reopen(&mut self, channels: &[Channel], now: HostTime) {
        if self.told_at.is_none() {
            // The operator was not told since it opened again for the first time.
            return;
        }
        self.is_reopened = true;
        self.opened_at = now;
        let unaware = |event: &AlertEvent| *event == AlertEvent::Resolved;
        if !self.pending.values().any(unaware) {
            self.told_at = None;
            return;
        }
        // A channel that was not told of the end is told nothing, and the others of the new opening.
        let aware = channels
            .iter()
            .filter(|channel| !self.pending.contains_key(channel));
        let aware: Vec<Channel> = aware.copied().collect();
        self.pending.retain(|_, event| !unaware(event));
        self.tell(AlertEvent::Opened, &aware, now);
    }

    /// Returns what becomes of the alert while its problem is found.
    fn found(mut self, finding: &Finding, channels: &[Channel], now: HostTime) -> Step {
        let before = self.clone();
        let is_snoozed = self.snoozed_until.is_some_and(|until| until > now);
        // A step that is reached meanwhile is told when the alert is not snoozed any more.
        let is_worse = !is_snoozed && finding.step < self.step;
        self.client.clone_from(&finding.client);
        self.cause.clone_from(&finding.cause);
        if !is_snoozed {
            self.step = finding.step;
        }
        if self.resolved_at.take().is_some() {
            self.reopen(channels, now);
        }
        let grace = if self.is_reopened {
            REOPENED
        } else {
            self.kind.grace()
        };
        match self.told_at {
            None if self.opened_at.until(now) >= grace => {
                self.tell(AlertEvent::Opened, channels, now);
            }
            None => {}
            Some(_) if is_snoozed => {}
            Some(told) => {
                let is_due = self.step.is_none() && told.until(now) >= REMINDER;
                if is_due || is_worse {
                    self.tell(AlertEvent::Reminder, channels, now);
                }
            }
        }
        if self == before {
            Step::Keep
        } else {
            Step::Put(Box::new(self))
        }
    }

    /// Returns what becomes of the alert when its problem is not found any more.
    fn not_found(mut self, channels: &[Channel], now: HostTime) -> Step {
        match (self.resolved_at, self.told_at) {
            (Some(at), _) if at.until(now) >= REMEMBERED && self.pending.is_empty() => Step::Delete,
            // A channel that accepts nothing, or is not configured any more, keeps no alert for ever.
            (Some(at), _) if at.until(now) >= REMINDER => Step::Delete,
            (Some(_), _) => Step::Keep,
            // A problem that comes and goes is remembered, so that it is told when it does so for long.
            (None, None) if self.is_reopened => {
                self.resolved_at = Some(now);
                Step::Put(Box::new(self))
            }
            (None, None) => Step::Delete,
            (None, Some(_)) => {
                self.tell(AlertEvent::Resolved, channels, now);
                self.resolved_at = Some(now);
                Step::Put(Box::new(self))
            }
        }
    }
}

/// Returns what becomes of an alert. `stored` is `None` if there is none, and `finding` is `None` if the
/// problem does not exist at `now`.
pub fn next(
    stored: Option<Alert>,
    finding: Option<&Finding>,
    channels: &[Channel],
    now: HostTime,
) -> Step {
    match (stored, finding) {
        (None, None) => Step::Keep,
        (None, Some(finding)) => match Alert::new(finding, now).found(finding, channels, now) {
            // The alert does not exist yet.
            Step::Keep => Step::Put(Box::new(Alert::new(finding, now))),
            step => step,
        },
        (Some(alert), Some(finding)) => alert.found(finding, channels, now),
        (Some(alert), None) => alert.not_found(channels, now),
    }
}

/// Returns the key of an alert.
pub fn key(id: &str) -> RecordKey {
    RecordKey::new(RecordKind::Alert, id)
}

/// Returns the write of an alert that has the version `expected`.
pub fn put(alert: &Alert, expected: u64) -> RecordWrite {
    put_write(key(&alert.id()), alert, Some(expected), None)
}

/// Returns every alert, also the resolved ones that are remembered.
pub async fn list(store: &dyn Store) -> Result<Vec<Versioned<Alert>>, StoreError> {
    let all = load_all::<Alert>(store, RecordKind::Alert, "").await?;
    Ok(all.into_iter().map(|(_, stored)| stored).collect())
}

/// Changes an alert. Returns the new alert, or `None` if there is none.
pub async fn change(
    store: &dyn Store,
    id: &str,
    change: impl Fn(&mut Alert),
) -> Result<Option<Alert>, StoreError> {
    loop {
        let Some(Versioned { version, mut value }) = load_record::<Alert>(store, &key(id)).await?
        else {
            return Ok(None);
        };
        change(&mut value);
        if write_records(store, vec![put(&value, version)]).await? == CommitOutcome::Applied {
            return Ok(Some(value));
        }
    }
}

/// Deletes the alerts about these Pages and people, also those that this build cannot decode.
pub async fn delete_of(store: &dyn Store, ids: &[String]) -> Result<(), StoreError> {
    let stored = load_bodies(store, RecordKind::Alert, "").await?;
    let subject = |key: &RecordKey| {
        key.id
            .split_once('.')
            .map(|(_, subject)| subject.to_owned())
    };
    let of_ids = stored
        .into_iter()
        .map(|(key, _)| key)
        .filter(|key| subject(key).is_some_and(|subject| ids.contains(&subject)));
    let deletes: Vec<RecordWrite> = of_ids
        .map(|key| RecordWrite::Delete {
            key,
            expected: None,
        })
        .collect();
    if !deletes.is_empty() {
        write_records(store, deletes).await?;
    }
    Ok(())
}

fn lease_key() -> RecordKey {
    RecordKey::new(RecordKind::AlertLease, "alerts")
}

/// Takes or renews the lease of the process that tells the operator of problems. Returns whether `process`
/// has it. `now` is the time of the clock of the store.
pub async fn acquire(store: &dyn Store, process: &str, now: HostTime) -> Result<bool, StoreError> {
    loop {
        let stored = load_record::<Lease>(store, &lease_key()).await?;
        let (version, lease) =
            stored.map_or_else(Default::default, |stored| (stored.version, stored.value));
        if !lease.is_free_for(process, now) {
            return Ok(false);
        }
        if lease.is_of(process) && now.until(lease.owned_until) > LEASE / 2 {
            return Ok(true);
        }
        let lease = Lease::of(process, now.plus(LEASE));
        let write = put_write(lease_key(), &lease, Some(version), None);
        // Another task of this process may have renewed the lease meanwhile.
        if write_records(store, vec![write]).await? == CommitOutcome::Applied {
            return Ok(true);
        }
    }
}

/// Ends the lease of a process that stops, so that another one goes on at once.
pub async fn release(store: &dyn Store, process: &str) -> Result<(), StoreError> {
    let stored = load_record::<Lease>(store, &lease_key()).await?;
    let Some(stored) = stored.filter(|stored| stored.value.is_of(process)) else {
        return Ok(());
    };
    // If another process has taken the lease meanwhile, the write is stale.
    let write = put_write(lease_key(), &Lease::default(), Some(stored.version), None);
    write_records(store, vec![write]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Channel; 2] = [Channel::Url, Channel::Email];

    fn at(minutes: u64) -> HostTime {
        HostTime(1_790_000_000_000 + minutes * 60_000)
    }

    fn put(step: Step) -> Alert {
        match step {
            Step::Put(alert) => *alert,
            step => panic!("{step:?}"),
        }
    }

    /// Returns an alert whose messages were accepted.
    fn accepted(alert: &Alert) -> Alert {
        Alert {
            pending: BTreeMap::new(),
            ..alert.clone()
        }
    }

    #[test]
    fn a_problem_is_told_when_it_opens_every_day_and_when_it_is_resolved() {
        let finding = Finding::new(AlertKind::LoginEnded, "7", "the token is invalid");
        let step = |stored, minutes| next(stored, Some(&finding), &BOTH, at(minutes));
        let opened = put(step(None, 0));
        assert_eq!(opened.pending, BOTH.map(|c| (c, AlertEvent::Opened)).into());
        assert_eq!(step(Some(accepted(&opened)), 1439), Step::Keep);
        let reminded = put(step(Some(accepted(&opened)), 1440));
        let pending = BOTH.map(|c| (c, AlertEvent::Reminder)).into();
        assert_eq!(reminded.pending, pending);
        let resolved = put(next(Some(accepted(&reminded)), None, &BOTH, at(1500)));
        let pending = BOTH.map(|c| (c, AlertEvent::Resolved)).into();
        assert_eq!(resolved.pending, pending);
        let later = |minutes| next(Some(accepted(&resolved)), None, &BOTH, at(minutes));
        assert_eq!(later(1559), Step::Keep);
        assert_eq!(later(1560), Step::Delete);
    }

    #[test]
    fn a_channel_that_was_not_told_of_a_problem_is_not_told_of_its_end() {
        let finding = Finding::new(AlertKind::LoginEnded, "7", "the token is invalid");
        let mut opened = put(next(None, Some(&finding), &BOTH, at(0)));
        opened.pending.remove(&Channel::Url);
        let reminded = put(next(Some(opened), Some(&finding), &BOTH, at(1440)));
        let expected = [
            (Channel::Url, AlertEvent::Reminder),
            (Channel::Email, AlertEvent::Opened),
        ];
        assert_eq!(reminded.pending, expected.into());
        let resolved = put(next(Some(reminded), None, &BOTH, at(1441)));
        let expected = [(Channel::Url, AlertEvent::Resolved)];
        assert_eq!(resolved.pending, expected.into());
    }

    #[test]
    fn a_short_problem_and_one_that_comes_and_goes_are_told_of_late() {
        let finding = Finding::new(AlertKind::BotUnreachable, "bot", "no connection");
        let step = |stored, minutes| next(stored, Some(&finding), &BOTH, at(minutes));
        let seen = put(step(None, 0));
        assert_eq!((seen.told_at, seen.pending.len()), (None, 0));
        assert_eq!(next(Some(seen.clone()), None, &BOTH, at(0)), Step::Delete);
        let opened = put(step(Some(seen), 1));
        assert_eq!(opened.told_at, Some(at(1)));
        let resolved = put(next(Some(accepted(&opened)), None, &BOTH, at(2)));
        let again = put(step(Some(accepted(&resolved)), 5));
        assert_eq!((again.told_at, again.is_reopened), (None, true));
        // It comes and goes, and is told of ten minutes after it came again for the first time.
        let gone = put(next(Some(again.clone()), None, &BOTH, at(6)));
        assert_eq!((gone.resolved_at, gone.pending.len()), (Some(at(6)), 0));
        let back = put(step(Some(gone), 7));
        assert_eq!((back.resolved_at, back.opened_at), (None, at(5)));
        assert_eq!(put(step(Some(back), 15)).told_at, Some(at(15)));
        assert_eq!(step(Some(again.clone()), 14), Step::Keep);
        assert_eq!(put(step(Some(again), 15)).told_at, Some(at(15)));
    }

    #[test]
    fn a_channel_that_was_not_told_of_an_end_is_not_told_that_the_problem_opens_again() {
        let finding = Finding::new(AlertKind::LoginEnded, "7", "the token is invalid");
        let opened = put(next(None, Some(&finding), &BOTH, at(0)));
        let mut resolved = put(next(Some(accepted(&opened)), None, &BOTH, at(1)));
        resolved.pending.remove(&Channel::Url);
        let again = put(next(Some(resolved), Some(&finding), &BOTH, at(2)));
        assert_eq!(again.pending, [(Channel::Url, AlertEvent::Opened)].into());
    }

    #[test]
    fn a_snoozed_problem_has_no_reminders_and_a_step_replaces_the_daily_ones() {
        let mut finding = Finding::new(AlertKind::LoginEnding, "7", "14 days");
        finding.step = Some(14);
        let opened = put(next(None, Some(&finding), &BOTH, at(0)));
        let known = accepted(&opened);
        let step = |stored: &Alert, finding: &_, days: u64| {
            next(Some(stored.clone()), Some(finding), &BOTH, at(days * 1440))
        };
        assert_eq!(step(&known, &finding, 2), Step::Keep);
        finding.step = Some(7);
        let reminded = put(step(&known, &finding, 7));
        assert_eq!(reminded.pending.len(), 2);
        let snoozed = Alert {
            snoozed_until: Some(at(10 * 1440)),
            ..known
        };
        assert_eq!(step(&snoozed, &finding, 7), Step::Keep);
        assert_eq!(put(step(&snoozed, &finding, 10)).pending.len(), 2);
    }
}
