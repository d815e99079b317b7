//! The state of the simulated Facebook other than its Pages: one app, people, tokens, codes,
//! subscriptions and the number of calls.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::clock::unix_now;
use crate::conversation::Conversations;
use crate::graph_faults::GraphFaults;
use crate::people::{LoginConfiguration, Person};
use crate::scripted_reply::ScriptedReply;
use crate::simulator_error::SimulatorError;
use crate::token::{LoginCode, Token, TokenInvalidation, TokenOwner};
use crate::webhook_fields;

/// The duration of a window of the app's rate limit, in seconds.
const USAGE_WINDOW_SECONDS: u64 = 3600;

/// The one app of the simulated Facebook.
#[derive(Debug, Clone)]
pub struct App {
    /// The app id.
    pub id: String,
    /// The app secret, which signs deliveries.
    pub secret: String,
    /// The redirect addresses that the dialog accepts. An address must match one exactly.
    pub redirect_uris: Vec<String>,
}

impl App {
    /// Returns the app access token: id and secret, joined by `|`.
    pub fn access_token(&self) -> String {
        format!("{}|{}", self.id, self.secret)
    }
}

/// The app subscription to Pages.
#[derive(Debug, Clone)]
pub struct AppSubscription {
    /// The address that receives the webhooks.
    pub callback: String,
    /// Whether webhooks carry values.
    pub include_values: bool,
    /// The webhook fields that are subscribed to.
    pub fields: BTreeSet<String>,
}

impl AppSubscription {
    /// Returns the target of the webhooks.
    pub(crate) fn target(&self) -> WebhookTarget {
        WebhookTarget {
            callback: self.callback.clone(),
            include_values: self.include_values,
        }
    }
}

/// The address of a webhook and whether it carries values.
#[derive(Debug, Clone, Default)]
pub struct WebhookTarget {
    /// The address that receives the webhook.
    pub callback: String,
    /// Whether the webhook carries values.
    pub include_values: bool,
}

/// How much of the app's rate limit is used.
#[derive(Debug, Clone, Copy, Default)]
pub struct AppUsage {
    /// The used part of the limit in percent. It can exceed 100.
    pub percent: u64,
    /// When the present window began, in UNIX seconds of the simulated clock.
    pub since: u64,
}

/// The state of the simulated Facebook other than its Pages.
#[derive(Debug)]
pub struct Facebook {
    /// The app.
    pub app: App,
    /// The app subscription, if there is one.
    pub app_subscription: Option<AppSubscription>,
    /// People by id.
    pub people: BTreeMap<String, Person>,
    /// The configurations of Facebook Login for Business by id. If there is one, the app is of type
    /// Business, and people cannot log in without a configuration.
    pub login_configurations: BTreeMap<String, LoginConfiguration>,
    /// Tokens by their text.
    pub tokens: HashMap<String, Token>,
    /// Codes by their text.
    pub codes: HashMap<String, LoginCode>,
    /// The Page subscriptions: the app's webhook fields by Page id.
    pub page_subscriptions: BTreeMap<String, BTreeSet<String>>,
    /// The number of calls by edge.
    pub calls: BTreeMap<String, u64>,
    /// The replies that replace the next real answers.
    pub scripted_replies: Vec<ScriptedReply>,
    /// The faults and app-dependent settings of Graph.
    pub graph_faults: GraphFaults,
    /// How far the simulated clock is ahead of this host's clock, in seconds.
    pub clock_offset_seconds: i64,
    /// When the last signed request was issued, in UNIX seconds of the simulated clock. A later token
    /// is not issued in an earlier second.
    pub last_signed_request: u64,
    /// Whether every Page counts as subscribed, with or without a Page subscription.
    pub all_pages_subscribed: bool,
    /// When deliveries began to fail, by Page id, in UNIX seconds of the simulated clock.
    pub failing_since: BTreeMap<String, u64>,
    /// How much of the app's rate limit is used.
    pub usage: AppUsage,
    /// The conversations of Pages with people.
    pub conversations: Conversations,
    random: fastrand::Rng,
}

