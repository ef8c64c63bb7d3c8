//! A Redis Cluster: who has which slots, asked again whenever there is a reason to.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::backoff::Backoff;
use super::call::Call;
use super::error::{ConnectError, LinkError};
use super::links::{LinkEvent, Shared, keep};
use super::resp::{ServerError, Value};
use super::settings::{Address, Topology};
use super::slots_map::Member;
use super::wire::Wire;

/// How often the slots are asked for without a reason.
const EVERY: Duration = Duration::from_secs(10);
/// Without a reason for as long as this, the next one is answered at once.
const CALM: Duration = Duration::from_secs(5);

/// Ranges of slots and who has them.
type Ranges = Vec<(u16, u16, Address)>;

struct Node {
    address: Address,
    member: Member,
    leave: Rc<Notify>,
}

/// Follows the cluster for ever.
pub(super) async fn follow(shared: Rc<Shared>) {
    let mut keepers = JoinSet::new();
    let mut nodes: Vec<Node> = Vec::new();
    let mut backoff = Backoff::default();
    let mut trouble = None;
    let mut turn = 0;
    loop {
        let asked = Instant::now();
        turn += 1;
        match Box::pin(ask(&shared, turn)).await {
            Ok(ranges) => {
                trouble = None;
                adopt(&shared, &mut nodes, &mut keepers, &ranges);
            }
            Err(error) => {
                let state = error.state();
                if trouble.as_ref() != Some(&state) {
                    warn!("the slots of the Redis Cluster are not known: {error}");
                    trouble = Some(state);
                }
            }
        }
        while keepers.try_join_next().is_some() {}
        let unserved = !shared.members.borrow().all_owned();
        if trouble.is_none() && !unserved {
            tokio::select! {
                () = sleep(shared.dice.jitter(EVERY)) => {}
                () = shared.moved.notified() => {}
            }
        }
        if asked.elapsed() >= CALM {
            backoff = Backoff::default();
        }
        sleep(backoff.next(&shared.dice)).await;
    }
}

/// Takes the answer for true: ends keepers, begins keepers, and tells what it means.
fn adopt(shared: &Rc<Shared>, nodes: &mut Vec<Node>, keepers: &mut JoinSet<()>, ranges: &Ranges) {
    for (_, _, address) in ranges {
        if nodes.iter().any(|node| node.address == *address) {
            continue;
        }
        let member = shared.members.borrow_mut().add();
        let leave = Rc::new(Notify::new());
        keepers.spawn_local(keep(Rc::clone(shared), member, Some(address.clone()), Rc::clone(&leave)));
        nodes.push(Node { address: address.clone(), member, leave });
    }
    let owner_of = |slot: u16| {
        let (_, _, address) = ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot))?;
        nodes.iter().find(|node| node.address == *address).map(|node| node.member)
    };
    let (lost, won) = shared.members.borrow_mut().assign(owner_of);
    for change in lost {
        shared.tell(LinkEvent::Down { link: change.link.id(), slots: change.slots });
    }
    for change in won {
        shared.tell(LinkEvent::Up { link: change.link, slots: change.slots });
    }
    nodes.retain(|node| {
        let stays = ranges.iter().any(|(_, _, address)| node.address == *address);
        if !stays {
            node.leave.notify_one();
        }
        stays
    });
}

/// Asks one of the nodes that are reached, in turn; without any, those of the settings.
async fn ask(shared: &Rc<Shared>, turn: usize) -> Result<Ranges, ConnectError> {
    let call = Call::new("CLUSTER").arg("SLOTS");
    let link = {
        let members = shared.members.borrow();
        let count = members.links().count();
        members.links().nth(turn.checked_rem(count).unwrap_or(0)).cloned()
    };
    if let Some(link) = link {
        return match link.call(call).await {
            Ok(answer) => read(&answer, link.address()),
            Err(error) => Err(ConnectError::NoNode(link.address().clone(), Box::new(of_call(error)))),
        };
    }
    let Topology::Cluster(seeds) = &shared.settings.topology else { return Err(ConnectError::Unexpected("nobody")) };
    let mut failed = ConnectError::Unexpected("nobody");
    for index in 0..seeds.len() {
        let Some(seed) = seeds.get((turn + index) % seeds.len()) else { continue };
        let asking = async {
            let mut wire = Wire::connect(seed, shared.tls.as_ref(), shared.settings.max_answer_bytes).await?;
            wire.greet(&shared.settings.login).await?;
            read(&wire.ask(&call).await?, seed)
        };
        match timeout(shared.settings.connect_timeout, Box::pin(asking)).await.unwrap_or(Err(ConnectError::Late)) {
            Ok(ranges) => return Ok(ranges),
            Err(ConnectError::Answered(ServerError { text, .. })) if text.contains("cluster support disabled") => {
                failed = ConnectError::NoCluster(text.into());
            }
            Err(error) => failed = ConnectError::NoNode(seed.clone(), Box::new(error)),
        }
    }
    Err(failed)
}

fn of_call(error: LinkError) -> ConnectError {
    match error {
        LinkError::Answered(error) => ConnectError::Answered(error),
        LinkError::Behind | LinkError::Unsent | LinkError::Unanswered => ConnectError::Broken(error.to_string()),
    }
}

/// `CLUSTER SLOTS`: first slot, last slot, the primary (host, port, …), its replicas. A node that does not know its own
/// name leaves it out: then it is where it was asked.
fn read(answer: &Value, asked: &Address) -> Result<Ranges, ConnectError> {
    let unexpected = || ConnectError::Unexpected("CLUSTER SLOTS");
    let slot = |value: Option<&Value>| value.and_then(Value::int).and_then(|slot| u16::try_from(slot).ok());
    let range = |entry: &Value| {
        let parts = entry.array()?;
        let primary = parts.get(2)?.array()?;
        let host = primary.first()?.text().filter(|host| !host.is_empty() && *host != "?").unwrap_or(&asked.host);
        let port = primary.get(1)?.int().and_then(|port| u16::try_from(port).ok())?;
        Some((slot(parts.first())?, slot(parts.get(1))?, Address { host: host.into(), port }))
    };
    answer.array().and_then(|ranges| ranges.iter().map(range).collect()).ok_or_else(unexpected)
}
