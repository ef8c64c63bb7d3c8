//! Values kept beside messages: tickets, revocations, answers to repeated requests.

use bytes::Bytes;
use tokio::sync::oneshot::Sender;

use super::call::Call;
use super::engine::Engine;
use super::error::LinkError;
use super::resp::Value;
use super::script;
use crate::{Kind, Name, Unavailable};

fn bytes(result: Result<Value, LinkError>) -> Result<Option<Bytes>, Unavailable> {
    match result {
        Ok(Value::Bytes(bytes)) => Ok(Some(bytes)),
        Ok(_) => Ok(None),
        Err(_) => Err(Unavailable),
    }
}

impl Engine {
    fn value(&self, name: &Name, what: &str) -> (String, Call) {
        let key = self.keys.value(name);
        let call = Call::script(&script::VALUE, &[&self.keys.names(name.kind), &key]);
        let call = call.arg(what).arg(name.text.as_bytes());
        (key, call)
    }

    pub(super) fn keep(
        &self,
        name: &Name,
        value: &Bytes,
        ttl_ms: u64,
        answer: Sender<Result<Option<Bytes>, Unavailable>>,
    ) {
        let (key, call) = self.value(name, "keep");
        let call = call.arg(value).int(ttl_ms.max(1));
        self.call(key.as_bytes(), call, |result| drop(answer.send(bytes(result))));
    }

    pub(super) fn set(&self, name: &Name, value: Option<Bytes>, ttl_ms: u64, answer: Sender<Result<(), Unavailable>>) {
        let (key, call) = match &value {
            Some(value) => {
                let (key, call) = self.value(name, "set");
                (key, call.arg(value).int(ttl_ms.max(1)))
            }
            None => self.value(name, "remove"),
        };
        self.call(key.as_bytes(), call, |result| {
            let _ = answer.send(result.map(drop).map_err(|_| Unavailable));
        });
    }

    pub(super) fn get(&self, name: &Name, answer: Sender<Result<Option<Bytes>, Unavailable>>) {
        let key = self.keys.value(name);
        self.call(key.as_bytes(), Call::new("GET").arg(&key), |result| drop(answer.send(bytes(result))));
    }

    pub(super) fn take(&self, name: &Name, answer: Sender<Result<Option<Bytes>, Unavailable>>) {
        let (key, call) = self.value(name, "take");
        self.call(key.as_bytes(), call, |result| drop(answer.send(bytes(result))));
    }

    pub(super) fn list(&self, kind: Kind, most: usize, answer: Sender<Result<Vec<(String, Bytes)>, Unavailable>>) {
        let index = self.keys.names(kind);
        let call = Call::script(&script::VALUE, &[&index]).arg("list").int(most).arg(self.keys.values(kind) + "=");
        self.call(index.as_bytes(), call, |result| {
            let pairs = result.ok().and_then(Value::into_pairs);
            let listed = pairs.map(|pairs| {
                let listed = pairs.into_iter();
                let listed = listed.filter_map(|(name, value)| Some((name.text()?.to_owned(), value.bytes()?.clone())));
                listed.collect()
            });
            let _ = answer.send(listed.ok_or(Unavailable));
        });
    }
}
