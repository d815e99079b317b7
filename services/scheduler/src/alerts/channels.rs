//! The channels by which the operator is told of problems, and the heartbeat.
//!
//! Invariant: an error contains neither an address nor a text of the receiver.

use std::time::Duration;

use common::config::alert::{AlertConfig, EmailConfig};
use common::posting::{self, PostError};
use common::records::alert::Channel;
use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::Error as SmtpError;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use secrecy::ExposeSecret as _;

use super::message::Message;

/// How long the mail server may take.
const SMTP_TIMEOUT: Duration = Duration::from_secs(20);

const TOO_LATE: &str = "did not answer within 20 s";

/// The reason why a channel did not accept a message.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The receiver at the address did not accept a post.
    #[error(transparent)]
    Post(#[from] PostError),
    /// The mail server did not accept the message.
    #[error("the mail server {0}")]
    Smtp(&'static str),
    /// A message cannot be built from the settings.
    #[error("a message cannot be built from PAGESYNC_ALERT_EMAIL and PAGESYNC_ALERT_FROM")]
    Message,
}

/// The reason why the channels cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChannelsError {
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be built: {0}")]
    Client(#[from] reqwest::Error),
    /// The address of the mail server is not accepted.
    #[error("PAGESYNC_SMTP_URL cannot be used: {0}")]
    Smtp(&'static str),
}

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// The configured channels.
#[derive(Debug, Clone)]
pub struct Channels {
    config: AlertConfig,
    client: reqwest::Client,
    mail: Option<(Transport, EmailConfig)>,
}

impl Channels {
    /// Returns the configured channels. Fails if a setting cannot be used.
    pub fn new(config: &AlertConfig) -> Result<Self, ChannelsError> {
        let mail = config.email.clone().map(|email| {
            let url = email.smtp_url.expose_secret();
            let transport = Transport::from_url(url).map_err(|error| describe(&error));
            transport.map(|builder| (builder.timeout(Some(SMTP_TIMEOUT)).build(), email))
        });
        Ok(Self {
            config: config.clone(),
            client: posting::client()?,
            mail: mail.transpose().map_err(ChannelsError::Smtp)?,
        })
    }

    /// Returns the channels that are configured.
    pub fn list(&self) -> Vec<Channel> {
        let url = self.config.url.as_ref().map(|_| Channel::Url);
        let email = self.mail.as_ref().map(|_| Channel::Email);
        url.into_iter().chain(email).collect()
    }

    /// Sends a message to a channel. A channel that is not configured accepts every message.
    pub async fn send(&self, channel: Channel, message: &Message) -> Result<(), SendError> {
        match (channel, &self.config.url, &self.mail) {
            (Channel::Url, Some(url), _) => {
                let request = self.client.post(url.expose_secret());
                Ok(posting::send(request.json(&message.json())).await?)
            }
            (Channel::Email, _, Some((transport, email))) => {
                send_mails(transport, email, message).await
            }
            _ => Ok(()),
        }
    }

    /// Calls the address of the heartbeat, if there is one.
    pub async fn heartbeat(&self) -> Result<(), PostError> {
        match &self.config.heartbeat_url {
            Some(url) => posting::send(self.client.get(url.expose_secret())).await,
            None => Ok(()),
        }
    }
}

/// Sends a mail to each recipient, because a server refuses all of them if it refuses one. Fails if no
/// recipient was accepted.
async fn send_mails(
    transport: &Transport,
    email: &EmailConfig,
    message: &Message,
) -> Result<(), SendError> {
    let (mut is_accepted, mut first_error) = (false, None);
    for (n, recipient) in email.to.iter().enumerate() {
        match send_mail(transport, &email.from, recipient, message).await {
            Ok(()) => is_accepted = true,
            Err(error) => {
                tracing::error!(recipient = n + 1, error = %error, "a recipient of PAGESYNC_ALERT_EMAIL gets no mail");
                first_error.get_or_insert(error);
            }
        }
    }
    match first_error.filter(|_| !is_accepted) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

async fn send_mail(
    transport: &Transport,
    from: &str,
    to: &str,
    message: &Message,
) -> Result<(), SendError> {
    let mailbox = |text: &str| text.parse::<Mailbox>().map_err(|_| SendError::Message);
    let mail = lettre::Message::builder()
        .from(mailbox(from)?)
        .to(mailbox(to)?)
        // One that is made up. Some servers refuse a mail without it.
        .message_id(None)
        .subject(message.title())
        .header(ContentType::TEXT_PLAIN)
        .body(message.text());
    let mail = mail.map_err(|_| SendError::Message)?;
    // The timeout of lettre is one for each answer of the server.
    match tokio::time::timeout(SMTP_TIMEOUT, transport.send(mail)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(SendError::Smtp(describe(&error))),
        Err(_) => Err(SendError::Smtp(TOO_LATE)),
    }
}

/// Describes an error without the text of the server, which may repeat what was sent.
fn describe(error: &SmtpError) -> &'static str {
    if error.is_timeout() {
        TOO_LATE
    } else if error.is_permanent() {
        "refused the message, its sender, a recipient or the password"
    } else if error.is_transient() {
        "refused the message for now"
    } else if error.is_tls() {
        "has no TLS, or a certificate that is not trusted"
    } else if error.is_client() {
        "cannot be used with these settings"
    } else {
        "cannot be reached"
    }
}
