//! The scripts as calls, and what they answer.

use std::rc::Rc;
use std::sync::LazyLock;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tidegate_types::NodeId;

use super::members::{garbled, texts};
use super::{Beat, MembershipSettings, Registered, Terms};
use crate::redis::{Call, LinkError, Links, Script, Slot, Value};

static REGISTER: LazyLock<Script> = LazyLock::new(|| Script::new("register", include_str!("scripts/register.lua")));
static BEAT: LazyLock<Script> = LazyLock::new(|| Script::new("beat", include_str!("scripts/beat.lua")));
static LEAVE: LazyLock<Script> = LazyLock::new(|| Script::new("leave", include_str!("scripts/leave.lua")));

/// What the scripts are called with. Cheap to clone.
#[derive(Clone)]
pub(super) struct Calls(Rc<Inner>);

struct Inner {
    links: Links,
    slot: Slot,
    keys: [Bytes; 9],
    channel: Bytes,
    terms: Terms,
}

impl Calls {
    pub fn new(links: Links, prefix: &str, settings: MembershipSettings) -> Self {
        let names = ["seen", "info", "numbers", "cooling", "dead", "changed", "version", "since", "load"];
        let keys = names.map(|name| key(prefix, name));
        let channel = Self::channel(prefix);
        Self(Rc::new(Inner { links, slot: Slot::of(&channel), keys, channel, terms: settings.into() }))
    }

    /// Where a change of the members is told.
    pub fn channel(prefix: &str) -> Bytes {
        key(prefix, "ch")
    }

    pub fn claim_ms(&self) -> u64 {
        self.0.terms.claim_ms
    }

    async fn call(&self, call: Call) -> Result<Value, LinkError> {
        self.0.links.link(self.0.slot).map_err(|_| LinkError::Unsent)?.call(call).await
    }

    /// All keys but the load, and the channel.
    fn register_keys(&self) -> Vec<&Bytes> {
        self.0.keys.iter().take(8).chain([&self.0.channel]).collect()
    }

    fn all_keys(&self) -> Vec<&Bytes> {
        self.0.keys.iter().chain([&self.0.channel]).collect()
    }

    pub async fn register(
        &self,
        id: NodeId,
        record: &str,
        wish: u16,
        candidates: &[u16],
    ) -> Result<Registered, LinkError> {
        let call = Call::script(&REGISTER, &self.register_keys()).arg(id.to_string()).arg(record).int(wish);
        let call = candidates.iter().fold(call, |call, candidate| call.int(*candidate));
        let answer = texts(self.call(call).await?).ok_or_else(garbled)?;
        Registered::read(&answer).map_err(|_| garbled())
    }

    pub async fn beat(
        &self,
        id: NodeId,
        version: u64,
        record: &str,
        load: u64,
        buries: bool,
    ) -> Result<Beat, LinkError> {
        let Terms { timeout_ms, cooling_ms, claim_ms, ttl_ms } = self.0.terms;
        let call = Call::script(&BEAT, &self.all_keys()).arg(id.to_string()).int(version);
        let call = call.int(timeout_ms).int(cooling_ms).int(claim_ms).arg(record).int(load).int(ttl_ms);
        let answer = texts(self.call(call.int(u8::from(buries))).await?).ok_or_else(garbled)?;
        Beat::read(&answer).map_err(|_| garbled())
    }

    pub async fn leave(&self, id: NodeId) -> Result<(), LinkError> {
        let call = Call::script(&LEAVE, &self.all_keys()).arg(id.to_string()).int(self.0.terms.cooling_ms);
        self.call(call).await.map(drop)
    }

    pub async fn buried(&self, id: NodeId) -> Result<(), LinkError> {
        let [_, _, _, _, dead, ..] = &self.0.keys;
        self.call(Call::new("ZREM").arg(dead).arg(id.to_string())).await.map(drop)
    }

    /// How many connections each member has; empty if that cannot be asked.
    pub async fn loads(&self) -> FxHashMap<NodeId, u64> {
        let [.., load] = &self.0.keys;
        let answer = self.call(Call::new("HGETALL").arg(load)).await.ok().and_then(Value::into_pairs);
        let pairs = answer.into_iter().flatten();
        pairs.filter_map(|(id, load)| Some((id.text()?.parse().ok()?, u64::try_from(load.int()?).ok()?))).collect()
    }
}

/// All in one slot, whatever the prefix is: it holds no braces.
fn key(prefix: &str, name: &str) -> Bytes {
    format!("{prefix}:{{nodes}}:{name}").into()
}
