//! `pagesync connection import`: connects the person or the system user that a token belongs to.
//!
//! Invariant: the token is read from standard input or from a file, is sealed at once, and is in no
//! argument, no output and no log.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use common::clock::Clock;
use common::config::Config;
use common::records::token_exchange::{self, Stage, TokenExchange};
use common::records::{commit_one, load_record};
use common::sealer::Sealer;
use common::sealing::Token;
use common::store::{CommitOutcome, Store};
use model::hex::hex;
use model::id::{LoginId, UserId};

use crate::output;

/// The longest token that is accepted, in bytes.
const MAX_TOKEN: usize = 4096;
/// How long the command waits for a worker.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The time between two reads of the progress.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Imports the token in `file`, or in standard input without one. Waits until a worker has connected
/// its owner.
pub async fn run(config: &Config, store: &dyn Store, file: Option<&Path>) -> anyhow::Result<()> {
    let token = read_token(file)?;
    let (public, private) = (&config.token_public_key, &config.token_private_keys);
    let sealer = Sealer::new(public.as_ref(), private.as_ref(), &config.data_dir)?;
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("the operating system returned no random bytes")?;
    let id = LoginId::parse(&hex(&bytes)).context("the id of a login has 64 digits")?;
    let sealed = sealer.seal(&token, &token_exchange::seal_name(&id))?;
    let now = Clock::system().now();
    let exchange = TokenExchange::new(sealed, now, true);
    let commit = token_exchange::begin_commit(&id, &exchange, now);
    if commit_one(store, commit).await? != CommitOutcome::Applied {
        bail!("the import could not be stored: run the command again");
    }
    wait(store, &id).await
}

/// Waits until a worker has completed the import, and prints the result.
async fn wait(store: &dyn Store, id: &LoginId) -> anyhow::Result<()> {
    let key = token_exchange::key(id);
    let completed = async {
        let mut interval = tokio::time::interval(CHECK_INTERVAL);
        loop {
            interval.tick().await;
            let stored = load_record::<TokenExchange>(store, &key).await?;
            match stored.map(|stored| stored.value.stage) {
                Some(Stage::Sealed(_)) => {}
                Some(Stage::Connected(user)) => return Ok(user),
                Some(Stage::Failed(reason)) => bail!("the token cannot be used: {reason}"),
                None => bail!("the import has expired: run the command again"),
            }
        }
    };
    let Ok(completed) = tokio::time::timeout(TIMEOUT, completed).await else {
        return output::print(
            "no worker has taken the token yet; it is connected as soon as a worker runs, within an hour",
        );
    };
    let user: UserId = completed?;
    output::print(&format!(
        "connected {user}; `pagesync connection show {user}` shows the Pages as soon as they are read"
    ))
}

/// Reads a token. Fails if the text is empty, too long, or not the form of a token.
fn read_token(file: Option<&Path>) -> anyhow::Result<Token> {
    let mut text = String::new();
    let limit = MAX_TOKEN as u64 + 2;
    if let Some(path) = file {
        let name = path.display();
        let opened = std::fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
        let read = opened.take(limit).read_to_string(&mut text);
        read.with_context(|| format!("{name} is not text"))?;
    } else {
        let input = std::io::stdin().lock();
        let read = input.take(limit).read_to_string(&mut text);
        read.context("standard input is not text")?;
    }
    let token = text.trim();
    let is_token = |token: &str| token.bytes().all(|b| b.is_ascii_graphic());
    if token.is_empty() {
        bail!("there is no token: write it to standard input, or name a file that contains it");
    }
    if token.len() > MAX_TOKEN || !is_token(token) {
        bail!(
            "this is not an access token, which is one word of at most {MAX_TOKEN} characters without spaces; the text has {} bytes",
            token.len()
        );
    }
    Ok(Token::new(token.to_owned()))
}
