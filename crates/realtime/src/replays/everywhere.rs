//! Requests and their answers as all nodes of a cluster know them: a request that is sent again to another node gets the
//! first answer there.
//!
//! A request is marked as under way before it begins, and the mark is renewed while it lasts: if its node dies, it may be
//! sent again a while later. While the broker cannot be reached, no request with a name begins: it could be done twice.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_cluster::{Broker, Kind, Name, Unavailable};
use tokio::select;
use tokio::time::{Instant, interval_at, sleep};

use super::{Begun, Fingerprint, KEPT_MS, Replay, RequestName};

/// How long a request counts as under way after its node was last heard of, ms.
const MARKED_MS: u64 = 60_000;
const RENEWED_EVERY: Duration = Duration::from_secs(20);
/// An answer that the broker does not take is offered again so often, and for so long.
const OFFERED_EVERY: Duration = Duration::from_secs(1);
const OFFERS: u32 = 120;

const VERSION: u8 = 1;
const UNDER_WAY: u8 = 0;
const ANSWERED: u8 = 1;

fn name(request: &RequestName) -> Name {
    let (sender, name) = (request.sender(), request.name());
    // The length tells where the sender ends.
    Name { kind: Kind::Replay, text: format!("{}:{sender}:{name}", sender.len()).into() }
}

fn mark(fingerprint: Fingerprint) -> Bytes {
    [&[VERSION, UNDER_WAY], &fingerprint[..]].concat().into()
}

fn answered(fingerprint: Fingerprint, replay: &Replay) -> Bytes {
    [&[VERSION, ANSWERED], &fingerprint[..], &replay.status.to_be_bytes(), replay.body.as_bytes()].concat().into()
}

/// What is known of a request with that name.
fn read(value: &[u8], fingerprint: Fingerprint) -> Option<Begun> {
    let (head, rest) = value.split_first_chunk::<2>()?;
    let (known, rest) = rest.split_first_chunk::<32>()?;
    let is_same = *known == fingerprint;
    match *head {
        [VERSION, _] if !is_same => Some(Begun::Different),
        [VERSION, UNDER_WAY] => Some(Begun::UnderWay),
        [VERSION, ANSWERED] => {
            let (status, body) = rest.split_first_chunk::<2>()?;
            let body = std::str::from_utf8(body).ok()?;
            Some(Begun::Again(Replay { status: u16::from_be_bytes(*status), body: body.into() }))
        }
        _ => None,
    }
}

/// Marks a request as under way, unless it is known.
pub(crate) async fn begin(
    broker: &Arc<dyn Broker>,
    request: &RequestName,
    fingerprint: Fingerprint,
) -> Result<Begun, Unavailable> {
    let known = broker.keep(name(request), mark(fingerprint), MARKED_MS).await.unwrap_or(Err(Unavailable))?;
    match known {
        None => Ok(Begun::Fresh),
        // Something that cannot be read says that the name is taken: doing it perhaps twice is worse than not at all.
        Some(value) => Ok(read(&value, fingerprint).unwrap_or(Begun::UnderWay)),
    }
}

/// Carries out what is asked for, and keeps the mark meanwhile.
pub(crate) async fn under_way<T>(
    broker: &Arc<dyn Broker>,
    request: &RequestName,
    fingerprint: Fingerprint,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    let mut turns = interval_at(Instant::now() + RENEWED_EVERY, RENEWED_EVERY);
    loop {
        select! {
            done = &mut work => return done,
            // What is not renewed now is in the next turn.
            _ = turns.tick() => drop(broker.set(name(request), Some(mark(fingerprint)), MARKED_MS)),
        }
    }
}

/// The request has ended: with an answer to be given again, or as if it had never been. False if the broker does not take
/// it now.
pub(crate) async fn finish(
    broker: &Arc<dyn Broker>,
    request: &RequestName,
    fingerprint: Fingerprint,
    replay: Option<&Replay>,
) -> bool {
    let (value, ttl_ms) = match replay {
        Some(replay) => (Some(answered(fingerprint, replay)), KEPT_MS),
        None => (None, MARKED_MS),
    };
    broker.set(name(request), value, ttl_ms).await == Ok(Ok(()))
}

/// Offers an answer again that the broker has not taken.
pub(crate) async fn finish_later(
    broker: Arc<dyn Broker>,
    request: RequestName,
    fingerprint: Fingerprint,
    replay: Option<Replay>,
) {
    for _ in 0..OFFERS {
        sleep(OFFERED_EVERY).await;
        if finish(&broker, &request, fingerprint, replay.as_ref()).await {
            return;
        }
    }
    tracing::warn!("the answer to a request with an Idempotency-Key could not be kept for the cluster");
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Fingerprint = [1; 32];
    const B: Fingerprint = [2; 32];

    #[test]
    fn what_another_node_has_kept_is_read_as_it_was_meant() {
        let replay = Replay { status: 201, body: r#"{"a":"é"}"#.into() };
        assert_eq!(read(&mark(A), A), Some(Begun::UnderWay));
        assert_eq!(read(&mark(A), B), Some(Begun::Different));
        assert_eq!(read(&answered(A, &replay), A), Some(Begun::Again(replay.clone())));
        assert_eq!(read(&answered(A, &replay), B), Some(Begun::Different));
    }

    #[test]
    fn bytes_of_somebody_else_are_no_answer() {
        let mut of_another_version = mark(A).to_vec();
        of_another_version[0] = 2;
        let mut no_text = answered(A, &Replay { status: 200, body: "x".into() }).to_vec();
        *no_text.last_mut().unwrap() = 0xff;
        for bytes in [&b""[..], b"\x01", &mark(A)[..20], &of_another_version, &no_text] {
            assert_eq!(read(bytes, A), None, "{bytes:?}");
        }
    }

    #[test]
    fn two_requests_never_meet_under_one_name() {
        let names = [("a", "b:c"), ("a:b", "c"), ("", "a:b:c")];
        let mut texts: Vec<_> =
            names.iter().map(|(sender, of)| self::name(&RequestName::new(sender, of)).text).collect();
        texts.dedup();
        assert_eq!(texts.len(), names.len());
    }
}
