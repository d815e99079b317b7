//! Processes of the real executable, which tests can kill and start again.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::config::settings::Environment;

use super::{client, reserve_port, within};

/// A role that runs as a process. A restart uses the same ports.
#[derive(Debug)]
pub(crate) struct Process {
    /// The subcommand that runs the role.
    role: &'static str,
    environment: Environment,
    /// The port of the public listener.
    public: u16,
    /// The port of the private listener.
    private: u16,
    /// The running process; `None` after it was killed or terminated.
    child: Option<Child>,
}

impl Process {
    /// Starts a role on unused ports and waits until it is ready.
    pub(crate) async fn start(role: &'static str, environment: Environment) -> Self {
        Self::start_on(role, environment, reserve_port()).await
    }

    /// Starts a role with its public listener on the port `public` and waits until it is ready.
    pub(crate) async fn start_on(
        role: &'static str,
        mut environment: Environment,
        public: u16,
    ) -> Self {
        let private = reserve_port();
        environment.insert("PAGESYNC_LISTEN".to_owned(), format!("127.0.0.1:{public}"));
        environment.insert(
            "PAGESYNC_PRIVATE_LISTEN".to_owned(),
            format!("127.0.0.1:{private}"),
        );
        environment.insert("PAGESYNC_LOG".to_owned(), "error".to_owned());
        let mut process = Self {
            role,
            environment,
            public,
            private,
            child: None,
        };
        process.start_again().await;
        process
    }

    /// Starts the process on its ports and waits until it is ready.
    pub(crate) async fn start_again(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pagesync"));
        command.arg(self.role).env_clear().envs(&self.environment);
        self.child = Some(command.stdout(Stdio::null()).spawn().unwrap());
        let url = format!("http://127.0.0.1:{}/readyz", self.private);
        let client = client();
        within(
            Duration::from_secs(60),
            &format!("{} to be ready", self.role),
            || async {
                let answer = client
                    .get(&url)
                    .timeout(Duration::from_secs(3))
                    .send()
                    .await
                    .ok()?;
                answer.status().is_success().then_some(())
            },
        )
        .await;
    }

    /// Returns the peak resident memory of the process, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let id = self.child.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes * 1024
    }

    /// Returns the address that receives webhooks.
    pub(crate) fn webhook_url(&self) -> String {
        format!("http://127.0.0.1:{}/facebook/webhook", self.public)
    }

    /// Kills the process with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Sends SIGTERM. Panics unless the process ends with success within 30 seconds.
    pub(crate) async fn terminate(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let sent = Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        let began = Instant::now();
        let status = within(Duration::from_secs(30), "a process to end", || {
            let ended = child.try_wait().unwrap();
            async move { ended }
        })
        .await;
        assert!(
            status.success(),
            "{} ended with {status} after {:?}",
            self.role,
            began.elapsed()
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
