//! Scenarios: what goes wrong, when, written down in a file and repeatable by its seed.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Simulator;
use crate::delivery::Faults;
use crate::errors::Fault;
use crate::facebook::{Canned, Habits, kill};

/// A scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, for people.
    #[serde(default)]
    pub about: String,
    /// Decides every choice left to chance; absent: chance goes on as it was.
    #[serde(default)]
    pub seed: Option<u64>,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Seconds after the step before.
    #[serde(default)]
    pub after_seconds: u64,
    /// What happens.
    #[serde(rename = "do")]
    pub action: Action,
}

/// What can happen. Pages and people that are not named are all of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Sets the habits of the sender.
    Faults(Faults),
    /// Sets the habits of Graph.
    Habits(Box<Habits>),
    /// Replaces the next real answers.
    Replies(Vec<Canned>),
    /// Somebody changes fields of a Page.
    Change {
        /// Which; absent: every Page.
        #[serde(default)]
        page: Option<String>,
        /// Graph fields; null unsets one. `{n}` in a text becomes the number of the step.
        fields: Map<String, Value>,
    },
    /// Tokens die.
    KillTokens(Death),
    /// The app is taken off Pages, as after failed deliveries.
    Unsubscribe {
        /// Which; absent: all of them.
        #[serde(default)]
        page: Option<String>,
    },
    /// The app's own subscription is deleted.
    UnsubscribeApp {},
    /// A Page is deleted.
    RemovePage {
        /// Which.
        page: String,
    },
    /// A person takes a permission back.
    Revoke {
        /// Who.
        user: String,
        /// Which.
        permission: String,
    },
    /// This Facebook's clock moves on.
    Clock {
        /// How far it is ahead of the machine's from now on.
        ahead_seconds: i64,
    },
}

/// Which tokens die, and of what.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Death {
    /// Only those of this person.
    #[serde(default)]
    pub user: Option<String>,
    /// Only that of this Page.
    #[serde(default)]
    pub page: Option<String>,
    /// The subcode Graph answers with.
    pub subcode: u64,
}

impl Scenario {
    /// Reads a scenario; an error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let scenario: Self =
            serde_json::from_str(text).map_err(|error| format!("not a scenario: {error}"))?;
        for step in &scenario.steps {
            match &step.action {
                Action::Faults(faults) => faults.check()?,
                Action::Habits(habits) => check(habits.errors.keys())?,
                Action::Replies(replies) => {
                    check(replies.iter().filter_map(|canned| canned.fault.as_ref()))?;
                }
                _ => {}
            }
        }
        Ok(scenario)
    }

    /// Plays it to its end.
    pub async fn play(self, simulator: Simulator) {
        if let Some(seed) = self.seed {
            simulator.reseed(seed);
        }
        for (n, step) in self.steps.into_iter().enumerate() {
            tokio::time::sleep(Duration::from_secs(step.after_seconds)).await;
            if let Err(error) = act(&simulator, n, step.action) {
                tracing::warn!(step = n, error, "a step of the scenario cannot be done");
            }
        }
    }
}

/// Whether faults of these names exist.
pub(crate) fn check<'a>(mut names: impl Iterator<Item = &'a String>) -> Result<(), String> {
    match names.find(|name| Fault::parse(name).is_none()) {
        Some(name) => Err(format!(
            "there is no fault {name:?}: `190/463` or `html`, for instance; README.md has all"
        )),
        None => Ok(()),
    }
}

fn act(simulator: &Simulator, n: usize, action: Action) -> Result<(), String> {
    match action {
        Action::Faults(faults) => simulator.set_faults(faults),
        Action::Habits(habits) => simulator.facebook().habits = *habits,
        Action::Replies(replies) => {
            let replies = replies.into_iter().filter(|canned| canned.times > 0);
            simulator.facebook().canned.extend(replies);
        }
        Action::Change { page, fields } => {
            let all = simulator.pages();
            let ids = all.iter().filter_map(|page| page["id"].as_str());
            let ids: Vec<String> =
                page.map_or_else(|| ids.map(ToOwned::to_owned).collect(), |id| vec![id]);
            for id in ids {
                simulator.change(&id, numbered(&fields, n))?;
            }
        }
        Action::KillTokens(death) => {
            kill(&mut simulator.facebook(), &death);
        }
        Action::Unsubscribe { page } => {
            let mut facebook = simulator.facebook();
            facebook.preinstalled = false;
            match page {
                Some(page) => drop(facebook.installed.remove(&page)),
                None => facebook.installed.clear(),
            }
        }
        Action::UnsubscribeApp {} => simulator.facebook().subscription = None,
        Action::RemovePage { page } => {
            if !simulator.world().remove(&page) {
                return Err(format!("there is no Page {page}"));
            }
        }
        Action::Revoke { user, permission } => simulator.facebook().revoke(&user, &permission)?,
        Action::Clock { ahead_seconds } => simulator.facebook().ahead = ahead_seconds,
    }
    Ok(())
}

fn numbered(fields: &Map<String, Value>, n: usize) -> Map<String, Value> {
    let value = |value: &Value| match value.as_str() {
        Some(text) => Value::from(text.replace("{n}", &n.to_string())),
        None => value.clone(),
    };
    fields
        .iter()
        .map(|(name, held)| (name.clone(), value(held)))
        .collect()
}
