//! Checks of Facebook: the version of Graph, reachability in both directions, the clocks, and the
//! app subscription.

use std::time::Duration;

use common::clock::Clock;
use common::config::Config;
use common::graph::calls::AppSubscription;
use common::graph::client::Graph;
use common::graph::error::ErrorKind;
use common::graph::reply;
use common::graph::versions::{VersionStatus, version_status};
use ingress::handshake::{PEER_QUERY, UNDECLARED_PEER};
use model::time::HostTime;
use model::webhook_field::unhandled_fields;
use secrecy::ExposeSecret as _;

use common::views::check::{Check, State};

/// The name of the check of the public address.
pub(super) const ADDRESS_CHECK: &str = "public address";
/// How long a request of a check may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The difference of the clocks above which the check warns.
const WARNED_DIFFERENCE: Duration = Duration::from_secs(30);
/// The difference of the clocks above which the check fails.
const MAX_DIFFERENCE: Duration = Duration::from_secs(600);
/// How long before the end of the configured version the check warns.
const EXPIRY_NOTICE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Appends the results of the checks to `checks`.
pub(super) async fn run_checks(config: &Config, clock: &Clock, checks: &mut Vec<Check>) {
    checks.push(version(config, clock.now()));
    graph_and_clock(config, clock, checks).await;
    handshake(config, checks).await;
    checks.push(app_subscription(config, clock).await);
}

fn version(config: &Config, now: HostTime) -> Check {
    let name = "Graph version";
    let version = &config.graph_version;
    let day = |at: HostTime| common::timestamp::rfc3339(at)[..10].to_owned();
    let fix = "set PAGESYNC_GRAPH_VERSION to a later one";
    match version_status(version) {
        VersionStatus::Expired => {
            Check::problem(name, State::Failed, format!("{version} has expired"), fix)
        }
        VersionStatus::Until(end) if end <= day(now).as_str() => {
            let detail =
                format!("{version} expired on {end}; Facebook answers with a later version");
            Check::problem(name, State::Failed, detail, fix)
        }
        VersionStatus::Until(end) if end <= day(now.plus(EXPIRY_NOTICE)).as_str() => {
            Check::problem(
                name,
                State::Warning,
                format!("{version} is served until {end}"),
                fix,
            )
        }
        VersionStatus::Until(end) => Check::ok(name, format!("{version}, served until {end}")),
        VersionStatus::NoEndAnnounced => Check::ok(name, format!("{version}, no end is announced")),
        VersionStatus::Unknown => Check::ok(
            name,
            format!("{version}, which is newer than this build of pagesync"),
        ),
    }
}

pub(super) fn client() -> Option<reqwest::Client> {
    common::tls::install_provider();
    let client = reqwest::Client::builder().timeout(REQUEST_TIMEOUT);
    client
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .ok()
}

/// Checks that Graph answers, and compares this host's clock with the `Date` of the answer. Every
/// answer of Graph has a `Date`, so this needs no token.
async fn graph_and_clock(config: &Config, clock: &Clock, checks: &mut Vec<Check>) {
    let url = format!(
        "{}/{}/",
        config.graph_url.trim_end_matches('/'),
        config.graph_version
    );
    let began = std::time::Instant::now();
    let answer = match client() {
        Some(client) => client.get(url).send().await.ok(),
        None => None,
    };
    let Some(answer) = answer else {
        let fix = "check that this host can reach the address in PAGESYNC_GRAPH_URL (graph.facebook.com, port 443)";
        checks.push(Check::problem(
            "Graph",
            State::Failed,
            "Facebook does not answer",
            fix,
        ));
        checks.push(Check::skipped("clock", "Graph does not answer"));
        return;
    };
    checks.push(Check::ok("Graph", "it answers"));
    let now = clock.now();
    let fix = "synchronize the clock of this host, for example with NTP";
    checks.push(match reply::stamp(answer.headers(), began.elapsed(), now) {
        Err(error) => Check::problem(
            "clock",
            State::Failed,
            format!("the time of Graph's answer cannot be used: {error}"),
            fix,
        ),
        Ok(facebook_time) => {
            let difference = facebook_time.difference_to(now);
            let detail = format!("{} s from Facebook's clock", difference.as_secs());
            if difference > MAX_DIFFERENCE {
                Check::problem("clock", State::Failed, detail, fix)
            } else if difference > WARNED_DIFFERENCE {
                Check::problem("clock", State::Warning, detail, fix)
            } else {
                Check::ok("clock", detail)
            }
        }
    });
}

/// Performs the handshake that Facebook performs before it sends webhooks. The answer also shows
/// whether the reverse proxy in front of ingress is declared.
async fn handshake(config: &Config, checks: &mut Vec<Check>) {
    let (check, undeclared_peer) = public_address(config).await;
    let is_ok = check.state == State::Ok;
    checks.push(check);
    // Ingress does not speak TLS, so that an https address always leads to a proxy.
    let is_https = config
        .webhook_address
        .as_ref()
        .is_some_and(|address| address.starts_with("https://"));
    if is_ok && is_https {
        checks.push(proxies(undeclared_peer.as_deref()));
    }
}

