//! TLS, passwords and permissions.

use std::fs::read;
use std::rc::Rc;

use bytes::Bytes;
use tidegate_cluster::redis::{Call, ErrorCode, Login, Password, RedisSettings, Script, TlsSettings, Topology, Value};
use tidegate_testkit::local;
use tidegate_testkit::redis::{Certificates, RedisOptions, RedisSentinel, RedisServer};
use tidegate_transport::Credentials;

use crate::log::record;
use crate::observed::{Event, Observed, call, settings, slot, wait};

fn tls(certificates: &Certificates) -> TlsSettings {
    TlsSettings { ca: Some(read(certificates.ca()).expect("a file").into()), ..TlsSettings::default() }
}

#[test]
fn a_server_is_spoken_to_by_tls() {
    let certificates = Rc::new(Certificates::new());
    let server = RedisServer::with(RedisOptions { tls: Some(certificates.clone()), ..RedisOptions::default() });
    local(async {
        let settings = RedisSettings { tls: Some(tls(&certificates)), ..settings(&server.address()) };
        let observed = Observed::start(settings);
        let link = observed.link(slot("a"), None).await;
        observed.subscribe(&link, "{a}1").await;
        observed.hears(&link, "{a}1", "hello").await;
        let large = "x".repeat(3_000_000);
        let echo = call(&link, Call::new("ECHO").arg(&large)).await.expect("an answer");
        assert_eq!(echo.bytes().map(Bytes::len), Some(3_000_000));
        server.kill_client(&server.clients("pubsub")[0]);
        observed.down(link.id(), slot("a")).await;
        let again = observed.link(slot("a"), Some(link.id())).await;
        observed.subscribe(&again, "{a}1").await;
    });
}

#[test]
fn a_server_that_wants_a_certificate_gets_one() {
    let certificates = Rc::new(Certificates::new());
    let options = RedisOptions { tls: Some(certificates.clone()), ..RedisOptions::default() };
    let server = RedisServer::with(options.config("tls-auth-clients yes"));
    local(async {
        let chain = read(certificates.client_certificate()).expect("a file");
        let key = read(certificates.client_key()).expect("a file");
        let own = Credentials::from_pem(&chain, &key).expect("a certificate");
        let with = TlsSettings { certificate: Some(own), ..tls(&certificates) };
        let observed = Observed::start(RedisSettings { tls: Some(with), ..settings(&server.address()) });
        observed.link(slot("a"), None).await;

        let (log, _guard) = record();
        let without = Observed::start(RedisSettings { tls: Some(tls(&certificates)), ..settings(&server.address()) });
        wait("the refusal", || log.text().contains("Redis cannot be used")).await;
        assert!(without.links.link(slot("a")).is_err());
    });
}

#[test]
fn a_server_that_somebody_else_vouches_for_is_not_believed() {
    let certificates = Rc::new(Certificates::new());
    let server = RedisServer::with(RedisOptions { tls: Some(certificates.clone()), ..RedisOptions::default() });
    local(async {
        let (log, _guard) = record();
        let strangers = tls(&Certificates::new());
        let observed = Observed::start(RedisSettings { tls: Some(strangers), ..settings(&server.address()) });
        wait("the refusal", || log.text().contains("TLS: invalid peer certificate")).await;
        assert!(observed.links.link(slot("a")).is_err());

        let name = TlsSettings { server_name: Some("other.example".into()), ..tls(&certificates) };
        let observed = Observed::start(RedisSettings { tls: Some(name), ..settings(&server.address()) });
        wait("the refusal", || log.text().contains("not valid for name")).await;
        assert!(observed.links.link(slot("a")).is_err());

        let named = TlsSettings { server_name: Some("localhost".into()), ..tls(&certificates) };
        let observed = Observed::start(RedisSettings { tls: Some(named), ..settings(&server.address()) });
        observed.link(slot("a"), None).await;
    });
}

fn login(user: Option<&str>, password: &str) -> Login {
    Login { user: user.map(Into::into), password: Some(Password::new(password)) }
}

#[test]
fn a_wrong_password_is_told_once_and_a_right_one_helps_without_a_restart() {
    let server = RedisServer::with(RedisOptions { password: Some("right".to_owned()), ..RedisOptions::default() });
    local(async {
        let (log, _guard) = record();
        let wrong = RedisSettings { login: login(None, "wrong-one"), ..settings(&server.address()) };
        let observed = Observed::start(wrong);
        wait("the refusal", || log.text().contains("the user or the password is wrong")).await;
        let rejected = || server.cli(&["INFO", "errorstats"]).contains("errorstat_WRONGPASS:count=3");
        wait("more tries", rejected).await;
        assert_eq!(log.text().matches("the user or the password is wrong").count(), 1, "{}", log.text());
        assert!(!log.text().contains("wrong-one"));
        server.cli(&["ACL", "SETUSER", "default", ">wrong-one"]);
        observed.link(slot("a"), None).await;

        let nobody = Observed::start(settings(&server.address()));
        wait("the refusal", || log.text().contains("it wants a password; set `password`")).await;
        assert!(nobody.links.link(slot("a")).is_err());
    });
}

