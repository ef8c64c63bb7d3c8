//! Questions from other servers to clients here: a broadcast that wants each client's answer.
//!
//! One number serves all clients of a question, as in Node; it lies above those that the embedding API asks with.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use tidegate_types::{ConnId, Millis};
use tidegate_wire::node_adapter::{Message, Value};
use tidegate_wire::socket_io;

use tokio::sync::mpsc;

use crate::node::steady_ms;

/// The first number. JavaScript counts exactly up to 2^53.
const FIRST: u64 = 1 << 32;
/// Questions that may be open at once.
const MOST_OPEN: usize = 1_024;
/// How long an answer is waited for if the question does not say, and at most, ms.
const PATIENCE_MS: [u64; 2] = [20_000, 120_000];

pub(crate) struct Asked(Mutex<Questions>);

struct Questions {
    next: u64,
    open: FxHashMap<u64, Open>,
}

struct Open {
    request: String,
    to: Asker,
    waiting: FxHashSet<ConnId>,
    /// Everybody has been asked: before, one worker's clients may have answered when another's have not been asked yet.
    all_asked: bool,
    until: Millis,
}

impl Open {
    fn is_over(&self) -> bool {
        self.all_asked && self.waiting.is_empty()
    }
}

/// Whose question it is.
#[derive(Clone, Debug)]
pub(crate) enum Asker {
    /// Another server.
    Server(Option<String>),
    /// The application here.
    Here(mpsc::Sender<Value>),
}

impl Asked {
    pub fn new() -> Self {
        Self(Mutex::new(Questions { next: FIRST, open: FxHashMap::default() }))
    }

    /// Whether a number is one of a question like this.
    pub fn is_of(ack_id: u64) -> bool {
        ack_id >= FIRST
    }

    fn lock(&self) -> MutexGuard<'_, Questions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a question; `None` while too many are open.
    pub fn open(&self, request: &str, to: Asker, timeout_ms: Option<u64>) -> Option<u64> {
        let [usual, most] = PATIENCE_MS;
        let now = steady_ms();
        let mut questions = self.lock();
        if questions.open.len() >= MOST_OPEN {
            questions.open.retain(|_, open| open.until > now);
            if questions.open.len() >= MOST_OPEN {
                return None;
            }
        }
        let id = questions.next;
        questions.next += 1;
        let open = Open {
            request: request.to_owned(),
            to,
            waiting: FxHashSet::default(),
            all_asked: false,
            until: now + timeout_ms.unwrap_or(usual).min(most),
        };
        questions.open.insert(id, open);
        Some(id)
    }

    /// Waits for a client's answer; to be said before it is asked.
    pub fn expect(&self, id: u64, conn: ConnId) {
        if let Some(open) = self.lock().open.get_mut(&id) {
            open.waiting.insert(conn);
        }
    }

    /// Nobody else will be asked.
    pub fn all_asked(&self, id: u64) {
        let mut questions = self.lock();
        let over = questions.open.get_mut(&id).is_some_and(|open| {
            open.all_asked = true;
            open.is_over()
        });
        if over {
            questions.open.remove(&id);
        }
    }

    /// A client has answered. What its answer is to another server, and which that is, if it was another's question.
    pub fn answered(
        &self,
        conn: ConnId,
        id: u64,
        payload: &str,
        attachments: Vec<Bytes>,
    ) -> Option<(Option<String>, Message)> {
        let mut questions = self.lock();
        let open = questions.open.get_mut(&id)?;
        if !open.waiting.remove(&conn) {
            return None;
        }
        let (request, to) = (open.request.clone(), open.to.clone());
        if open.is_over() {
            questions.open.remove(&id);
        }
        drop(questions);
        let json = socket_io::args(payload).next().unwrap_or("null").to_owned();
        let value = Value { json, attachments };
        match to {
            Asker::Server(to) => Some((to, Message::Acked { request, value })),
            Asker::Here(answers) => {
                // Who asked may have gone.
                let _ = answers.try_send(value);
                None
            }
        }
    }

    /// A client that has gone answers nothing.
    pub fn forget(&self, conn: ConnId) {
        let mut questions = self.lock();
        if !questions.open.is_empty() {
            questions.open.retain(|_, open| !open.waiting.remove(&conn) || !open.is_over());
        }
    }

    /// Forgets what is waited for no longer, and questions that nobody was there to answer.
    pub fn sweep(&self) {
        let now = steady_ms();
        self.lock().open.retain(|_, open| open.until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_types::ShardId;

    fn conn(slot: u32) -> ConnId {
        ConnId { shard: ShardId(0), slot, generation: 1 }
    }

    #[test]
    fn each_client_that_was_asked_answers_once() {
        let asked = Asked::new();
        let id = asked.open("r", Asker::Server(Some("u".to_owned())), None).unwrap();
        asked.expect(id, conn(1));
        asked.expect(id, conn(2));
        assert_eq!(asked.answered(conn(3), id, "[1]", vec![]), None);
        let (to, message) = asked.answered(conn(1), id, r#"["a",2]"#, vec![]).unwrap();
        assert_eq!(to.as_deref(), Some("u"));
        assert_eq!(message, Message::Acked { request: "r".into(), value: Value::json(r#""a""#) });
        assert_eq!(asked.answered(conn(1), id, "[1]", vec![]), None);
        asked.all_asked(id);
        asked.forget(conn(2));
        assert_eq!(asked.answered(conn(2), id, "[1]", vec![]), None);
        assert!(asked.lock().open.is_empty());
    }

    #[test]
    fn a_question_stays_open_until_everybody_has_been_asked() {
        let asked = Asked::new();
        let id = asked.open("r", Asker::Server(None), None).unwrap();
        asked.expect(id, conn(1));
        assert!(asked.answered(conn(1), id, "[1]", vec![]).is_some());
        asked.expect(id, conn(2));
        asked.all_asked(id);
        assert!(asked.answered(conn(2), id, "[1]", vec![]).is_some());
        assert!(asked.lock().open.is_empty());
        let nobody = asked.open("r", Asker::Server(None), None).unwrap();
        asked.all_asked(nobody);
        assert!(asked.lock().open.is_empty());
    }

    #[test]
    fn questions_are_bounded_and_end() {
        let asked = Asked::new();
        (0..MOST_OPEN).for_each(|_| _ = asked.open("r", Asker::Server(None), None).unwrap());
        assert_eq!(asked.open("r", Asker::Server(None), None), None);
        asked.lock().open.values_mut().for_each(|open| open.until = 0);
        assert!(asked.open("r", Asker::Server(None), None).is_some());
    }
}
