//! Asking Sentinels who is the primary, and noticing when they have decided for another one.

use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::call::Call;
use super::error::ConnectError;
use super::links::Shared;
use super::resp::{ErrorCode, ServerError, Value};
use super::settings::{Address, Login, Topology};
use super::wire::Wire;

/// How often they are asked while all is well. Asking cannot be missed, as a message could be.
const EVERY: Duration = Duration::from_secs(1);
/// How long the others are waited for once one has answered.
const OTHERS: Duration = Duration::from_millis(100);

/// Who is the primary, by one Sentinel.
#[derive(Clone, Debug)]
pub(super) struct Decision {
    pub(super) primary: Address,
    /// Grows with each decision (`config-epoch`): of two Sentinels the one with the larger is right.
    pub(super) epoch: u64,
}

struct Terms<'a> {
    sentinels: &'a [Address],
    service: &'a str,
    login: &'a Login,
    tls: bool,
}

fn terms(shared: &Shared) -> Option<Terms<'_>> {
    match &shared.settings.topology {
        Topology::Sentinel { sentinels, service, login, tls } => Some(Terms { sentinels, service, login, tls: *tls }),
        Topology::Standalone(_) | Topology::Cluster(_) => None,
    }
}

/// Asks all Sentinels at once; the latest decision counts.
pub(super) async fn primary(shared: &Rc<Shared>) -> Result<Decision, ConnectError> {
    let count = terms(shared).map_or(0, |terms| terms.sentinels.len());
    let mut asking = JoinSet::new();
    for index in 0..count {
        let shared = Rc::clone(shared);
        asking.spawn_local(async move { ask(&shared, index).await });
    }
    let mut best: Option<Decision> = None;
    let mut failed = None;
    loop {
        let next = if best.is_some() {
            timeout(OTHERS, asking.join_next()).await.unwrap_or(None)
        } else {
            asking.join_next().await
        };
        match next {
            Some(Ok(Ok(decision))) if best.as_ref().is_none_or(|best| best.epoch < decision.epoch) => {
                best = Some(decision)
            }
            Some(Ok(Err(error))) => failed = Some(error),
            Some(_) => {}
            None => break,
        }
    }
    best.ok_or_else(|| failed.unwrap_or(ConnectError::Unexpected("nobody")))
}

async fn ask(shared: &Shared, index: usize) -> Result<Decision, ConnectError> {
    let mut wire = open(shared, index).await?;
    question(shared, index, &mut wire).await
}

async fn open(shared: &Shared, index: usize) -> Result<Wire, ConnectError> {
    let terms = terms(shared).ok_or(ConnectError::Unexpected("nobody"))?;
    let address = terms.sentinels.get(index).ok_or(ConnectError::Unexpected("nobody"))?;
    let tls = shared.tls.as_ref().filter(|_| terms.tls);
    let opening = async {
        let mut wire = Wire::connect(address, tls, shared.settings.max_answer_bytes).await?;
        wire.greet(terms.login).await.map(|()| wire)
    };
    let opened = timeout(shared.settings.connect_timeout, Box::pin(opening)).await.unwrap_or(Err(ConnectError::Late));
    opened.map_err(|error| ConnectError::NoSentinel(address.clone(), Box::new(error)))
}

async fn question(shared: &Shared, index: usize, wire: &mut Wire) -> Result<Decision, ConnectError> {
    let terms = terms(shared).ok_or(ConnectError::Unexpected("nobody"))?;
    let address = terms.sentinels.get(index).ok_or(ConnectError::Unexpected("nobody"))?;
    let call = Call::new("SENTINEL").arg("MASTER").arg(terms.service);
    let answer = timeout(shared.settings.response_timeout, wire.ask(&call)).await.unwrap_or(Err(ConnectError::Late));
    match answer {
        Ok(answer) => read(answer).ok_or(ConnectError::Unexpected("SENTINEL MASTER")),
        Err(ConnectError::Answered(ServerError { code: ErrorCode::Other, text }))
            if text.contains("No such master") =>
        {
            Err(ConnectError::NoService(address.clone(), terms.service.into()))
        }
        Err(error) => Err(ConnectError::NoSentinel(address.clone(), Box::new(error))),
    }
}

fn read(answer: Value) -> Option<Decision> {
    let pairs = answer.into_pairs()?;
    let field = |name| pairs.iter().find(|(key, _)| key.text() == Some(name)).and_then(|(_, value)| value.text());
    let primary = Address { host: field("ip")?.into(), port: field("port")?.parse().ok()? };
    Some(Decision { primary, epoch: field("config-epoch")?.parse().ok()? })
}

/// Ends when the Sentinels have decided for another primary than `current` since `epoch`. Never, without Sentinels.
pub(super) async fn overruled(shared: &Rc<Shared>, current: &Address, epoch: u64) {
    let Some(terms) = terms(shared) else { return pending().await };
    let mut index = 0;
    loop {
        if let Ok(mut wire) = Box::pin(open(shared, index)).await {
            while let Ok(decision) = Box::pin(question(shared, index, &mut wire)).await {
                if decision.epoch > epoch && decision.primary != *current {
                    return;
                }
                sleep(shared.dice.jitter(EVERY)).await;
            }
        }
        index = (index + 1).checked_rem(terms.sentinels.len()).unwrap_or(0);
        sleep(shared.dice.jitter(EVERY)).await;
    }
}
