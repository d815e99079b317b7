//! Scenarios: files that describe a sequence of faults and changes.
//!
//! Invariant: every run of a scenario with a seed starts with its random generators in the same
//! state.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::delivery::DeliveryFaults;
use crate::errors;
use crate::graph_faults::GraphFaults;
use crate::pages::id_of;
use crate::scripted_reply::{self, ScriptedReply};
use crate::simulator::Simulator;
use crate::simulator_error::SimulatorError;
use crate::token::TokenInvalidation;

/// A scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// A description of the scenario. It has no effect.
    #[serde(default)]
    pub about: String,
    /// The seed of every random choice. If absent, the random generators continue as they are.
    #[serde(default)]
    pub seed: Option<u64>,
    /// The steps, in the order in which they are performed.
    pub steps: Vec<Step>,
}

/// A step of a scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The delay after the previous step, in seconds.
    #[serde(default)]
    pub after_seconds: u64,
    /// The action of the step.
    #[serde(rename = "do")]
    pub action: Action,
}

/// An action of a scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Replaces the delivery faults.
    DeliveryFaults(DeliveryFaults),
    /// Replaces the graph faults.
    GraphFaults(Box<GraphFaults>),
    /// Adds scripted replies.
    Replies(Vec<ScriptedReply>),
    /// Changes fields of a Page, as its owner can.
    Change {
        /// The id of the Page; absent for every Page.
        #[serde(default)]
        page: Option<String>,
        /// Graph fields and their new values. Null unsets a field. In a string, `{n}` is replaced
        /// by the number of the step, counted from 0.
        fields: Map<String, Value>,
    },
    /// Makes tokens invalid.
    InvalidateTokens(TokenInvalidation),
    /// Removes Page subscriptions, as Facebook does after failed deliveries.
    Unsubscribe {
        /// The id of the Page; absent for every Page.
        #[serde(default)]
        page: Option<String>,
    },
    /// Removes the app subscription.
    UnsubscribeApp {},
    /// Removes a Page.
    RemovePage {
        /// The id of the Page.
        page: String,
    },
    /// Revokes a permission of a person.
    Revoke {
        /// The id of the person.
        user: String,
        /// The name of the permission.
        permission: String,
    },
    /// Sets the simulated clock.
    Clock {
        /// How far the simulated clock is ahead of this host's clock from now on, in seconds.
        offset_seconds: i64,
    },
}

impl Scenario {
    /// Parses a scenario.
    ///
    /// Fails if the text is not a scenario, or names an unknown fault or an invalid probability.
    pub fn parse(text: &str) -> Result<Self, SimulatorError> {
        let scenario: Self = serde_json::from_str(text).map_err(SimulatorError::InvalidScenario)?;
        for step in &scenario.steps {
            match &step.action {
                Action::DeliveryFaults(faults) => faults.check()?,
                Action::GraphFaults(faults) => {
                    let names = faults.errors.keys().chain(faults.refused_fields.values());
                    errors::check_fault_names(names)?;
                }
                Action::Replies(replies) => scripted_reply::check_faults(replies)?,
                _ => {}
            }
        }
        Ok(scenario)
    }

    /// Plays the scenario to its end. The error of a step is logged, and the next step follows.
    pub async fn play(self, simulator: Simulator) {
        if let Some(seed) = self.seed {
            simulator.reseed(seed);
        }
        for (n, step) in self.steps.into_iter().enumerate() {
            tokio::time::sleep(Duration::from_secs(step.after_seconds)).await;
            if let Err(error) = act(&simulator, n, step.action) {
                tracing::warn!(step = n, %error, "a step of the scenario failed");
            }
        }
    }
}

/// Performs the action of step `n`.
fn act(simulator: &Simulator, n: usize, action: Action) -> Result<(), SimulatorError> {
    match action {
        Action::DeliveryFaults(faults) => simulator.set_delivery_faults(faults),
        Action::GraphFaults(faults) => simulator.facebook().graph_faults = *faults,
        Action::Replies(replies) => {
            let replies = replies.into_iter().filter(|reply| reply.times > 0);
            simulator.facebook().scripted_replies.extend(replies);
        }
        Action::Change { page, fields } => {
            for id in page.map_or_else(|| page_ids(simulator), |id| vec![id]) {
                simulator.change(&id, numbered(&fields, n))?;
            }
        }
        Action::InvalidateTokens(invalidation) => {
            simulator.facebook().invalidate_tokens(&invalidation);
        }
        Action::Unsubscribe { page } => {
            let mut facebook = simulator.facebook();
            facebook.all_pages_subscribed = false;
            match page {
                Some(page) => drop(facebook.page_subscriptions.remove(&page)),
                None => facebook.page_subscriptions.clear(),
            }
        }
        Action::UnsubscribeApp {} => simulator.facebook().app_subscription = None,
        Action::RemovePage { page } => {
            if !simulator.lock_pages().remove(&page) {
                return Err(SimulatorError::UnknownPage(page));
            }
        }
        Action::Revoke { user, permission } => simulator.facebook().revoke(&user, &permission)?,
        Action::Clock { offset_seconds } => {
            simulator.facebook().clock_offset_seconds = offset_seconds;
        }
    }
    Ok(())
}

/// Returns the ids of all Pages.
fn page_ids(simulator: &Simulator) -> Vec<String> {
    let pages = simulator.pages();
    let ids = pages.iter().filter_map(id_of);
    ids.map(ToOwned::to_owned).collect()
}

/// Returns the fields. In their strings, `{n}` is replaced by the number of the step.
fn numbered(fields: &Map<String, Value>, n: usize) -> Map<String, Value> {
    let value = |value: &Value| match value.as_str() {
        Some(text) => Value::from(text.replace("{n}", &n.to_string())),
        None => value.clone(),
    };
    fields
        .iter()
        .map(|(name, template)| (name.clone(), value(template)))
        .collect()
}
