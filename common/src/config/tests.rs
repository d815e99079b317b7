//! Tests of which configurations are accepted, refused and reported.

use super::*;
use secrecy::ExposeSecret as _;

/// Returns valid values of the settings that `up` requires, overridden or extended by `pairs`.
fn environment(pairs: &[(&str, &str)]) -> Environment {
    let valid = [
        ("FACEBOOK_APP_SECRET", "0123456789abcdef0123456789abcdef"),
        ("FACEBOOK_VERIFY_TOKEN", "verify-me-please"),
        ("FACEBOOK_APP_ID", "100200300400500"),
        (
            "FACEBOOK_REDIRECT_URI",
            "http://localhost:5000/facebook/callback",
        ),
        (
            "FACEBOOK_WEBHOOK_ADDRESS",
            "https://bot.example/facebook/webhook",
        ),
    ];
    valid
        .iter()
        .chain(pairs)
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn problems(pairs: &[(&str, &str)], role: Role) -> Vec<(String, String)> {
    let Problems(problems) = Config::read(&environment(pairs), role).unwrap_err();
    problems
        .into_iter()
        .map(|problem| (problem.setting, problem.problem))
        .collect()
}

#[test]
fn only_the_app_and_its_addresses_are_required() {
    let config = Config::read(&environment(&[]), Role::Up).unwrap();
    assert_eq!(config.backend, Backend::Embedded);
    assert_eq!(config.listen.to_string(), "0.0.0.0:5000");
    assert_eq!(config.verify_after, Duration::from_secs(10));
    assert_eq!(config.tracked_fields, TrackedFields::default());
    assert!(Config::read(&Environment::new(), Role::Scheduler).is_ok());
    let Problems(missing) = Config::read(&Environment::new(), Role::Up).unwrap_err();
    assert_eq!(missing.len(), 5, "{missing:?}");
}

#[test]
fn one_report_names_every_problem_and_no_value() {
    let secret = "hunter2-hunter2";
    let invalid = [
        ("PAGESYNC_LISTEN", secret),
        ("PAGESYNC_VERIFY_AFTER", secret),
        ("PAGESYNC_REDIS_URL", "rediss://x"),
        ("PAGESYNC_LISTN", secret),
        ("FACEBOOK_APP_SECRET", secret),
        ("FACEBOOK_VERIFY_TOKEN", "default_verify_token"),
        ("PAGESYNC_BACKEND", "distributed"),
        ("PAGESYNC_LOG", "loud"),
    ];
    let report = Config::read(&environment(&invalid), Role::Up).unwrap_err();
    assert_eq!(report.0.len(), 7, "{report}");
    assert!(!report.to_string().contains("hunter2"), "{report}");
    let unknown = report
        .0
        .iter()
        .find(|problem| problem.setting == "PAGESYNC_LISTN")
        .unwrap();
    assert_eq!(unknown.remedy, "did you mean PAGESYNC_LISTEN?");
}

#[test]
fn a_secret_can_come_from_a_variable_or_a_file_but_not_from_both() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, "fedcba9876543210fedcba9876543210\n").unwrap();
    let path = path.to_str().unwrap();
    let config = Config::read(
        &environment(&[
            ("FACEBOOK_APP_SECRET", ""),
            ("FACEBOOK_APP_SECRET_FILE", path),
        ]),
        Role::Up,
    );
    assert_eq!(
        config.unwrap().app_secrets[0].expose_secret(),
        "fedcba9876543210fedcba9876543210"
    );
    let twice = problems(&[("FACEBOOK_APP_SECRET_FILE", path)], Role::Up);
    assert_eq!(
        twice,
        [(
            "FACEBOOK_APP_SECRET".to_owned(),
            "is given twice: here and in FACEBOOK_APP_SECRET_FILE".to_owned()
        )]
    );
    std::fs::write(path, "\n").unwrap();
    let empty = problems(
        &[
            ("FACEBOOK_APP_SECRET", ""),
            ("FACEBOOK_APP_SECRET_FILE", path),
        ],
        Role::Up,
    );
    assert!(empty[0].1.starts_with("is empty"), "{empty:?}");
}

#[test]
fn only_a_worker_may_open_tokens() {
    let key = sealing::PrivateKey::generate();
    let (private, public) = (key.text(), key.public().text());
    let private = private.expose_secret();
    let ingress = |pairs: &[(&str, &str)]| Config::read(&environment(pairs), Role::Ingress);
    assert!(ingress(&[("PAGESYNC_TOKEN_PUBLIC_KEY", &public)]).is_ok());
    assert!(ingress(&[]).is_err(), "ingress needs a key that seals");
    for role in [Role::Ingress, Role::Scheduler, Role::Api] {
        let both = [
            ("PAGESYNC_TOKEN_PUBLIC_KEY", public.as_str()),
            ("PAGESYNC_TOKEN_PRIVATE_KEYS", private),
        ];
        assert_eq!(problems(&both, role)[0].0, "PAGESYNC_TOKEN_PRIVATE_KEYS");
    }
    let swapped = problems(&[("PAGESYNC_TOKEN_PUBLIC_KEY", private)], Role::Ingress);
    assert_eq!(swapped[0].1, "is a private key");
    assert!(Config::read(&environment(&[]), Role::Worker).is_err());
    let worker = environment(&[("PAGESYNC_TOKEN_PRIVATE_KEYS", private)]);
    assert!(Config::read(&worker, Role::Worker).is_ok());
}

