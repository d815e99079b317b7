//! The message of some alerts: a text for people, and JSON for programs.
//!
//! Invariant: names of people and of Pages come from Facebook, where anyone can choose them. They contain no
//! character that would be a link, a mention or a second line in a chat.

use std::time::Duration;

use common::escape::escape_control;
use common::invitation::address_to_log_in_again;
use common::records::alert::{Alert, AlertEvent, AlertKind};
use common::records::connection::{self, Connection};
use common::records::{expiry, load_if_decodable};
use common::store::{StoreError, StoredPage, load_page};
use common::timestamp::rfc3339;
use model::id::{PageId, UserId};
use model::time::HostTime;
use serde_json::{Value as Json, json};

use super::context::AlertContext;
use super::pages::value;

/// How many alerts a message describes. It counts the others.
const MAX_LINES: usize = 20;
/// The longest text, in characters. Discord accepts no more than 2,000.
const MAX_TEXT: usize = 1900;
/// The part of it for the last two lines.
const RESERVED: usize = 300;
/// The longest cause, in characters.
const MAX_CAUSE: usize = 300;
/// How many Pages a line names.
const MAX_PAGES: usize = 5;
/// The longest name, in characters.
const MAX_NAME: usize = 80;

/// A message about alerts of one kind, or a test.
#[derive(Debug, Clone)]
pub struct Message {
    /// The title, in one line.
    title: String,
    /// The name of the event: that of an [`AlertEvent`], or `test`.
    event: &'static str,
    /// The kind of the alerts; `None` for a test.
    kind: Option<AlertKind>,
    /// The client, if all alerts concern the same one.
    client: Option<String>,
    lines: Vec<Line>,
    /// How many alerts the message is about.
    count: usize,
    /// What to do; `None` if there is nothing.
    remedy: Option<&'static str>,
}

/// One alert in a message.
#[derive(Debug, Clone)]
struct Line {
    id: Option<String>,
    client: Option<String>,
    text: String,
    cause: String,
    link: Option<String>,
    opened_at: Option<HostTime>,
}

impl Message {
    /// Returns the message of some alerts of one kind. Fails if the store does not answer.
    pub(super) async fn compose(
        context: &AlertContext,
        event: AlertEvent,
        kind: AlertKind,
        alerts: &[&Alert],
    ) -> Result<Self, StoreError> {
        let client = alerts.first().and_then(|alert| alert.client.clone());
        let is_same = alerts.iter().all(|alert| alert.client == client);
        let mut lines = Vec::new();
        for alert in alerts.iter().take(MAX_LINES) {
            let mut line = line(context, event, alert).await?;
            if let Some(client) = alert.client.as_deref().filter(|_| !is_same) {
                line.text = format!("client {}: {}", clean(client), line.text);
            }
            lines.push(line);
        }
        let client = client.filter(|_| is_same);
        let name = context.config.deployment_name.as_deref();
        Ok(Self {
            title: title(name, event, kind, alerts.len(), client.as_deref()),
            event: event.name(),
            kind: Some(kind),
            client,
            lines,
            count: alerts.len(),
            remedy: (event != AlertEvent::Resolved).then(|| remedy(kind)),
        })
    }

    /// Returns a message about an outage of the store, of which there is no alert.
    pub(super) fn outage(name: Option<&str>, event: AlertEvent) -> Self {
        let kind = AlertKind::ProcessingPaused;
        let text = match event {
            AlertEvent::Resolved => "the store accepts writes again",
            _ => "the store does not accept writes",
        };
        Self {
            title: title(name, event, kind, 1, None),
            event: event.name(),
            kind: Some(kind),
            remedy: (event != AlertEvent::Resolved).then(|| remedy(kind)),
            ..Self::of_text(text)
        }
    }

    /// Returns a test message.
    pub fn test(name: Option<&str>) -> Self {
        Self {
            title: format!("{}: test message", place(name)),
            ..Self::of_text("nothing is wrong")
        }
    }

