//! The last part of the demo: a customer writes to a Page, and the example bot answers.
//!
//! The bot is `examples/bot-python/bot.py`. pagesync forwards the message to it, and it uses the HTTP API
//! and the token listener, as any program would. Without Python 3, this part is left out.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use common::clock::Clock;
use common::records::api_key::{self, ApiKey, NewKey, Scope};
use secrecy::ExposeSecret as _;
use serde_json::json;
use simulator::conversation::{Author, CustomerMessage};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::{Demo, TIMEOUT, field};
use crate::demo_pages::DEMO_PAGES;
use crate::output;
use crate::roles::RunningRole;

/// The example bot.
const BOT: &str = include_str!("../../../../examples/bot-python/bot.py");
/// The person who writes to the Page.
const CUSTOMER: &str = "5501";
const QUESTION: &str = "Can I call you?";
const NEW_NAME: &str = "Aurora at the Canal";

impl Demo {
    /// Returns the address at which the bot will listen, or `None` if Python 3 is not on this host.
    pub(super) async fn bot_address() -> anyhow::Result<Option<SocketAddr>> {
        let version = Command::new("python3").arg("--version").output().await;
        if !version.is_ok_and(|output| output.status.success()) {
            return Ok(None);
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        Ok(Some(listener.local_addr()?))
    }

    /// Starts the bot and shows a conversation with it. `directory` is for its program.
    pub(super) async fn show_conversation(
        &self,
        running: &RunningRole,
        bot: Option<SocketAddr>,
        directory: &Path,
    ) -> anyhow::Result<()> {
        let Some(address) = bot else {
            return output::print(
                "\nPython 3 is not on this host, so the example bot of examples/bot-python is not shown.",
            );
        };
        let _bot = self.start_bot(running, address, directory).await?;
        output::print(
            "\nA Page is renamed, and a customer writes to it. pagesync forwards the message to the example bot \
             (examples/bot-python), which answers with what pagesync knows:\n",
        )?;
        let is_renamed = |page: &_| field(page, "name") == json!(NEW_NAME);
        self.change(0, "name", NEW_NAME, is_renamed).await?;
        let page = DEMO_PAGES[0].id;
        let question = CustomerMessage {
            from: CUSTOMER.to_owned(),
            text: QUESTION.to_owned(),
        };
        let written = self.simulator.write_message(page, &question);
        written.map_err(anyhow::Error::msg)?;
        let asked = Instant::now();
        let answer = loop {
            let messages = self
                .simulator
                .facebook()
                .conversations
                .of_page(page)
                .to_vec();
            let mut answers = messages.into_iter();
            if let Some(answer) = answers.find(|message| message.author == Author::Page) {
                break answer.text;
            }
            anyhow::ensure!(asked.elapsed() < TIMEOUT, "the bot did not answer in time");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        };
        output::print(&format!(
            "  customer: {QUESTION}\n  Page:     {answer}\n\nThe answer came after {} ms.",
            asked.elapsed().as_millis()
        ))
    }

    async fn start_bot(
        &self,
        running: &RunningRole,
        address: SocketAddr,
        directory: &Path,
    ) -> anyhow::Result<Child> {
        let script = directory.join("bot.py");
        std::fs::write(&script, BOT)?;
        let tokens = running.tokens.context("there is no token listener")?;
        let graph = self.facebook.clone();
        let mut bot = Command::new("python3")
            .arg(&script)
            .env("PAGESYNC_URL", format!("http://{}", running.private))
            .env("PAGESYNC_KEY", self.create_key(Scope::Read).await?)
            .env("PAGE_TOKENS_URL", format!("http://{tokens}"))
            .env("PAGE_TOKENS_KEY", self.create_key(Scope::Token).await?)
            .env("FACEBOOK_APP_SECRET", &self.app_secret)
            .env("GRAPH_URL", graph)
            .env("BOT_LISTEN", address.to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start python3")?;
        let began = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            let ended = bot.try_wait()?;
            anyhow::ensure!(ended.is_none(), "the example bot ended");
            anyhow::ensure!(began.elapsed() < TIMEOUT, "the bot did not start in time");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Ok(bot)
    }

    /// Creates a key of the HTTP API, as `pagesync api-key create` does. Returns its text.
    async fn create_key(&self, scope: Scope) -> anyhow::Result<String> {
        let new = NewKey::generate().context("the operating system returned no random bytes")?;
        let text = new.text.expose_secret().to_owned();
        let now = Clock::system().now();
        let record = ApiKey {
            name: "the example bot".to_owned(),
            scope,
            hash: api_key::hash(&text),
            pages: None,
            client: None,
            created_at: now,
            expires_at: None,
            revoked_at: None,
        };
        api_key::save(&*self.backends.store, &new.id, &record, now).await?;
        Ok(text)
    }
}