#[test]
fn settings_of_the_wrong_form_and_addresses_without_tls_are_refused() {
    for (key, invalid) in [
        ("PAGESYNC_GRAPH_URL", "http://graph.facebook.com"),
        ("PAGESYNC_GRAPH_URL", "ftp://simulator"),
        (
            "FACEBOOK_REDIRECT_URI",
            "http://bot.example/facebook/callback",
        ),
        ("FACEBOOK_REDIRECT_URI", "https://bot.example/elsewhere"),
        (
            "FACEBOOK_WEBHOOK_ADDRESS",
            "https://me:secret@bot.example/facebook/webhook",
        ),
        (
            "FACEBOOK_WEBHOOK_ADDRESS",
            "https://bot.example/facebook/webhook/",
        ),
        (
            "FACEBOOK_REDIRECT_URI",
            "https://bot.example/?to=/facebook/callback",
        ),
        (
            "FACEBOOK_REDIRECT_URI",
            "https://bot.example//facebook/callback",
        ),
        (
            "FACEBOOK_REDIRECT_URI",
            "https://bot.example/a;b/facebook/callback",
        ),
        ("PAGESYNC_PUBLIC_URL", "https://bot.example?x=1"),
        ("PAGESYNC_PUBLIC_URL", "https://bot.example\\app"),
        ("PAGESYNC_PUBLIC_URL", "HTTPS://bot.example"),
        (
            "PAGESYNC_PUBLIC_URL",
            "https://bot.example/facebook/webhook",
        ),
        ("PAGESYNC_GRAPH_VERSION", "25.0"),
        ("PAGESYNC_TIME_ZONE", "Mars/Olympus"),
        ("PAGESYNC_POLL_SPREAD", "24h"),
        ("FACEBOOK_APP_ID", "1234"),
        ("FACEBOOK_APP_ID", "my_app"),
        ("PAGESYNC_SCOPES", "pages show list"),
    ] {
        let found = problems(&[(key, invalid)], Role::Up);
        assert_eq!(found.len(), 1, "{key}: {found:?}");
        assert_eq!(found[0].0, key);
    }
}

#[test]
fn both_addresses_follow_from_the_public_one_unless_they_are_set() {
    let unset = [
        ("FACEBOOK_REDIRECT_URI", ""),
        ("FACEBOOK_WEBHOOK_ADDRESS", ""),
    ];
    let read = |pairs: &[(&str, &str)]| {
        let pairs: Vec<(&str, &str)> = unset.iter().chain(pairs).copied().collect();
        Config::read(&environment(&pairs), Role::Up)
    };
    for (address, url, path) in [
        ("https://bot.example", "https://bot.example", ""),
        ("https://bot.example/", "https://bot.example", ""),
        (
            "https://bot.example:8443/a/b-c",
            "https://bot.example:8443/a/b-c",
            "/a/b-c",
        ),
    ] {
        let config = read(&[("PAGESYNC_PUBLIC_URL", address)]).unwrap();
        assert_eq!((config.public_url(), config.public_path()), (url, path));
        assert_eq!(config.redirect_uri, format!("{url}/facebook/callback"));
        let webhook_address = config.webhook_address.unwrap();
        assert_eq!(webhook_address, format!("{url}/facebook/webhook"));
    }
    let other = "https://hooks.example/facebook/webhook";
    let both = [
        ("PAGESYNC_PUBLIC_URL", "https://bot.example"),
        ("FACEBOOK_WEBHOOK_ADDRESS", other),
    ];
    let config = read(&both).unwrap();
    assert_eq!(config.webhook_address.as_deref(), Some(other));
    assert_eq!(config.public_url(), "https://bot.example");
    assert_eq!((config.public_path(), config.webhook_path()), ("", ""));
    let Problems(missing) = read(&[]).unwrap_err();
    assert_eq!(missing.len(), 2, "{missing:?}");
}

#[test]
fn an_app_id_may_have_twelve_digits_as_in_the_first_years() {
    let config = Config::read(
        &environment(&[("FACEBOOK_APP_ID", "174829003346")]),
        Role::Up,
    );
    assert_eq!(config.unwrap().app_id, "174829003346");
}

#[test]
fn a_service_cannot_use_the_embedded_backend() {
    let found = problems(&[("PAGESYNC_BACKEND", "embedded")], Role::Scheduler);
    assert_eq!(found[0].0, "PAGESYNC_BACKEND");
}

#[test]
fn up_and_commands_cannot_choose_different_backends() {
    let url = ("PAGESYNC_REDIS_URL", "redis://127.0.0.1/0");
    assert_eq!(problems(&[url], Role::Up)[0].0, "PAGESYNC_BACKEND");
    let command = Config::read(&environment(&[url]), Role::Command).unwrap();
    assert_eq!(command.backend, Backend::Distributed);
    let explicit = [url, ("PAGESYNC_BACKEND", "embedded")];
    for role in [Role::Up, Role::Command] {
        let config = Config::read(&environment(&explicit), role).unwrap();
        assert_eq!(config.backend, Backend::Embedded);
    }
}
