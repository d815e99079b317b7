//! What this Facebook knows beside its Pages: one app, people, tokens, codes, subscriptions, and how
//! often it was asked what.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::delivery::WEBHOOK_FIELDS;
use crate::graph::page_of;
use crate::scenario::Death;

/// Seconds a token from the dialog lives.
pub const SHORT_LIFE: u64 = 3600;
/// Seconds an exchanged token lives: about 60 days.
pub const LONG_LIFE: u64 = 5_184_000;
/// Seconds a code may wait to be exchanged.
pub const CODE_LIFE: u64 = 600;
/// Seconds until data access must be renewed by a login: about 90 days.
const DATA_ACCESS: u64 = 7_776_000;

/// The app this Facebook serves.
#[derive(Debug, Clone)]
pub struct App {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// Where the dialog may send people back to, exactly.
    pub redirect_uris: Vec<String>,
}

/// The app's own subscription to Pages.
#[derive(Debug, Clone)]
pub struct AppSubscription {
    /// Where webhooks go.
    pub callback: String,
    /// Whether they carry values.
    pub include_values: bool,
    /// Which fields.
    pub fields: BTreeSet<String>,
}

/// A person.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// Their app-scoped id.
    pub id: String,
    /// Their name.
    pub name: String,
    /// The Pages they manage; `null`: all there are.
    #[serde(default)]
    pub pages: Option<BTreeSet<String>>,
    /// Pages they may see and get no token for.
    #[serde(default)]
    pub without_token: BTreeSet<String>,
    /// What they allowed the app, and what they declined.
    #[serde(default)]
    pub permissions: BTreeMap<String, bool>,
    /// The Pages they ticked in the dialog; `null`: all of theirs.
    #[serde(default)]
    pub ticked: Option<BTreeSet<String>>,
}

/// Whose a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A person's.
    User,
    /// A Page's.
    Page(String),
}

/// A token.
#[derive(Debug, Clone)]
pub struct Token {
    /// Whose.
    pub kind: Kind,
    /// The person it came from.
    pub user: String,
    /// The app it was given to.
    pub app: String,
    /// When it was made.
    pub issued: u64,
    /// When the person logged in: an exchange does not move this.
    pub login: u64,
    /// When it ends; `None`: never.
    pub expires: Option<u64>,
    /// The subcode of its death.
    pub dead: Option<u64>,
}

/// A code of the dialog.
#[derive(Debug, Clone)]
pub struct Code {
    /// Whose.
    pub user: String,
    /// Where it was sent.
    pub redirect_uri: String,
    /// When.
    pub issued: u64,
    /// Whether it was exchanged.
    pub used: bool,
}

/// An answer that replaces the real one: for what a real Facebook does on bad days.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canned {
    /// Of which edge, as `GET /_sim/calls` names it.
    pub edge: String,
    /// How often; default once.
    #[serde(default = "once")]
    pub times: u32,
    /// Its status; default 200.
    #[serde(default = "ok")]
    pub status: u16,
    /// Headers beside or instead of the usual ones; `null` leaves one out.
    #[serde(default)]
    pub headers: BTreeMap<String, Option<String>>,
    /// Its body: a text is sent as it is, anything else as JSON. Absent: the real body.
    #[serde(default)]
    pub body: Option<Value>,
    /// Fields laid over every object of the real body; `null` leaves one out.
    #[serde(default)]
    pub patch: Map<String, Value>,
    /// So many bytes of spaces before the body.
    #[serde(default)]
    pub padding: usize,
    /// What goes wrong with it, by a name of [`crate::errors::Fault::parse`].
    #[serde(default)]
    pub fault: Option<String>,
}

fn once() -> u32 {
    1
}

fn ok() -> u16 {
    200
}

/// The edges there are, as calls are counted; and one permission of `me/permissions`, by its name.
pub const EDGES: [&str; 10] = [
    "oauth/access_token",
    "debug_token",
    "me",
    "me/permissions",
    "me/accounts",
    "?ids",
    "batch",
    "{id}",
    "{id}/subscriptions",
    "{id}/subscribed_apps",
];

impl Canned {
    /// Whether there is such an edge: a reply for another would never be sent.
    pub fn names_an_edge(&self) -> bool {
        let named = self.edge.split_once(' ');
        named.is_some_and(|(method, edge)| {
            let known = EDGES.contains(&edge) || edge.starts_with("me/permissions/");
            known && ["GET", "POST", "DELETE"].contains(&method)
        })
    }
}

