//! What is at Facebook: reachability in both directions, the clock, the version, the app's own
//! subscription.

use std::time::Duration;

use common::clock::Clock;
use common::config::Config;
use common::graph::client::Graph;
use common::graph::error::GraphError;
use common::graph::reply;
use common::graph::versions::{VersionStatus, version_status};
use model::time::HostTime;
use model::webhook_field::webhook_fields;
use secrecy::ExposeSecret as _;

use super::check::{Check, State};

/// The check of what Facebook reaches.
pub(super) const ADDRESS: &str = "public address";
const PATIENCE: Duration = Duration::from_secs(10);
/// Clocks further apart than this are worth a word, and than that are wrong.
const APART: Duration = Duration::from_secs(30);
const WRONG: Duration = Duration::from_secs(600);
/// So long before its end a version is worth a word.
const SOON: Duration = Duration::from_secs(90 * 24 * 3600);

pub(super) async fn look(config: &Config, clock: &Clock, checks: &mut Vec<Check>) {
    checks.push(version(config, clock.now()));
    clocks(config, clock, checks).await;
    checks.push(handshake(config).await);
    checks.push(app(config, clock).await);
}

fn version(config: &Config, now: HostTime) -> Check {
    let name = "Graph version";
    let asked = &config.graph_version;
    let day = |at: HostTime| common::timestamp::rfc3339(at)[..10].to_owned();
    let fix = "set PAGESYNC_GRAPH_VERSION to a later one";
    match version_status(asked) {
        VersionStatus::Over => Check::bad(name, State::Failed, format!("{asked} has expired"), fix),
        VersionStatus::Until(end) if end <= day(now).as_str() => {
            let what = format!("{asked} expired on {end}: a later version answers in its place");
            Check::bad(name, State::Failed, what, fix)
        }
        VersionStatus::Until(end) if end <= day(now.plus(SOON)).as_str() => Check::bad(
            name,
            State::Warning,
            format!("{asked} is served until {end}"),
            fix,
        ),
        VersionStatus::Until(end) => Check::ok(name, format!("{asked}, served until {end}")),
        VersionStatus::Open => Check::ok(name, format!("{asked}, its end is not announced")),
        VersionStatus::Unknown => {
            Check::ok(name, format!("{asked}, newer than this build's calendar"))
        }
    }
}

fn client() -> Option<reqwest::Client> {
    common::tls::provide();
    let client = reqwest::Client::builder().timeout(PATIENCE);
    client
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .ok()
}

/// Any answer of Graph has a `Date`.
async fn clocks(config: &Config, clock: &Clock, checks: &mut Vec<Check>) {
    let url = format!(
        "{}/{}/",
        config.graph_url.trim_end_matches('/'),
        config.graph_version
    );
    let begun = std::time::Instant::now();
    let answer = match client() {
        Some(client) => client.get(url).send().await.ok(),
        None => None,
    };
    let Some(answer) = answer else {
        let fix = "may this machine reach the address in PAGESYNC_GRAPH_URL (graph.facebook.com, port 443)?";
        checks.push(Check::bad(
            "Graph",
            State::Failed,
            "it does not answer",
            fix,
        ));
        checks.push(Check::skipped("clock", "Graph does not answer"));
        return;
    };
    checks.push(Check::ok("Graph", "it answers"));
    let now = clock.now();
    checks.push(match reply::stamp(answer.headers(), begun.elapsed(), now) {
        Err(why) => Check::bad(
            "clock",
            State::Failed,
            format!("an answer of Graph: {why}"),
            "set this machine's clock: NTP",
        ),
        Ok(theirs) => {
            let apart = theirs.difference_to(now);
            let said = format!("{} s from Facebook's", apart.as_secs());
            let fix = "set this machine's clock: NTP";
            if apart > WRONG {
                Check::bad("clock", State::Failed, said, fix)
            } else if apart > APART {
                Check::bad("clock", State::Warning, said, fix)
            } else {
                Check::ok("clock", said)
            }
        }
    });
}

/// Does what Facebook does before it sends webhooks.
async fn handshake(config: &Config) -> Check {
    let name = ADDRESS;
    let token = config.verify_token.expose_secret();
    let (Some(address), false) = (&config.webhook_address, token.is_empty()) else {
        return Check::skipped(
            name,
            "FACEBOOK_WEBHOOK_ADDRESS or FACEBOOK_VERIFY_TOKEN is not given here",
        );
    };
    let query = [
        ("hub.mode", "subscribe"),
        ("hub.challenge", "1158201444"),
        ("hub.verify_token", token),
    ];
    let asked = match client() {
        Some(client) => client.get(address).query(&query).send().await.ok(),
        None => None,
    };
    let Some(answer) = asked else {
        let fix = "is ingress up, and does the address lead to it from the internet? If only this machine cannot reach it, all is well";
        return Check::bad(
            name,
            State::Warning,
            "nothing answers there, as seen from here",
            fix,
        );
    };
    let status = answer.status().as_u16();
    let body = answer.text().await.unwrap_or_default();
    if status == 200 && body == "1158201444" {
        return Check::ok(name, "the handshake works, as seen from here");
    }
    let fix = match status {
        403 => "the process there has another FACEBOOK_VERIFY_TOKEN: restart it with this one",
        _ => {
            "something else answers there: does the proxy lead /facebook/webhook to ingress, bodies untouched?"
        }
    };
    Check::bad(
        name,
        State::Failed,
        format!("the handshake is answered {status}"),
        fix,
    )
}

/// The app's token, and its own subscription to Pages.
async fn app(config: &Config, clock: &Clock) -> Check {
    let name = "app subscription";
    if config.app_id.is_empty() || config.app_secrets.is_empty() {
        return Check::skipped(
            name,
            "FACEBOOK_APP_ID or FACEBOOK_APP_SECRET is not given here",
        );
    }
    let there = match Graph::new(config, clock.clone()) {
        Ok(graph) => graph.app_subscription().await,
        Err(error) => Err(error),
    };
    let there = match there {
        Err(error @ (GraphError::RateLimited { .. } | GraphError::Transient(_))) => {
            let fix = "wait, then run this again";
            return Check::bad(name, State::Warning, error.to_string(), fix);
        }
        Err(error) => {
            let fix = "are FACEBOOK_APP_ID and FACEBOOK_APP_SECRET those of the app's dashboard?";
            return Check::bad(name, State::Failed, error.to_string(), fix);
        }
        Ok(None) => {
            let fix = "restart the worker, which sets it up; is the public address reachable?";
            return Check::bad(name, State::Failed, "there is none: no webhook comes", fix);
        }
        Ok(Some(there)) => there,
    };
    let foreign = config
        .webhook_address
        .as_ref()
        .is_some_and(|ours| *ours != there.callback);
    if foreign {
        let fix = "give this deployment an app of its own, or set PAGESYNC_REPLACE_CALLBACK=true and restart the worker";
        return Check::bad(name, State::Failed, "webhooks go to another address", fix);
    }
    let wanted = webhook_fields(&config.tracked_fields);
    let lacking: Vec<&str> = wanted
        .into_iter()
        .filter(|field| !there.fields.iter().any(|stored| stored == field))
        .collect();
    if !there.active || !lacking.is_empty() {
        let what = format!("inactive, or without {}", lacking.join(", "));
        let fix = "the worker mends it daily and when it starts: restart it";
        return Check::bad(name, State::Failed, what, fix);
    }
    Check::ok(
        name,
        format!("webhooks come here, {} fields", there.fields.len()),
    )
}
