//! The kinds of problems of which the operator is told.
//!
//! Invariant: the name of a kind is stored and is part of the ids of alerts, so it never changes.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A kind of problem.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// The token of a person is invalid.
    LoginEnded,
    /// The token of a person, or their data access, expires soon.
    LoginEnding,
    /// Facebook refuses reads of a Page or of a person's Pages because a permission is missing.
    PermissionLost,
    /// A Page does not exist any more, or nobody gives access to it.
    PageLost,
    /// A Page is not published.
    PageUnpublished,
    /// A change of a Page was missed, and no webhook was sent for the Page since.
    PageSilent,
    /// No webhook arrives: the app subscription has a problem, or the silence is unusual.
    WebhooksStopped,
    /// The daily poll of a person's Pages is not complete for more than a day.
    PollIncomplete,
    /// The program to which deliveries are forwarded accepts none, or does not accept one of them.
    BotUnreachable,
    /// A destination of changes accepts none.
    ChangesNotAccepted,
    /// Jobs failed for good.
    DeadLetters,
    /// The worker does not have the key to which a token is sealed.
    KeyMissing,
    /// Webhooks and polls are not processed.
    ProcessingPaused,
}

impl AlertKind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::LoginEnded,
        Self::LoginEnding,
        Self::PermissionLost,
        Self::PageLost,
        Self::PageUnpublished,
        Self::PageSilent,
        Self::WebhooksStopped,
        Self::PollIncomplete,
        Self::BotUnreachable,
        Self::ChangesNotAccepted,
        Self::DeadLetters,
        Self::KeyMissing,
        Self::ProcessingPaused,
    ];

    /// Returns the name of the kind, as it is stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::LoginEnded => "login_ended",
            Self::LoginEnding => "login_ending",
            Self::PermissionLost => "permission_lost",
            Self::PageLost => "page_lost",
            Self::PageUnpublished => "page_unpublished",
            Self::PageSilent => "page_silent",
            Self::WebhooksStopped => "webhooks_stopped",
            Self::PollIncomplete => "poll_incomplete",
            Self::BotUnreachable => "bot_unreachable",
            Self::ChangesNotAccepted => "changes_not_accepted",
            Self::DeadLetters => "dead_letters",
            Self::KeyMissing => "key_missing",
            Self::ProcessingPaused => "processing_paused",
        }
    }

    /// Returns how long a problem of the kind must last before the operator is told of it. A shorter one is
    /// often part of a restart.
    pub fn grace(self) -> Duration {
        Duration::from_secs(match self {
            Self::BotUnreachable => 60,
            Self::ProcessingPaused => 120,
            Self::ChangesNotAccepted => 300,
            Self::PageLost | Self::WebhooksStopped => 600,
            _ => 0,
        })
    }
}