/// Habits of Graph that differ from app to app and from day to day.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Habits {
    /// Refuse calls without `appsecret_proof` ("Require App Secret").
    pub require_proof: bool,
    /// More Pages than this at once are "too much data".
    pub max_limit: usize,
    /// Begin every list with an empty result page.
    pub hollow: bool,
    /// What the end of every new token is: for tests of escaping.
    pub token_suffix: String,
    /// Headers of every answer, such as usage.
    pub headers: BTreeMap<String, String>,
    /// Seconds for which reads still show what was before a change.
    pub stale_reads: u64,
    /// New tokens belong to this app instead of ours.
    pub token_app: Option<String>,
    /// A new app-level subscription adds to the fields before instead of replacing them: sources
    /// disagree about the real one.
    pub amend_app_fields: bool,
    /// How probably an answer goes wrong, by the name of the fault: `{"2": 0.1, "html": 0.05}`.
    pub errors: BTreeMap<String, f64>,
    /// How long a slow answer takes.
    pub slow_seconds: u64,
    /// How many percent of the app's limit each call uses; at 100 calls are refused (code 4) for an
    /// hour of this Facebook's clock.
    pub usage_step: u64,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            require_proof: true,
            max_limit: 1000,
            hollow: false,
            token_suffix: String::new(),
            headers: BTreeMap::new(),
            stale_reads: 0,
            token_app: None,
            amend_app_fields: false,
            errors: BTreeMap::new(),
            slow_seconds: 20,
            usage_step: 0,
        }
    }
}

/// All of it.
#[derive(Debug)]
pub struct Facebook {
    /// The app.
    pub app: App,
    /// Its subscription.
    pub subscription: Option<AppSubscription>,
    /// People by id.
    pub people: BTreeMap<String, Person>,
    /// Tokens by text.
    pub tokens: HashMap<String, Token>,
    /// Codes by text.
    pub codes: HashMap<String, Code>,
    /// Fields the app is subscribed to, by Page.
    pub installed: BTreeMap<String, BTreeSet<String>>,
    /// How often each edge was asked.
    pub calls: BTreeMap<String, u64>,
    /// Answers that replace the next real ones.
    pub canned: Vec<Canned>,
    /// Habits.
    pub habits: Habits,
    /// How far this Facebook's clock is ahead of the machine's, in seconds.
    pub ahead: i64,
    /// Every Page counts as subscribed, whether it was or not.
    pub preinstalled: bool,
    /// Since when deliveries of a Page fail.
    pub failing: BTreeMap<String, u64>,
    /// Percent of the app's limit that is used, and since when it counts.
    pub usage: (u64, u64),
    chance: fastrand::Rng,
}

impl Facebook {
    /// A Facebook with one app and one person who manages every Page.
    pub fn new(app: App, seed: u64) -> Self {
        let ada = Person {
            id: "200000000000001".to_owned(),
            name: "Ada Operator".to_owned(),
            pages: None,
            without_token: BTreeSet::new(),
            permissions: BTreeMap::new(),
            ticked: None,
        };
        Self {
            app,
            subscription: None,
            people: BTreeMap::from([(ada.id.clone(), ada)]),
            tokens: HashMap::new(),
            codes: HashMap::new(),
            installed: BTreeMap::new(),
            calls: BTreeMap::new(),
            canned: Vec::new(),
            habits: Habits::default(),
            ahead: 0,
            preinstalled: false,
            failing: BTreeMap::new(),
            usage: (0, 0),
            chance: fastrand::Rng::with_seed(seed),
        }
    }

    /// Sets both layers of subscriptions up as somebody would by hand, for every Page.
    pub fn preinstall(&mut self, callback: &str) {
        self.subscription = Some(AppSubscription {
            callback: callback.to_owned(),
            include_values: true,
            fields: WEBHOOK_FIELDS
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
        });
        self.preinstalled = true;
    }

    /// This Facebook's clock, UNIX seconds.
    pub fn now(&self) -> u64 {
        crate::now().saturating_add_signed(self.ahead)
    }

