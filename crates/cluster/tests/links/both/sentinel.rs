//! A primary that Sentinels watch.

use tidegate_cluster::redis::{Address, Call, Login, Password, RedisSettings, Topology};
use tidegate_testkit::local;
use tidegate_testkit::redis::{RedisOptions, RedisSentinel, RedisServer};

use super::plain;
use crate::log::record;
use crate::observed::{Observed, call, slot, wait};

fn addresses(servers: &[RedisServer]) -> Vec<Address> {
    servers.iter().map(|server| server.address().parse().expect("an address")).collect()
}

fn settings(sentinels: &[RedisServer], service: &str) -> RedisSettings {
    let (service, login) = (service.into(), Login::default());
    RedisSettings::new(Topology::Sentinel { sentinels: addresses(sentinels), service, login, tls: false })
}

#[test]
fn the_new_primary_is_found_when_the_old_one_dies() {
    let mut redis = RedisSentinel::start(&plain(), 3, None);
    local(async {
        let observed = Observed::start(settings(&redis.sentinels, RedisSentinel::SERVICE));
        let link = observed.link(slot("a"), None).await;
        assert_eq!(link.address().port, redis.servers[0].port());
        observed.subscribe(&link, "{a}1").await;
        redis.servers[0].kill_9();
        observed.down(link.id(), slot("a")).await;
        let again = observed.link(slot("a"), Some(link.id())).await;
        assert_eq!(again.address().port, redis.servers[1].port());
        assert_ne!(again.run_id(), link.run_id());
        observed.subscribe(&again, "{a}1").await;
        observed.hears(&again, "{a}1", "hello").await;
        call(&again, Call::new("SET").arg("k").arg("v")).await.expect("it can be written");
    });
}

#[test]
fn a_primary_that_was_voted_out_while_it_stood_still_is_left_for_good() {
    let redis = RedisSentinel::start(&plain(), 3, None);
    local(async {
        let observed = Observed::start(settings(&redis.sentinels, RedisSentinel::SERVICE));
        let link = observed.link(slot("a"), None).await;
        redis.servers[0].stop();
        let again = observed.link(slot("a"), Some(link.id())).await;
        assert_eq!(again.address().port, redis.servers[1].port());
        redis.servers[0].cont();
        wait("the old primary to be a replica", || {
            redis.servers[0].cli(&["INFO", "replication"]).contains("role:slave")
        })
        .await;
        call(&again, Call::new("SET").arg("k").arg("v")).await.expect("it can be written");
        assert_eq!(observed.links.link(slot("a")).expect("a link").id(), again.id());
    });
}

#[test]
fn a_handover_is_followed_although_the_old_primary_is_well() {
    let redis = RedisSentinel::start(&plain(), 3, None);
    local(async {
        let observed = Observed::start(settings(&redis.sentinels, RedisSentinel::SERVICE));
        let link = observed.link(slot("a"), None).await;
        redis.sentinels[0].cli(&["SENTINEL", "FAILOVER", RedisSentinel::SERVICE]);
        let again = observed.link(slot("a"), Some(link.id())).await;
        assert_eq!(again.address().port, redis.servers[1].port());
        call(&again, Call::new("SET").arg("k").arg("v")).await.expect("it can be written");
    });
}

#[test]
fn a_primary_that_only_we_reach_is_left_when_the_sentinels_have_chosen_another() {
    let password = "servers".to_owned();
    let redis = RedisSentinel::start(&RedisOptions { password: Some(password.clone()), ..plain() }, 3, None);
    local(async {
        let login = Login { user: None, password: Some(Password::new(password)) };
        let observed = Observed::start(RedisSettings { login, ..settings(&redis.sentinels, RedisSentinel::SERVICE) });
        let link = observed.link(slot("a"), None).await;
        redis.blind();
        let again = observed.link(slot("a"), Some(link.id())).await;
        assert_eq!(again.address().port, redis.servers[1].port());
        assert!(redis.servers[0].cli(&["INFO", "replication"]).contains("role:master"), "it still believes in itself");
    });
}

#[test]
fn an_unknown_service_and_a_server_that_is_no_sentinel_are_told_apart() {
    let redis = RedisSentinel::start(&plain(), 1, None);
    local(async {
        let (log, _guard) = record();
        let _unknown = Observed::start(settings(&redis.sentinels, "nobody"));
        wait("the refusal", || log.text().contains("knows no service \"nobody\"")).await;
        let _server = Observed::start(settings(&redis.servers, RedisSentinel::SERVICE));
        wait("the refusal", || log.text().contains("no Sentinel could be asked")).await;
        let _sentinel = Observed::start(crate::observed::settings(&redis.sentinels[0].address()));
        wait("the refusal", || log.text().contains("set `mode = \"sentinel\"`")).await;
        let _replica = Observed::start(crate::observed::settings(&redis.servers[1].address()));
        wait("the refusal", || log.text().contains("it is a replica")).await;
    });
}

#[test]
fn dead_sentinels_do_not_matter_while_one_lives() {
    let mut redis = RedisSentinel::start(&plain(), 3, None);
    redis.sentinels[0].kill_9();
    redis.sentinels[1].stop();
    local(async {
        let observed = Observed::start(settings(&redis.sentinels, RedisSentinel::SERVICE));
        observed.link(slot("a"), None).await;
    });
}