fn proxies(undeclared_peer: Option<&str>) -> Check {
    let name = "proxies";
    let Some(peer) = undeclared_peer else {
        return Check::ok(name, "the proxy in front of ingress is declared");
    };
    let detail = format!(
        "requests reach ingress from {peer}, which is not declared as a proxy: all people count as one client, and one of them can use up the limit of logins"
    );
    let fix = format!(
        "set PAGESYNC_TRUSTED_PROXIES={peer} for ingress, or to the network of the proxies, and restart it; the proxy must add the client to X-Forwarded-For"
    );
    Check::problem(name, State::Failed, detail, &fix)
}

/// Returns the check of the public address, and the address of the peer if ingress does not trust
/// it.
async fn public_address(config: &Config) -> (Check, Option<String>) {
    let name = ADDRESS_CHECK;
    let token = config.verify_token.expose_secret();
    let (Some(address), false) = (&config.webhook_address, token.is_empty()) else {
        let reason = "FACEBOOK_WEBHOOK_ADDRESS or FACEBOOK_VERIFY_TOKEN is not set on this host";
        return (Check::skipped(name, reason), None);
    };
    let query = [
        (PEER_QUERY, "1"),
        ("hub.mode", "subscribe"),
        ("hub.challenge", "1158201444"),
        ("hub.verify_token", token),
    ];
    let answer = match client() {
        Some(client) => client.get(address).query(&query).send().await.ok(),
        None => None,
    };
    let Some(answer) = answer else {
        let fix = "check that ingress runs and that the address leads to it from the internet; ignore this if only this host cannot reach it";
        let detail = "the address does not answer this host";
        return (Check::problem(name, State::Warning, detail, fix), None);
    };
    let peer = answer.headers().get(UNDECLARED_PEER);
    let peer = peer.and_then(|value| Some(value.to_str().ok()?.to_owned()));
    let status = answer.status().as_u16();
    let body = answer.text().await.unwrap_or_default();
    if status == 200 && body == "1158201444" {
        return (
            Check::ok(name, "the handshake from this host succeeds"),
            peer,
        );
    }
    let fix = match status {
        403 => "the process there has another FACEBOOK_VERIFY_TOKEN: restart it with this one",
        _ => "check that the proxy passes /facebook/webhook to ingress without changing bodies",
    };
    let detail = format!("the handshake was answered with status {status}");
    (Check::problem(name, State::Failed, detail, fix), None)
}

/// Returns the check of an app subscription whose callback is another address.
fn foreign_callback(
    name: &'static str,
    subscription: &AppSubscription,
    is_forwarding: bool,
) -> Check {
    let unhandled = unhandled_fields(&subscription.fields);
    if unhandled.is_empty() || is_forwarding {
        let fix = "give this deployment an app of its own, or set PAGESYNC_REPLACE_CALLBACK=true and restart the worker";
        return Check::problem(name, State::Failed, "its callback is another address", fix);
    }
    let detail = format!(
        "its callback is another address, and the program there receives {}, which pagesync does not handle",
        unhandled.join(", ")
    );
    let fix = "do not replace the callback, which would silence that program: set PAGESYNC_FORWARD_URL to its address first, or let it pass the webhooks on to pagesync and set PAGESYNC_WEBHOOKS_PASSED_ON=true, or give this deployment an app of its own (docs/how-to/facebook-app.md, section 7)";
    Check::problem(name, State::Failed, detail, fix)
}

/// Checks the app id, the app secret, and the app subscription.
async fn app_subscription(config: &Config, clock: &Clock) -> Check {
    let name = "app subscription";
    if config.app_id.is_empty() || config.app_secrets.is_empty() {
        return Check::skipped(
            name,
            "FACEBOOK_APP_ID or FACEBOOK_APP_SECRET is not set on this host",
        );
    }
    let result = match Graph::new(config, clock.clone()) {
        Ok(graph) => graph.app_subscription().await,
        Err(error) => Err(error),
    };
    let subscription = match result {
        Err(error)
            if matches!(
                error.kind,
                ErrorKind::RateLimited { .. } | ErrorKind::Transient(_)
            ) =>
        {
            let fix = "wait, and run this command again";
            return Check::problem(name, State::Warning, error.to_string(), fix);
        }
        Err(error) => {
            let fix = "check that FACEBOOK_APP_ID and FACEBOOK_APP_SECRET are those of the app's dashboard";
            return Check::problem(name, State::Failed, error.to_string(), fix);
        }
        Ok(None) => {
            let fix = "check the public address, and restart the worker, which creates the app subscription";
            let detail = "it does not exist, so no webhooks arrive";
            return Check::problem(name, State::Failed, detail, fix);
        }
        Ok(Some(subscription)) => subscription,
    };
    let is_foreign = !config.webhooks_passed_on
        && config
            .webhook_address
            .as_ref()
            .is_some_and(|address| *address != subscription.callback);
    if is_foreign {
        return foreign_callback(name, &subscription, config.forward.is_some());
    }
    let required = config.webhook_fields();
    let missing: Vec<&str> = required
        .iter()
        .map(String::as_str)
        .filter(|field| !subscription.fields.iter().any(|stored| stored == field))
        .collect();
    if !subscription.active || !missing.is_empty() {
        let detail = if subscription.active {
            format!("it lacks the fields {}", missing.join(", "))
        } else {
            "it is inactive".to_owned()
        };
        let fix = if config.webhooks_passed_on {
            "subscribe these fields in the app's dashboard, with values included"
        } else {
            "restart the worker, which repairs it at its start and once a day"
        };
        return Check::problem(name, State::Failed, detail, fix);
    }
    Check::ok(
        name,
        format!("it is active, with {} fields", subscription.fields.len()),
    )
}