    fn of_text(text: &str) -> Self {
        let line = Line {
            id: None,
            client: None,
            text: text.to_owned(),
            cause: text.to_owned(),
            link: None,
            opened_at: None,
        };
        Self {
            title: String::new(),
            event: "test",
            kind: None,
            client: None,
            lines: vec![line],
            count: 1,
            remedy: None,
        }
    }

    /// Returns the title, in one line.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Returns the text.
    pub fn text(&self) -> String {
        let mut lines = vec![self.title.clone()];
        let mut length = self.title.chars().count() + RESERVED;
        for line in &self.lines {
            length += line.text.chars().count() + 3;
            if length > MAX_TEXT {
                break;
            }
            lines.push(format!("- {}", line.text));
        }
        let others = self.count - (lines.len() - 1);
        if others > 0 {
            lines.push(format!(
                "- and {others} more: `pagesync alert list` shows all"
            ));
        }
        lines.extend(self.remedy.map(ToOwned::to_owned));
        lines.join("\n")
    }

    /// Returns the JSON that is posted.
    pub fn json(&self) -> Json {
        let alerts = self.lines.iter().map(|line| {
            json!({
                "id": line.id,
                "client": line.client,
                "cause": line.cause,
                "opened_at": line.opened_at.map(rfc3339),
                "link": line.link,
            })
        });
        json!({
            "text": self.text(),
            "event": self.event,
            "kind": self.kind.map(AlertKind::name),
            "client": self.client,
            "count": self.count,
            "alerts": alerts.collect::<Vec<_>>(),
        })
    }
}

/// Returns the name of the deployment, for a title.
fn place(name: Option<&str>) -> String {
    match name {
        Some(name) => format!("pagesync {}", clean(name)),
        None => "pagesync".to_owned(),
    }
}

/// Returns the title of a message about `count` alerts of a kind.
fn title(
    name: Option<&str>,
    event: AlertEvent,
    kind: AlertKind,
    count: usize,
    client: Option<&str>,
) -> String {
    let state = match event {
        AlertEvent::Opened => "",
        AlertEvent::Reminder => "reminder: ",
        AlertEvent::Resolved => "resolved: ",
    };
    let count = match count {
        1 => String::new(),
        count => format!(" ({count})"),
    };
    let client = client.map(|client| format!(", client {}", clean(client)));
    let (place, client) = (place(name), client.unwrap_or_default());
    format!("{place}: {state}{}{count}{client}", name_of(kind))
}

/// Describes one alert.
async fn line(
    context: &AlertContext,
    event: AlertEvent,
    alert: &Alert,
) -> Result<Line, StoreError> {
    let is_open = event != AlertEvent::Resolved;
    let cause = shortened(&alert.cause, MAX_CAUSE);
    let store = &*context.store;
    let connection = match UserId::parse(&alert.subject) {
        Ok(user) => load_if_decodable::<Connection>(store, &connection::key(&user)).await?,
        Err(_) => None,
    };
    let (who, link) = if let Some(connection) = connection {
        let link = login_link(context, alert.kind, &connection.value.user);
        let who = of_person(context, &connection.value, is_open).await?;
        (who, link)
    } else if let Ok(id) = PageId::parse(&alert.subject) {
        let (name, person) = of_page(context, &id).await?;
        (
            name,
            person.and_then(|user| login_link(context, alert.kind, &user)),
        )
    } else {
        (clean(&alert.subject), None)
    };
    let link = link.filter(|_| is_open);
    let what = match alert.resolved_at {
        Some(at) if !is_open => format!("resolved after {}", describe(alert.opened_at.until(at))),
        _ => cause.clone(),
    };
    let text = match &link {
        Some(link) => format!("{who}: {what}. To log in again: {link}"),
        None => format!("{who}: {what}"),
    };
    Ok(Line {
        id: Some(alert.id()),
        client: alert.client.clone(),
        text,
        cause,
        link,
        opened_at: Some(alert.opened_at),
    })
}