    /// A text nobody else has.
    pub fn text(&mut self, prefix: &str, length: usize) -> String {
        let random = std::iter::repeat_with(|| self.chance.alphanumeric()).take(length);
        random.fold(prefix.to_owned(), |mut text, c| {
            text.push(c);
            text
        })
    }

    /// A new token.
    pub fn issue(&mut self, kind: Kind, user: &str, expires: Option<u64>) -> String {
        let text = self.text("EAAS", 60) + &self.habits.token_suffix.clone();
        let ours = || self.app.id.clone();
        let app = self.habits.token_app.clone().unwrap_or_else(ours);
        let token = Token {
            kind,
            user: user.to_owned(),
            app,
            issued: self.now(),
            login: self.now(),
            expires,
            dead: None,
        };
        self.tokens.insert(text.clone(), token);
        text
    }

    /// A new token in the place of `held`, of the same login.
    pub fn derive(&mut self, kind: Kind, held: &Token, expires: Option<u64>) -> String {
        let text = self.issue(kind, &held.user, expires);
        if let Some(token) = self.tokens.get_mut(&text) {
            token.login = held.login;
        }
        text
    }

    /// When data access ends for a token.
    pub fn data_access_expires(token: &Token) -> u64 {
        token.login + DATA_ACCESS
    }

    /// Whether a person gave the app a permission.
    pub fn allows(&self, user: &str, permission: &str) -> bool {
        let person = self.people.get(user);
        person.is_some_and(|person| person.permissions.get(permission) == Some(&true))
    }

    /// Whether a person lets the app see a Page, as far as people and ticks go.
    pub fn manages(&self, user: &str, page: &str) -> bool {
        let among =
            |set: &Option<BTreeSet<String>>| set.as_ref().is_none_or(|set| set.contains(page));
        let person = self.people.get(user);
        person.is_some_and(|person| among(&person.pages) && among(&person.ticked))
    }

    /// Where and whether a change of a webhook field of a Page is delivered, with values or without.
    pub fn delivers(&self, page: &str, field: &str) -> Option<(String, bool)> {
        let app = self.subscription.as_ref()?;
        let on_page = self
            .installed
            .get(page)
            .is_some_and(|fields| fields.contains(field));
        (app.fields.contains(field) && (on_page || self.preinstalled))
            .then(|| (app.callback.clone(), app.include_values))
    }

    /// A person takes a permission back.
    pub fn revoke(&mut self, user: &str, permission: &str) -> Result<(), String> {
        let person = self.people.get_mut(user);
        let person = person.ok_or_else(|| format!("there is no person {user}"))?;
        person.permissions.insert(permission.to_owned(), false);
        Ok(())
    }

    /// Counts a call; answers with the percentage of the limit that is used, if calls are counted.
    pub fn use_up(&mut self) -> Option<u64> {
        let step = self.habits.usage_step;
        let now = self.now();
        if step == 0 || now >= self.usage.1 + 3600 {
            self.usage = (0, now);
        }
        self.usage.0 += step;
        (step > 0).then_some(self.usage.0)
    }

    /// What goes wrong with the next answer, if chance wants it.
    pub fn misfortune(&mut self) -> Option<String> {
        let mut luck = self.chance.f64();
        for (name, probability) in &self.habits.errors {
            luck -= probability;
            if luck < 0.0 {
                return Some(name.clone());
            }
        }
        None
    }

    /// Chance begins anew.
    pub fn reseed(&mut self, seed: u64) {
        self.chance = fastrand::Rng::with_seed(seed);
    }

    /// The next canned answer for an edge.
    pub fn take_canned(&mut self, edge: &str) -> Option<Canned> {
        let at = self.canned.iter().position(|canned| canned.edge == edge)?;
        let canned = self.canned[at].clone();
        self.canned[at].times -= 1;
        if self.canned[at].times == 0 {
            self.canned.remove(at);
        }
        Some(canned)
    }
}

/// Lets tokens die; answers with how many.
pub fn kill(facebook: &mut Facebook, death: &Death) -> usize {
    let mut killed = 0;
    for token in facebook.tokens.values_mut() {
        let user = death.user.as_ref().is_none_or(|user| *user == token.user);
        let named = death.page.as_deref();
        if user && named.is_none_or(|page| page_of(token) == Some(page)) {
            token.dead = Some(death.subcode);
            killed += 1;
        }
    }
    killed
}