impl Facebook {
    /// Returns a Facebook with one app and one person, who manages every Page.
    pub fn new(app: App, seed: u64) -> Self {
        let ada = Person {
            id: "200000000000001".to_owned(),
            name: "Ada Operator".to_owned(),
            ..Person::default()
        };
        Self {
            app,
            app_subscription: None,
            people: BTreeMap::from([(ada.id.clone(), ada)]),
            login_configurations: BTreeMap::new(),
            tokens: HashMap::new(),
            codes: HashMap::new(),
            page_subscriptions: BTreeMap::new(),
            calls: BTreeMap::new(),
            scripted_replies: Vec::new(),
            graph_faults: GraphFaults::default(),
            clock_offset_seconds: 0,
            last_signed_request: 0,
            all_pages_subscribed: false,
            failing_since: BTreeMap::new(),
            usage: AppUsage::default(),
            conversations: Conversations::default(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Subscribes the app to every field of every Page, on both layers.
    pub fn subscribe_everything(&mut self, callback: &str) {
        self.app_subscription = Some(AppSubscription {
            callback: callback.to_owned(),
            include_values: true,
            fields: webhook_fields::names().map(ToOwned::to_owned).collect(),
        });
        self.all_pages_subscribed = true;
    }

    /// Returns the time of the simulated clock, in UNIX seconds.
    pub fn now(&self) -> u64 {
        unix_now().saturating_add_signed(self.clock_offset_seconds)
    }

    /// Returns whether the features of the protocol have ended that Facebook removed from every version
    /// on 2026-10-27: reads of several objects by `ids`, and `date_format`. Source: Meta's blog of
    /// 2026-07-29.
    pub fn has_ended_protocol(&self) -> bool {
        self.now() >= 1_793_059_200
    }

    /// Returns `prefix` followed by `length` random letters and digits.
    pub fn random_text(&mut self, prefix: &str, length: usize) -> String {
        let random = std::iter::repeat_with(|| self.random.alphanumeric()).take(length);
        random.fold(prefix.to_owned(), |mut text, c| {
            text.push(c);
            text
        })
    }

    /// Issues a token of a new login of `user`. Returns its text.
    pub fn issue(&mut self, owner: TokenOwner, user: &str, expires: Option<u64>) -> String {
        let text = self.random_text("EAAS", 60) + &self.graph_faults.token_suffix;
        let simulated = || self.app.id.clone();
        let app = self.graph_faults.token_app_id.clone();
        let token = Token {
            owner,
            user: user.to_owned(),
            app: app.unwrap_or_else(simulated),
            issued_at: self.now().max(self.last_signed_request),
            logged_in_at: self.now(),
            expires_at: expires,
            is_system_user: false,
            invalid_subcode: None,
        };
        self.tokens.insert(text.clone(), token);
        text
    }

    /// Issues a token of a system user, which never expires. Returns its text.
    pub fn issue_to_system_user(&mut self, user: &str) -> String {
        let text = self.issue(TokenOwner::User, user, None);
        if let Some(token) = self.tokens.get_mut(&text) {
            token.is_system_user = true;
        }
        text
    }

    /// Issues a token of the same login as `original`. Returns its text.
    pub fn issue_from(
        &mut self,
        owner: TokenOwner,
        original: &Token,
        expires: Option<u64>,
    ) -> String {
        let text = self.issue(owner, &original.user, expires);
        if let Some(token) = self.tokens.get_mut(&text) {
            token.logged_in_at = original.logged_in_at;
        }
        text
    }

    /// Invalidates tokens. Returns the number of matching tokens.
    pub fn invalidate_tokens(&mut self, invalidation: &TokenInvalidation) -> usize {
        let mut count = 0;
        for token in self.tokens.values_mut() {
            if invalidation.applies_to(token) {
                token.invalid_subcode = Some(invalidation.subcode);
                count += 1;
            }
        }
        count
    }

    /// Returns whether a person granted the app a permission.
    pub fn allows(&self, user: &str, permission: &str) -> bool {
        let person = self.people.get(user);
        person.is_some_and(|person| person.permissions.get(permission) == Some(&true))
    }

    /// Returns whether a person manages a Page and selected it in the dialog.
    pub fn manages(&self, user: &str, page: &str) -> bool {
        let person = self.people.get(user);
        person.is_some_and(|person| person.manages(page))
    }

    /// Returns the target of webhooks about a field of a Page, or `None` unless both layers of
    /// subscriptions include the field.
    pub fn webhook_target(&self, page: &str, field: &str) -> Option<WebhookTarget> {
        let app = self.app_subscription.as_ref()?;
        let fields = self.page_subscriptions.get(page);
        let on_page =
            self.all_pages_subscribed || fields.is_some_and(|fields| fields.contains(field));
        (app.fields.contains(field) && on_page).then(|| app.target())
    }

    /// Revokes a permission of a person. Fails if the person does not exist.
    pub fn revoke(&mut self, user: &str, permission: &str) -> Result<(), SimulatorError> {
        let unknown = || SimulatorError::UnknownPerson(user.to_owned());
        let person = self.people.get_mut(user).ok_or_else(unknown)?;
        person.permissions.insert(permission.to_owned(), false);
        Ok(())
    }

    /// Counts a call against the app's rate limit.
    ///
    /// Returns the used part of the limit in percent, or `None` if calls do not use the limit.
    pub fn count_against_limit(&mut self) -> Option<u64> {
        let step = self.graph_faults.usage_percent_per_call;
        let now = self.now();
        if step == 0 || now >= self.usage.since + USAGE_WINDOW_SECONDS {
            self.usage = AppUsage {
                percent: 0,
                since: now,
            };
        }
        self.usage.percent += step;
        (step > 0).then_some(self.usage.percent)
    }

    /// Chooses the fault of the next answer at random. Returns its name, or `None` if the answer
    /// has no fault.
    pub fn choose_fault(&mut self) -> Option<String> {
        let mut rest = self.random.f64();
        for (name, probability) in &self.graph_faults.errors {
            rest -= probability;
            if rest < 0.0 {
                return Some(name.clone());
            }
        }
        None
    }

    /// Restarts the random choices from a seed.
    pub fn reseed(&mut self, seed: u64) {
        self.random = fastrand::Rng::with_seed(seed);
    }

    /// Returns the scripted reply to the next call of an edge, or `None` if there is none.
    pub fn take_scripted_reply(&mut self, edge: &str) -> Option<ScriptedReply> {
        let mut replies = self.scripted_replies.iter();
        let at = replies.position(|reply| reply.edge == edge)?;
        let reply = self.scripted_replies[at].clone();
        self.scripted_replies[at].times -= 1;
        if self.scripted_replies[at].times == 0 {
            self.scripted_replies.remove(at);
        }
        Some(reply)
    }
}
