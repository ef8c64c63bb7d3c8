//! An application beside Node servers with the same namespaces, on one Redis: its clients may have it say and ask what the
//! embedding API can. `interop ADAPTER REDIS_PORT`, where the adapter is `redis`, `sharded` or `streams`; it prints where
//! it listens.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_config::{Bridge, Config, Interop, NodeAdapter, RealtimeAuth, Redis};
use tidegate_server::app::{App, Args, Event, Namespace, Socket};
use tidegate_server::{Extras, Server, start_logging};
use tidegate_types::{Namespace as Name, TenantId};

/// What a client wants done.
#[derive(Deserialize)]
#[serde(default)]
struct Wish {
    #[serde(rename = "do")]
    what: String,
    to: Vec<String>,
    except: Vec<String>,
    volatile: bool,
    event: String,
    args: Vec<Value>,
    room: String,
}

impl Default for Wish {
    fn default() -> Self {
        let (what, event, room) = Default::default();
        Self { what, to: Vec::new(), except: Vec::new(), volatile: false, event, args: Vec::new(), room }
    }
}

fn main() -> Result<()> {
    let mut given = std::env::args().skip(1);
    let name = || "socket.io".into();
    let adapter = match given.next().as_deref() {
        Some("redis") => NodeAdapter::Redis { key: name() },
        Some("sharded") => NodeAdapter::Sharded { prefix: name() },
        Some("streams") => NodeAdapter::Streams { stream: name(), prefix: name(), max_length: 10_000 },
        _ => bail!("redis, sharded or streams?"),
    };
    let port = given.next().context("the port of Redis")?.parse()?;
    let mut config = Config::embedded("127.0.0.1:0".parse()?, RealtimeAuth::none());
    if let Some(realtime) = &mut config.realtime {
        let namespaces = vec![Name::root(), Name::try_from("/other")?];
        let bridge = Bridge { adapter, namespaces, tenant: TenantId::default_tenant() };
        realtime.interop = Some(Interop { redis: Redis::at("127.0.0.1", port), bridges: vec![bridge] });
    }
    start_logging(&config.log);
    let app = App::new().namespace("/", namespace()).namespace("/other", namespace());
    let running = Server::start(config, Extras { app: Some(app), signals: true, ..Extras::default() })?;
    for address in running.addresses() {
        println!("listening on http://{address}");
    }
    match running.wait() {
        0 => Ok(()),
        code => bail!("ended with {code}"),
    }
}

fn namespace() -> Namespace {
    Namespace::new()
        .without_auth()
        // Asked for, and refused: what comes from Node has no place in an order.
        .with_recovery()
        .on("join", |socket, mut event| {
            let joined = event.first::<String>().is_ok_and(|room| socket.join(&room).is_ok());
            event.ack(&joined);
        })
        .on_async("wish", wish)
        .on("binary", |socket, mut event| {
            socket.io().emit("binary", event.args().clone());
            event.ack(&true);
        })
        .on_server_event("hey", |io, args| {
            io.emit("heard", args);
            Some(Args::from(&"tidegate"))
        })
}

async fn wish(socket: Socket, mut event: Event<'static>) {
    let Ok(wish) = event.first::<Wish>() else { return };
    let io = socket.io();
    let mut to = io.everybody();
    to = wish.to.iter().fold(to, |to, room| to.to(room));
    to = wish.except.iter().fold(to, |to, room| to.except(room));
    if wish.volatile {
        to = to.volatile();
    }
    let args = wish.args.iter().fold(Args::none(), |args, value| args.with(value));
    let values = |answers: &[Args<'_>]| -> Vec<Value> {
        answers.iter().map(|answer| serde_json::from_str(answer.json()).unwrap_or(Value::Null)).collect()
    };
    let answer = match wish.what.as_str() {
        "emit" => {
            to.emit(&wish.event, args);
            json!(true)
        }
        "publish" => {
            let room = wish.to.first().map_or("", String::as_str);
            json!(io.publish(room, &wish.event, args).await.is_ok())
        }
        "join" => {
            to.join(&wish.room);
            json!(true)
        }
        "leave" => {
            to.leave(&wish.room);
            json!(true)
        }
        "disconnect" => {
            to.disconnect();
            json!(true)
        }
        "fetch" => {
            let found = to.fetch().await;
            let found_ones: Vec<_> =
                found.values.iter().map(|one| json!({ "id": one.id, "rooms": one.rooms, "data": one.data })).collect();
            json!({ "found": found_ones, "incomplete": found.incomplete })
        }
        "ask" => {
            let answers = to.emit_with_ack(&wish.event, args, Duration::from_secs(3)).await;
            json!({ "values": values(&answers.values), "incomplete": answers.incomplete })
        }
        "serverSideEmit" => {
            io.server_side_emit(&wish.event, args);
            json!(true)
        }
        "serverSideAsk" => {
            let answers = io.server_side_emit_with_ack(&wish.event, args).await;
            json!({ "values": values(&answers.values), "incomplete": answers.incomplete })
        }
        _ => Value::Null,
    };
    event.ack(&answer);
}
