//! The roles of a process.

/// The role of the process that reads the configuration. It decides which settings are required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Ingress, worker and scheduler in one process.
    Up,
    /// Receives webhooks and logins.
    Ingress,
    /// Executes jobs.
    Worker,
    /// Publishes due polls.
    Scheduler,
    /// Serves the HTTP API.
    Api,
    /// The Facebook simulator.
    Simulator,
    /// A command of an operator.
    Command,
}

impl Role {
    /// Returns the name of the role on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Ingress => "ingress",
            Self::Worker => "worker",
            Self::Scheduler => "scheduler",
            Self::Api => "api",
            Self::Simulator => "simulator",
            Self::Command => "command",
        }
    }

    /// Returns whether the role receives webhooks and logins.
    pub(super) fn is_public(self) -> bool {
        matches!(self, Self::Up | Self::Ingress)
    }

    /// Returns whether the role calls Graph to poll and subscribe.
    pub(super) fn calls_graph(self) -> bool {
        matches!(self, Self::Up | Self::Worker)
    }

    /// Returns whether the role is one of the services that share RabbitMQ and Redis.
    pub(super) fn is_service(self) -> bool {
        matches!(
            self,
            Self::Ingress | Self::Worker | Self::Scheduler | Self::Api
        )
    }
}
