//! Questions of this server to the others: each of them answers, or the question ends without some of them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tidegate_types::hex;
use tidegate_wire::node_adapter::{Message, Value};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Bridge;

/// Questions that may be open at once.
const MOST_OPEN: usize = 1_024;
/// Answers of one question that may wait to be read.
const MOST_ANSWERS: usize = 4_096;

#[derive(Default)]
pub(super) struct Requests(Mutex<FxHashMap<String, mpsc::Sender<Message>>>);

/// What is asked.
pub(crate) enum Question {
    /// Each server: made a message by the request's name.
    Servers(Box<dyn FnOnce(String) -> Message + Send>),
    /// Each client.
    Clients(Box<dyn FnOnce(String) -> Message + Send>),
}

/// What was answered in time.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// The answers of servers, or of clients.
    pub values: Vec<Value>,
    /// Arrays of sockets in JSON.
    pub sockets: Vec<String>,
    /// Whether somebody has not answered.
    pub incomplete: bool,
}

impl Requests {
    fn lock(&self) -> MutexGuard<'_, FxHashMap<String, mpsc::Sender<Message>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer has come. False if nobody waits for it.
    pub fn answered(&self, message: Message) -> bool {
        let request = match &message {
            Message::Found { request, .. }
            | Message::Rooms { request, .. }
            | Message::ServerSideAnswer { request, .. }
            | Message::ClientCount { request, .. }
            | Message::Acked { request, .. } => request,
            Message::Broadcast(_)
            | Message::Join { .. }
            | Message::Leave { .. }
            | Message::Disconnect { .. }
            | Message::Fetch { .. }
            | Message::Ids { .. }
            | Message::AllRooms { .. }
            | Message::ServerSide { .. }
            | Message::Nothing => return false,
        };
        let waiting = self.lock().get(request).cloned();
        waiting.is_some_and(|waiting| waiting.try_send(message).is_ok())
    }
}

/// Ends a question, however it ends.
struct Closing<'a> {
    requests: &'a Requests,
    request: String,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.requests.lock().remove(&self.request);
    }
}

impl Bridge {
    /// Asks all other servers, or their clients, and gathers what they answer until `patience` has run out.
    pub async fn ask(&self, question: Question, patience: Duration) -> Gathered {
        let mut gathered = Gathered { incomplete: true, ..Gathered::default() };
        let until = Instant::now() + patience;
        let Some(wire) = self.wire.get() else { return gathered };
        let Ok(Ok(Some(servers))) = timeout_at(until, wire.count(self.adapter.servers())).await else {
            return gathered;
        };
        // This one is among those that listen.
        let servers = servers.saturating_sub(1);
        if servers == 0 {
            gathered.incomplete = false;
            return gathered;
        }
        let request =
            String::from_utf8(hex::<16>(u64::from_ne_bytes(crate::id::random())).to_vec()).unwrap_or_default();
        let (answers, mut answered) = mpsc::channel(MOST_ANSWERS);
        {
            let mut open = self.requests.lock();
            if open.len() >= MOST_OPEN {
                return gathered;
            }
            open.insert(request.clone(), answers);
        }
        let _closing = Closing { requests: &self.requests, request: request.clone() };
        let of_clients = matches!(question, Question::Clients(_));
        let (Question::Servers(make) | Question::Clients(make)) = question;
        self.say(&make(request));
        let (mut heard, mut clients) = (0, 0_u64);
        while heard < servers || (of_clients && (gathered.values.len() as u64) < clients) {
            let Ok(Some(answer)) = timeout_at(until, answered.recv()).await else { return gathered };
            match answer {
                Message::Found { sockets, .. } => {
                    heard += 1;
                    gathered.sockets.push(sockets);
                }
                Message::ServerSideAnswer { value, .. } => {
                    heard += 1;
                    gathered.values.push(value);
                }
                Message::ClientCount { count, .. } => {
                    heard += 1;
                    clients = clients.saturating_add(count);
                }
                Message::Acked { value, .. } => gathered.values.push(value),
                Message::Rooms { .. }
                | Message::Broadcast(_)
                | Message::Join { .. }
                | Message::Leave { .. }
                | Message::Disconnect { .. }
                | Message::Fetch { .. }
                | Message::Ids { .. }
                | Message::AllRooms { .. }
                | Message::ServerSide { .. }
                | Message::Nothing => {}
            }
        }
        gathered.incomplete = false;
        gathered
    }
}
