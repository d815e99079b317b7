//! The kinds and keys of records.
//!
//! Invariant: the name of a kind is stored, so it never changes.

/// A kind of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// A job that failed for good: [`crate::records::dead_letter`].
    DeadLetter,
    /// A dead letter that the worker retries: [`crate::records::dead_letter::next_retryable`].
    DeadLetterRetry,
    /// A count of dead letters on one day: [`crate::records::dead_letter::usage`].
    DeadLetterCount,
    /// The record that [`crate::store::Store::check`] writes to test the store.
    Check,
    /// A login under way: [`crate::records::login`].
    Login,
    /// A login whose code was exchanged: [`crate::records::token_exchange`].
    TokenExchange,
    /// A person who logged in: [`crate::records::connection`].
    Connection,
    /// An invitation to log in: [`crate::records::invitation`].
    Invitation,
    /// The epoch of a connection, which guards commits made with its tokens:
    /// [`crate::records::connection`].
    ConnectionEpoch,
    /// The sealed token of a person: [`crate::records::token`].
    UserToken,
    /// The sealed token of a Page, from one connection poll: [`crate::records::token`].
    PageToken,
    /// The inspections of a person's token: [`crate::records::token_inspection`].
    TokenInspection,
    /// The Page subscription of the app: [`crate::records::page_subscription`].
    PageSubscription,
    /// The Facebook app of this store and the app subscription: [`crate::records::app`].
    App,
    /// The state of one of Facebook's rate limits: [`crate::records::rate_limit`].
    RateLimit,
    /// A field that Graph refused: [`crate::records::excluded_field`].
    ExcludedField,
    /// The daily poll of one connection on one day: [`crate::records::daily_poll`].
    DailyPoll,
    /// A count of changes of one field on one day: [`crate::records::missed_webhooks`].
    ChangeCount,
    /// An unannounced change: [`crate::records::missed_webhooks`].
    UnannouncedChange,
    /// A count of dropped parts of webhooks on one day: [`crate::records::dropped`].
    DroppedCount,
    /// The receipt of an erasure request: [`crate::records::erasure`].
    ErasureReceipt,
    /// A probe that the worker has received: [`crate::records::probe`].
    Probe,
    /// The webhook test of a login: [`crate::records::probe`].
    WebhookTest,
    /// A key of the HTTP API: [`crate::records::api_key`].
    ApiKey,
    /// A destination of changes: [`crate::records::destination`].
    Destination,
    /// The state of forwarding: [`crate::records::forwarding`].
    Forwarding,
    /// A delivery that could not be forwarded yet: [`crate::records::waiting_delivery`].
    WaitingDelivery,
    /// A problem of which the operator is told: [`crate::records::alert`].
    Alert,
    /// Which process tells the operator of problems: [`crate::records::alert`].
    AlertLease,
    /// An hour in which webhooks arrived: [`crate::records::webhook_hour`].
    WebhookHour,
    /// An action of the HTTP API: [`crate::records::audit`].
    Audit,
    /// The trials of a job that was delivered too often: [`crate::records::trial`].
    Trial,
}

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 32] = [
        Self::DeadLetter,
        Self::DeadLetterRetry,
        Self::DeadLetterCount,
        Self::Check,
        Self::Login,
        Self::TokenExchange,
        Self::Connection,
        Self::Invitation,
        Self::ConnectionEpoch,
        Self::UserToken,
        Self::PageToken,
        Self::TokenInspection,
        Self::PageSubscription,
        Self::App,
        Self::RateLimit,
        Self::ExcludedField,
        Self::DailyPoll,
        Self::ChangeCount,
        Self::UnannouncedChange,
        Self::DroppedCount,
        Self::ErasureReceipt,
        Self::Probe,
        Self::WebhookTest,
        Self::ApiKey,
        Self::Destination,
        Self::Forwarding,
        Self::WaitingDelivery,
        Self::Alert,
        Self::AlertLease,
        Self::WebhookHour,
        Self::Audit,
        Self::Trial,
    ];

    /// Returns the name of the kind as it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::DeadLetter => "dead_letter",
            Self::DeadLetterRetry => "dead_letter_retry",
            Self::DeadLetterCount => "dead_letter_count",
            Self::Check => "check",
            Self::Login => "login",
            Self::TokenExchange => "token_exchange",
            Self::Connection => "connection",
            Self::Invitation => "invitation",
            Self::ConnectionEpoch => "connection_epoch",
            Self::UserToken => "user_token",
            Self::PageToken => "page_token",
            Self::TokenInspection => "token_inspection",
            Self::PageSubscription => "page_subscription",
            Self::App => "app",
            Self::RateLimit => "rate_limit",
            Self::ExcludedField => "excluded_field",
            Self::DailyPoll => "daily_poll",
            Self::ChangeCount => "change_count",
            Self::UnannouncedChange => "unannounced_change",
            Self::DroppedCount => "dropped_count",
            Self::ErasureReceipt => "erasure_receipt",
            Self::Probe => "probe",
            Self::WebhookTest => "webhook_test",
            Self::ApiKey => "api_key",
            Self::Destination => "destination",
            Self::Forwarding => "forwarding",
            Self::WaitingDelivery => "waiting_delivery",
            Self::Alert => "alert",
            Self::AlertLease => "alert_lease",
            Self::WebhookHour => "webhook_hour",
            Self::Audit => "audit",
            Self::Trial => "trial",
        }
    }
}

/// The key of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// The kind of the record.
    pub kind: RecordKind,
    /// The id of the record, unique within its kind.
    pub id: String,
}

impl RecordKey {
    /// Returns the key of the record `id` of `kind`.
    pub fn new(kind: RecordKind, id: impl Into<String>) -> Self {
        Self {
            kind,
            id: id.into(),
        }
    }
}
