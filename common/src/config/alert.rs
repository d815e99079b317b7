//! How the operator is told of problems.
//!
//! Invariant: neither an address of a channel nor the password of the mail server can be printed.

use secrecy::{ExposeSecret as _, SecretString};

use super::forms::parse_web_address;
use super::reader::SettingsReader;

/// How the operator is told of problems.
#[derive(Debug, Clone, Default)]
pub struct AlertConfig {
    /// The address to which alerts are posted.
    pub url: Option<SecretString>,
    /// The mail server and the recipients of alerts.
    pub email: Option<EmailConfig>,
    /// The address that is called each minute while all is well.
    pub heartbeat_url: Option<SecretString>,
}

impl AlertConfig {
    /// Returns whether no channel and no heartbeat is configured.
    pub fn is_empty(&self) -> bool {
        self.url.is_none() && self.email.is_none() && self.heartbeat_url.is_none()
    }
}

/// The mail server and the recipients of alerts.
#[derive(Debug, Clone)]
pub struct EmailConfig {
    /// The recipients.
    pub to: Vec<String>,
    /// The sender.
    pub from: String,
    /// The address of the mail server, with its password.
    pub smtp_url: SecretString,
}

/// Reads the channels of alerts.
pub(super) fn read(reader: &mut SettingsReader<'_>) -> AlertConfig {
    const SMTP: &str = "PAGESYNC_SMTP_URL";
    let url = reader.optional("PAGESYNC_ALERT_URL", parse_web_address);
    let to = reader.optional("PAGESYNC_ALERT_EMAIL", parse_recipients);
    let smtp_url = reader.required_by_role(SMTP, to.is_some(), parse_smtp_url);
    let from = reader.optional("PAGESYNC_ALERT_FROM", parse_mailbox);
    let heartbeat = reader.optional("PAGESYNC_HEARTBEAT_URL", parse_web_address);
    let email = to.zip(smtp_url).map(|(to, smtp_url)| EmailConfig {
        from: from.unwrap_or_else(|| to[0].clone()),
        to,
        smtp_url,
    });
    AlertConfig {
        url: url.map(Into::into),
        email,
        heartbeat_url: heartbeat.map(Into::into),
    }
}

fn parse_recipients(text: &str) -> Option<Vec<String>> {
    text.split(',')
        .map(|mailbox| parse_mailbox(mailbox.trim()))
        .collect()
}

/// Parses the address of a mailbox, as in `name@example.com`.
fn parse_mailbox(text: &str) -> Option<String> {
    let (name, host) = text.rsplit_once('@')?;
    let is_plain = |part: &str| {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b);
        !part.is_empty() && part.len() <= 250 && part.bytes().all(is_allowed)
    };
    (is_plain(name) && is_plain(host)).then(|| text.to_owned())
}

/// Parses the address of a mail server. Without TLS, it must be on a host that is named without a dot, or on
/// this host.
fn parse_smtp_url(text: &str) -> Option<SecretString> {
    let secret = SecretString::from(text.to_owned());
    let text = secret.expose_secret();
    let rest = text.strip_prefix("smtps://").or_else(|| {
        let rest = text.strip_prefix("smtp://")?;
        let is_encrypted = text.ends_with("?tls=required");
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        // The rules for a server without TLS are those for addresses of the web.
        let is_near = parse_web_address(&format!("http://{host}")).is_some();
        (is_encrypted || is_near).then_some(rest)
    })?;
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    (!host.is_empty() && !text.contains(char::is_whitespace)).then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_server_on_the_internet_needs_tls() {
        for accepted in [
            "smtps://ops:pass@mail.example:465",
            "smtp://mail.example:587?tls=required",
            "smtp://mailhog:1025",
            "smtp://ops:p%40ss@127.0.0.1:25",
        ] {
            assert!(parse_smtp_url(accepted).is_some(), "{accepted}");
        }
        for refused in [
            "smtp://ops:pass@mail.example",
            "mail.example",
            "smtps://",
            "http://mail",
        ] {
            assert!(parse_smtp_url(refused).is_none(), "{refused}");
        }
    }

    #[test]
    fn recipients_are_mailboxes() {
        let parsed = parse_recipients("ops@example.com, on-call+pages@mail.example");
        assert_eq!(parsed.unwrap().len(), 2);
        for refused in [
            "ops",
            "ops@",
            "@example.com",
            "ops@exa mple",
            "a@b,",
            "a@b\nBcc: c@d",
        ] {
            assert!(parse_recipients(refused).is_none(), "{refused}");
        }
    }
}