/// Returns the name of a person and, if the problem is open, the Pages that depend on them.
async fn of_person(
    context: &AlertContext,
    connection: &Connection,
    is_open: bool,
) -> Result<String, StoreError> {
    let name = connection.name.as_deref().map(clean);
    let person = match name {
        Some(name) => format!("{name} ({})", connection.user),
        None => connection.user.to_string(),
    };
    if !is_open {
        return Ok(person);
    }
    let (count, pages) = expiry::pages_lost(&*context.store, connection).await?;
    if count == 0 {
        return Ok(person);
    }
    let mut names = Vec::new();
    for id in pages.iter().take(MAX_PAGES) {
        names.push(of_page(context, id).await?.0);
    }
    let named = names.join(", ");
    let pages = if count == 1 {
        "1 Page depends"
    } else {
        &format!("{count} Pages depend")
    };
    Ok(match count - names.len() as u64 {
        0 => format!("{person}, on whom {pages} ({named})"),
        others => format!("{person}, on whom {pages} ({named} and {others} more)"),
    })
}

/// Returns the address where a person logs in again, if this mends a problem of the kind.
fn login_link(context: &AlertContext, kind: AlertKind, user: &UserId) -> Option<String> {
    let needs_login = matches!(
        kind,
        AlertKind::LoginEnded
            | AlertKind::LoginEnding
            | AlertKind::PermissionLost
            | AlertKind::PageLost
            | AlertKind::KeyMissing
    );
    needs_login
        .then(|| address_to_log_in_again(&context.config, user, context.clock.now()))
        .flatten()
}

/// Returns the name and the id of a Page, and a person who gives access to it.
async fn of_page(
    context: &AlertContext,
    id: &PageId,
) -> Result<(String, Option<UserId>), StoreError> {
    let stored = load_page(&*context.store, id).await?;
    let StoredPage::Page(page) = stored.value else {
        return Ok((id.to_string(), None));
    };
    let name = value(&page, "name");
    let name = name.as_ref().and_then(Json::as_str).map(clean);
    let text = name.map_or_else(|| id.to_string(), |name| format!("{name} ({id})"));
    Ok((text, page.connections.first().cloned()))
}

/// Returns a name without characters that mean something in a chat.
fn clean(name: &str) -> String {
    shortened(name, MAX_NAME)
}

/// Returns the first characters of a text, without those that mean something in a chat.
fn shortened(text: &str, max: usize) -> String {
    let replaced = |c| match c {
        '<' => '‹',
        '>' => '›',
        '[' => '(',
        ']' => ')',
        '&' => '+',
        '@' => '＠',
        '`' | '*' | '|' => '\'',
        c => c,
    };
    let replaced: String = text.chars().map(replaced).collect();
    // A chat makes a link of what looks like an address.
    let escaped = escape_control(&replaced).replace("://", ":\u{2060}//");
    escaped.chars().take(max).collect()
}

/// Returns a duration in words.
fn describe(lasted: Duration) -> String {
    let minutes = lasted.as_secs() / 60;
    match (minutes / 1440, minutes / 60, minutes) {
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {} min", minutes % 60),
        (days, hours, _) => format!("{days} d {} h", hours % 24),
    }
}

/// Returns what happened, for a title.
fn name_of(kind: AlertKind) -> &'static str {
    match kind {
        AlertKind::LoginEnded => "a login has ended",
        AlertKind::LoginEnding => "a login ends soon",
        AlertKind::PermissionLost => "a permission is missing",
        AlertKind::PageLost => "a Page was lost",
        AlertKind::PageUnpublished => "a Page is not published",
        AlertKind::PageSilent => "Facebook sends no webhooks for a Page",
        AlertKind::WebhooksStopped => "no webhooks arrive",
        AlertKind::PollIncomplete => "a daily poll is not complete",
        AlertKind::BotUnreachable => "the bot accepts no deliveries",
        AlertKind::ChangesNotAccepted => "a destination accepts no changes",
        AlertKind::DeadLetters => "jobs failed for good",
        AlertKind::KeyMissing => "a private key is missing",
        AlertKind::ProcessingPaused => "webhooks and polls are not processed",
    }
}