#[test]
fn a_password_that_the_server_does_not_know_of_is_told() {
    let server = RedisServer::start();
    local(async {
        let (log, _guard) = record();
        let _observed =
            Observed::start(RedisSettings { login: login(Some("gate"), "x"), ..settings(&server.address()) });
        wait("the refusal", || log.text().contains("the user or the password is wrong")).await;
    });
}

#[test]
fn a_user_of_the_acl_needs_no_more_than_is_documented() {
    let server = RedisServer::start();
    let permitted = "on >secret resetkeys ~tidegate:* resetchannels &tidegate:* -@all +hello +info +ping +select +get +set \
                     +ssubscribe +sunsubscribe +spublish +evalsha +script|load";
    let mut arguments = vec!["ACL", "SETUSER", "gate"];
    arguments.extend(permitted.split_whitespace());
    assert_eq!(server.cli(&arguments), "OK");
    local(async {
        let (log, _guard) = record();
        let observed =
            Observed::start(RedisSettings { login: login(Some("gate"), "secret"), ..settings(&server.address()) });
        let link = observed.link(slot("a"), None).await;
        observed.subscribe(&link, "tidegate:{a}1").await;
        observed.hears(&link, "tidegate:{a}1", "hello").await;
        let script: &'static Script = Box::leak(Box::new(Script::new("get", "return redis.call('GET', KEYS[1])")));
        assert_eq!(call(&link, Call::script(script, &["tidegate:{a}k"])).await, Ok(Value::Nil));
        let error = call(&link, Call::new("GET").arg("other")).await.expect_err("not permitted");
        assert_eq!((error.code(), error.may_have_run()), (Some(ErrorCode::NoPerm), false));
        link.subscribe(&[Bytes::from_static(b"other")]);
        observed
            .until("the refusal", |events| {
                let refused = |event: &Event| matches!(event, Event::Refused(_, names, _) if names[..] == ["other"]);
                events.iter().any(refused).then_some(())
            })
            .await;
        assert!(log.text().contains("+@all -@dangerous +info permits it"), "{}", log.text());
        // The link is as good as before.
        observed.hears(&link, "tidegate:{a}1", "again").await;

        server.cli(&["ACL", "SETUSER", "gate", "-script|load"]);
        let other: &'static Script = Box::leak(Box::new(Script::new("two", "return 2")));
        let error = call(&link, Call::script(other, &["tidegate:{a}k"])).await.expect_err("not known");
        assert_eq!((error.code(), error.may_have_run()), (Some(ErrorCode::NoScript), false));
        assert!(log.text().contains("Redis refuses a script: it answered: NOPERM"), "{}", log.text());

        server.cli(&["ACL", "SETUSER", "gate", "-info"]);
        server.kill_client(&server.clients("pubsub")[0]);
        wait("the refusal", || log.text().contains("Redis cannot be used: it answered: NOPERM")).await;
    });
}

#[test]
fn another_database_is_another_one() {
    let server = RedisServer::start();
    local(async {
        let observed = Observed::start(RedisSettings { database: 3, ..settings(&server.address()) });
        let link = observed.link(slot("a"), None).await;
        call(&link, Call::new("SET").arg("k").arg("v")).await.expect("set");
        assert_eq!(server.cli(&["-n", "3", "GET", "k"]), "v");
        assert_eq!(server.cli(&["GET", "k"]), "");
    });
}

#[test]
fn sentinels_have_passwords_and_tls_of_their_own() {
    let certificates = Rc::new(Certificates::new());
    let options = RedisOptions {
        password: Some("servers".to_owned()),
        tls: Some(certificates.clone()),
        ..RedisOptions::default()
    };
    let redis = RedisSentinel::start(&options, 1, Some("watchers"));
    local(async {
        let topology = Topology::Sentinel {
            sentinels: vec![redis.sentinels[0].address().parse().expect("an address")],
            service: RedisSentinel::SERVICE.into(),
            login: Login { user: None, password: Some(Password::new("watchers")) },
            tls: true,
        };
        let ca = std::fs::read(certificates.ca()).expect("a file");
        let right = RedisSettings {
            login: Login { user: None, password: Some(Password::new("servers")) },
            tls: Some(TlsSettings { ca: Some(ca.into()), ..TlsSettings::default() }),
            ..RedisSettings::new(topology)
        };
        let observed = Observed::start(right.clone());
        let link = observed.link(slot("a"), None).await;
        observed.subscribe(&link, "{a}1").await;

        let (log, _guard) = record();
        let mut wrong = right.clone();
        if let Topology::Sentinel { login, .. } = &mut wrong.topology {
            *login = Login::default();
        }
        let _refused = Observed::start(wrong);
        wait("the refusal", || {
            log.text().contains("no Sentinel could be asked") && log.text().contains("it wants a password")
        })
        .await;
    });
}
