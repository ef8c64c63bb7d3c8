//! A stream, read from its end on as the streams adapter of Node does: XREAD, on a connection of its own, since it blocks.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Duration, sleep, timeout};

use super::super::backoff::{Backoff, Dice};
use super::super::call::Call;
use super::super::error::ConnectError;
use super::super::resp::Value;
use super::super::wire::Wire;
use super::link::connect;
use super::{Arrival, Arriving, Server};

/// Entries read at once.
const COUNT: u32 = 100;
/// How long Redis waits for one, ms.
const BLOCK_MS: u64 = 2_000;
/// What is longer than that is a broken connection.
const PATIENCE: Duration = Duration::from_secs(7);

/// Reads until nobody takes what it reads. After a broken connection it goes on behind the last entry that it has seen.
pub(super) async fn read(server: Arc<Server>, stream: String, arriving: Arriving) {
    let mut last: Option<Bytes> = None;
    let (dice, mut backoff) = (Dice::new(), Backoff::default());
    while !arriving.arrived.is_closed() {
        if let Ok(mut wire) = connect(&server).await {
            backoff = Backoff::default();
            if let Err(error) = follow(&mut wire, &stream, &mut last, &arriving).await {
                tracing::debug!(%error, stream, "a stream of the Node servers cannot be read; trying again");
            }
        }
        sleep(backoff.next(&dice)).await;
    }
}

async fn follow(
    wire: &mut Wire,
    stream: &str,
    last: &mut Option<Bytes>,
    arriving: &Arriving,
) -> Result<(), ConnectError> {
    while !arriving.arrived.is_closed() {
        let from = match last {
            Some(last) => last.clone(),
            // A place, not "$": what is added between two reads must not be passed over.
            None => last.insert(end(wire, stream).await?).clone(),
        };
        let read = Call::new("XREAD").arg("COUNT").int(COUNT).arg("BLOCK").int(BLOCK_MS);
        for (id, fields) in entries(ask(wire, &read.arg("STREAMS").arg(stream).arg(from)).await?) {
            *last = Some(id);
            arriving.push(Arrival::Entry { fields });
        }
    }
    Ok(())
}

async fn ask(wire: &mut Wire, call: &Call) -> Result<Value, ConnectError> {
    timeout(PATIENCE, wire.ask(call)).await.unwrap_or(Err(ConnectError::Late))
}

/// The id of the stream's last entry.
async fn end(wire: &mut Wire, stream: &str) -> Result<Bytes, ConnectError> {
    let last = Call::new("XREVRANGE").arg(stream).arg("+").arg("-").arg("COUNT").int(1_u32);
    let entries = ask(wire, &last).await?.into_array().unwrap_or_default();
    let id = entries.into_iter().next().and_then(entry).map(|(id, _)| id);
    Ok(id.unwrap_or_else(|| Bytes::from_static(b"0-0")))
}

type Entry = (Bytes, Vec<(Bytes, Bytes)>);

/// The entries of an XREAD of one stream.
fn entries(reply: Value) -> Vec<Entry> {
    let entries = reply.into_pairs().and_then(|streams| streams.into_iter().next()).map(|(_, entries)| entries);
    entries.and_then(Value::into_array).into_iter().flatten().filter_map(entry).collect()
}

fn entry(value: Value) -> Option<Entry> {
    let mut parts = value.into_array()?.into_iter();
    let id = parts.next()?.bytes()?.clone();
    let pairs = parts.next()?.into_pairs()?;
    let both = |(name, value): (Value, Value)| Some((name.bytes()?.clone(), value.bytes()?.clone()));
    Some((id, pairs.into_iter().filter_map(both).collect()))
}