/// Says what to do about a problem.
fn remedy(kind: AlertKind) -> &'static str {
    match kind {
        AlertKind::LoginEnded => {
            "Ask the person to log in again. Until then, the Pages are not read; webhooks still change them."
        }
        AlertKind::LoginEnding => {
            "Ask the person to log in again before the end. Then nothing is interrupted."
        }
        AlertKind::PermissionLost => {
            "Ask the person to log in again and to allow everything. `pagesync doctor` names the permission."
        }
        AlertKind::PageLost => {
            "Ask the owner whether the Page was deleted or merged. If it exists, the person logs in again and selects it. `pagesync erase page <id>` deletes the copy of a Page that is not needed any more."
        }
        AlertKind::PageUnpublished => {
            "The owner publishes the Page at Facebook. A Page that is to stay unpublished can be snoozed: `pagesync alert snooze`."
        }
        AlertKind::PageSilent => {
            "The daily poll still finds changes. `pagesync missed` shows them, and `pagesync doctor` checks the subscriptions. If many Pages are silent, check at Facebook that the app is live."
        }
        AlertKind::WebhooksStopped => {
            "`pagesync doctor` on the host of the worker checks the webhook address and the app subscription."
        }
        AlertKind::PollIncomplete => {
            "`pagesync connection show <id>` shows the last failure, and `pagesync schedule` the polls."
        }
        AlertKind::BotUnreachable => {
            "Check that the bot runs and answers 200. Deliveries wait for it; those older than PAGESYNC_FORWARD_MAX_AGE become dead letters, which `pagesync dead-letter replay --deliveries` sends again."
        }
        AlertKind::ChangesNotAccepted => {
            "`pagesync destination list` on the host of the api shows the last failure. The last 100,000 changes wait."
        }
        AlertKind::DeadLetters => {
            "`pagesync dead-letter list` shows them. Mend the cause, then `pagesync dead-letter replay --all`; `discard --all` deletes the rest and the counts."
        }
        AlertKind::KeyMissing => {
            "Give the worker the private key of these tokens (PAGESYNC_TOKEN_PRIVATE_KEYS), or let the person log in again."
        }
        AlertKind::ProcessingPaused => {
            "If no worker receives, start it. Otherwise `pagesync doctor` names the cause. Facebook sends webhooks again that are not accepted meanwhile, but only for a limited time."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_link_no_mention_and_no_second_line() {
        let cleaned = clean("<!channel> @here [x](https://evil.example)\n- *now* `a|b` & <@U1>");
        for forbidden in ["<", ">", "@", "[", "\n", "://", "*", "`", "|", "&"] {
            assert!(!cleaned.contains(forbidden), "{cleaned}");
        }
        assert_eq!(clean(&"x".repeat(500)).len(), MAX_NAME);
    }

    #[test]
    fn a_text_fits_into_a_message_of_a_chat_and_counts_what_it_leaves_out() {
        let line = Line {
            text: "x".repeat(400),
            ..Message::test(None).lines.remove(0)
        };
        let message = Message {
            lines: vec![line; MAX_LINES],
            count: 500,
            remedy: Some(remedy(AlertKind::PageLost)),
            ..Message::test(None)
        };
        let text = message.text();
        assert!(text.chars().count() <= MAX_TEXT, "{}", text.len());
        let shown = text.matches("xxx\n").count();
        assert!(shown >= 3, "{shown}");
        assert!(
            text.contains(&format!("- and {} more", 500 - shown)),
            "{text}"
        );
    }

    #[test]
    fn durations_have_two_units() {
        let describe = |minutes: u64| describe(Duration::from_secs(minutes * 60));
        assert_eq!(
            [describe(0), describe(61), describe(3000)],
            ["0 min", "1 h 1 min", "2 d 2 h"]
        );
    }
}
