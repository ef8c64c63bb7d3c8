//! A chat in Rust on the realtime server: a page, rooms with who is in them, and history.
//! `cargo run --example chat`, then open http://localhost:3000 in two windows.

use std::sync::Arc;

use anyhow::{Result, bail};
use bytes::Bytes;
use http::{Response, header::CONTENT_TYPE};
use serde_json::json;
use tidegate_config::{Config, RealtimeAuth};
use tidegate_server::app::{App, Args, Event, Namespace, Refusal, Socket};
use tidegate_server::{Extras, Local, Server, start_logging};

const PAGE: &str = include_str!("chat.html");
/// The stock client.
const CLIENT: &[u8] = include_bytes!("../src/dev/page/socket.io.esm.min.js");
/// Messages shown to who enters a room.
const SHOWN: usize = 50;

/// What is known of a client.
#[derive(Clone)]
struct Person {
    name: String,
    room: Option<String>,
}

fn main() -> Result<()> {
    let config = Config::embedded("[::]:3000".parse()?, RealtimeAuth::none());
    start_logging(&config.log);
    let app = App::new().namespace("/chat", chat());
    let running =
        Server::start(config, Extras { app: Some(app), local: Some(page()), signals: true, ..Extras::default() })?;
    println!("chat on http://localhost:3000");

    // Other threads reach clients too.
    let everybody = running.io("/chat");
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            everybody.iter().for_each(|io| io.emit("notice", &line));
        }
    });
    match running.wait() {
        0 => Ok(()),
        code => bail!("ended with {code}"),
    }
}

fn chat() -> Namespace {
    Namespace::new()
        .without_auth()
        .admit(|applicant| match name(applicant.handshake.auth().get()) {
            Some(_) => Ok(()),
            None => Err(Refusal::new("Choose a name of at most 30 characters")),
        })
        .on_connect(|socket| {
            let name = name(socket.handshake().auth().get()).unwrap_or_default();
            socket.set_data(Person { name, room: None });
        })
        .on_async("enter", enter)
        .on_async("say", say)
        // Whoever is behind can do without.
        .on("typing", |socket, _| in_room(socket, |name, room| socket.to(room).volatile().emit("typing", name)))
        .on_disconnect(|socket, _| in_room(socket, |name, room| socket.to(room).emit("left", name)))
}

/// The name in an auth payload.
fn name(auth: &str) -> Option<String> {
    let auth: serde_json::Value = serde_json::from_str(auth).ok()?;
    let name = auth.get("name")?.as_str()?.trim();
    (1..=30).contains(&name.chars().count()).then(|| name.to_owned())
}

fn in_room(socket: &Socket, act: impl FnOnce(&str, &str)) {
    if let Some(Person { name, room: Some(room) }) = socket.data() {
        act(&name, &room);
    }
}

/// Into a room, out of the one before; answered with what has been said there.
async fn enter(socket: Socket, mut event: Event<'static>) {
    let Ok(room) = event.first::<String>() else { return event.ack(&json!({ "error": "Which room?" })) };
    in_room(&socket, |name, before| {
        socket.to(before).emit("left", name);
        socket.leave(before);
    });
    if let Err(error) = socket.join(&room) {
        return event.ack(&json!({ "error": error.to_string() }));
    }
    socket.with_data(|person: &mut Person| person.room = Some(room.clone()));
    in_room(&socket, |name, room| socket.to(room).emit("entered", name));
    let io = socket.io();
    // The store may have to read a disk.
    let said = tokio::task::spawn_blocking(move || io.history(&room, None, SHOWN)).await;
    let said = said.ok().and_then(Result::ok).unwrap_or_default();
    let said: Vec<_> = said.iter().filter_map(|past| past.args.first::<serde_json::Value>().ok()).collect();
    event.ack(&json!({ "said": said }));
}

/// To everybody in the room, and into its history; answered once it is stored.
async fn say(socket: Socket, mut event: Event<'static>) {
    let (Ok(text), Some(Person { name, room: Some(room) })) = (event.first::<String>(), socket.data()) else {
        return event.ack(&json!({ "error": "Enter a room, then say something" }));
    };
    let message = json!({ "name": name, "text": text });
    match socket.io().publish_persistent(&room, "said", Args::from(&message)).await {
        Ok(_) => event.ack(&json!({})),
        Err(error) => event.ack(&json!({ "error": error.to_string() })),
    }
}

fn page() -> Local {
    Arc::new(|request| {
        let (kind, body) = match request.uri().path() {
            "/" => ("text/html; charset=utf-8", PAGE.as_bytes()),
            "/socket.io.js" => ("text/javascript", CLIENT),
            _ => return None,
        };
        Response::builder().header(CONTENT_TYPE, kind).body(Bytes::from_static(body)).ok()
    })
}
