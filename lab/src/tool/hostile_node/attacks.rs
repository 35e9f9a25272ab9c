//! All that a hostile node does, at once: each attack repeats its calls until the time is up.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use futures_util::future::{LocalBoxFuture, join_all};
use ipnet::Ipv4Net;
use overlay_proto::v1;
use tokio::time::sleep;
use tonic::{Request, Status};

use super::BAIT;
use super::attacker::{Attacker, Control, Line};
use super::requests::{self, Size};
use super::unread;

/// Rows of a call: large ones stay below 4 MiB.
const LARGE_ROWS: u64 = 250;
const SMALL_ROWS: u64 = 1_000;
/// How long rows of one size are published before they make room for those of the other.
const ROWS_TURN: Duration = Duration::from_secs(8);
/// Networks that it makes, more than a node may, before it removes and makes them again.
const NETWORKS: u64 = 600;
/// How long it reconnects all the time, and how long it then stays connected.
const RECONNECTING: Duration = Duration::from_secs(1);
const CONNECTED: Duration = Duration::from_secs(8);
/// The prefix of every other of them.
const PREFIX: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 20, 0, 0), 16);
/// All addresses that prefixes are found among.
const POOL_HALVES: [Ipv4Net; 2] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 64, 0, 0), 11),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 11),
];

/// Runs all of them until the time is up.
pub(super) async fn all(attacker: &Attacker) {
    take_the_pool(attacker).await;
    let attacks: Vec<LocalBoxFuture<'_, ()>> = vec![
        Box::pin(rows(attacker)),
        Box::pin(rows_beyond(attacker)),
        Box::pin(names(attacker)),
        Box::pin(networks(attacker)),
        Box::pin(networks_changed(attacker)),
        Box::pin(blocks(attacker)),
        Box::pin(keys(attacker)),
        Box::pin(what_admins_may(attacker)),
        Box::pin(unread::watches(attacker)),
        Box::pin(unread::answers(attacker)),
        Box::pin(unread::requests(attacker)),
        Box::pin(connections(attacker)),
    ];
    let floods = (0..8).map(|n| Box::pin(announcements(attacker, n)) as LocalBoxFuture<'_, ()>);
    let lists = (0..4).map(|_| Box::pin(lists(attacker)) as LocalBoxFuture<'_, ()>);

    join_all(attacks.into_iter().chain(floods).chain(lists)).await;
}

/// Fills the network with endpoints, as large or as many as there may be, and goes on to change
/// them.
async fn rows(attacker: &Attacker) {
    let next = Cell::new(0_u64);
    let (size, since) = (Cell::new(Size::Large), Cell::new(Instant::now()));
    attacker
        .repeat("rows", Line::Rows, async |control, turn| {
            if since.get().elapsed() > ROWS_TURN {
                withdraw(attacker, control, next.replace(0)).await?;
                since.set(Instant::now());
                size.set(if size.get() == Size::Large { Size::Small } else { Size::Large });
            }
            let count = if size.get() == Size::Large { LARGE_ROWS } else { SMALL_ROWS };
            let endpoint = |n| requests::endpoint(attacker, n, size.get(), turn);
            let first = next.get();
            let answer = put(control, (first..first + count).map(endpoint).collect()).await;
            match &answer {
                Ok(()) => next.set(first + count),
                // There is no room for more: change those that are there.
                Err(_) if first > 0 => put(control, (0..count.min(first)).map(endpoint).collect())
                    .await
                    .unwrap_or_default(),
                Err(_) => {}
            }
            answer
        })
        .await;
}

async fn put(control: &mut Control, endpoints: Vec<v1::Endpoint>) -> Result<(), Status> {
    control.put_endpoints(v1::PutEndpointsRequest { endpoints }).await.map(drop)
}

async fn withdraw(attacker: &Attacker, control: &mut Control, count: u64) -> Result<(), Status> {
    for first in (0..count).step_by(usize::try_from(SMALL_ROWS).unwrap_or(1)) {
        let key = |number| v1::EndpointKey {
            network: attacker.network.id.to_string(),
            endpoint: requests::endpoint(attacker, number, Size::Small, 0).id,
        };
        let endpoints = (first..count.min(first + SMALL_ROWS)).map(key).collect();
        control.remove_endpoints(v1::RemoveEndpointsRequest { endpoints }).await?;
    }

    Ok(())
}

/// Publishes what no node may: rows that are too large, too many in a call, longer messages, those
/// of another node.
async fn rows_beyond(attacker: &Attacker) {
    attacker
        .repeat("rows beyond the limits", Line::Rows, async |control, turn| {
            let rows = |count: u64, size| {
                (0..count).map(move |n| requests::endpoint(attacker, (1 << 40) + n, size, 0))
            };
            let endpoints: Vec<_> = match turn % 4 {
                0 => rows(1, Size::Beyond).collect(),
                1 => rows(1_001, Size::Small).collect(),
                2 => rows(400, Size::Large).collect(),
                _ => rows(1, Size::Small)
                    .map(|row| v1::Endpoint { node: "00000000beef".to_owned(), ..row })
                    .collect(),
            };
            put(control, endpoints).await
        })
        .await;
}

/// Claims the names of another's endpoint, with an endpoint that runs.
async fn names(attacker: &Attacker) {
    attacker
        .repeat("names of another", Line::Others, async |control, turn| {
            put(control, vec![requests::thief(attacker, turn)]).await
        })
        .await;
}

/// Makes as many networks as it may and more, each as large as it may be; then removes and makes
/// them again.
async fn networks(attacker: &Attacker) {
    attacker
        .repeat("networks", Line::Others, async |control, turn| {
            let number = turn - 1;
            if number >= NETWORKS && number.is_multiple_of(2) {
                let network = format!("{BAIT}{}", number % NETWORKS);
                let request = v1::RemoveNetworkRequest { network, force: true };
                return control.remove_network(request).await.map(drop);
            }
            let prefix = number.is_multiple_of(2).then_some(PREFIX);
            let request = requests::network(number % NETWORKS, prefix);
            control.create_network(request).await.map(drop)
        })
        .await;
}

/// Makes networks that take the pool in which prefixes are found for others. Afterwards its own
/// announcements would forbid that.
async fn take_the_pool(attacker: &Attacker) {
    let Some(mut control) = attacker.connect().await else { return };
    for (number, half) in (NETWORKS..).zip(POOL_HALVES) {
        let made = control.create_network(requests::network(number, Some(half))).await;
        attacker.tally.answer("networks on the pool", &made);
    }
}

/// Changes a network of its own again and again: all nodes hear of each.
async fn networks_changed(attacker: &Attacker) {
    attacker
        .repeat("changes of a network", Line::Others, async |control, turn| {
            let request = v1::SetNetworkRequest {
                network: format!("{BAIT}0"),
                nodes: None,
                lease_seconds: u32::try_from(60 + turn % 1_000).ok(),
            };
            control.set_network(request).await.map(drop)
        })
        .await;
}

/// Asks for more blocks than it uses.
async fn blocks(attacker: &Attacker) {
    attacker
        .repeat("blocks", Line::Others, async |control, turn| {
            let blocks = match turn % 4 {
                0 => 2,
                1 => 256,
                2 => 257,
                _ => u32::MAX,
            };
            let request = requests::enter(&attacker.network, 1, blocks);
            control.enter_network(request).await.map(drop)
        })
        .await;
}

/// Enters with other keys again and again: all members must forget the ones before.
async fn keys(attacker: &Attacker) {
    attacker
        .repeat("other keys", Line::Others, async |control, _| {
            control.enter_network(requests::enter(&attacker.network, 64, 1)).await.map(drop)
        })
        .await;
}

/// Tries what only admins may do.
async fn what_admins_may(attacker: &Attacker) {
    attacker
        .repeat("what admins may", Line::Others, async |control, turn| match turn % 4 {
            0 => control.create_token(v1::CreateTokenRequest::default()).await.map(drop),
            1 => {
                let request = v1::RemoveNodeRequest { node: "host1".to_owned() };
                control.remove_node(request).await.map(drop)
            }
            2 => {
                let document = "# \n".repeat(300_000);
                let request = v1::ApplyPolicyRequest { document, ..Default::default() };
                control.apply_policy(request).await.map(drop)
            }
            _ => {
                let network = attacker.network.name.to_string();
                let request = v1::RemoveNetworkRequest { network, force: true };
                control.remove_network(request).await.map(drop)
            }
        })
        .await;
}

/// Announces as much as there may be, another thing each time.
async fn announcements(attacker: &Attacker, flood: u64) {
    attacker
        .repeat("announcements", Line::Announcements, async |control, turn| {
            control.announce(requests::announcement((flood << 32) + turn)).await.map(drop)
        })
        .await;
}

/// Lists everything, which changes nothing and is a lot.
async fn lists(attacker: &Attacker) {
    attacker
        .repeat("lists", Line::Others, async |control, _| {
            control.list_networks(Request::new(v1::ListNetworksRequest {})).await?;
            control.list_endpoints(v1::ListEndpointsRequest::default()).await.map(drop)
        })
        .await;
}

/// Connects again and again, now and then: while it does, its other connections are cut off.
async fn connections(attacker: &Attacker) {
    while attacker.is_on() {
        let burst = Instant::now();
        while attacker.is_on() && burst.elapsed() < RECONNECTING {
            if let Some(mut control) = attacker.connect().await {
                let answer = control.version(v1::VersionRequest {}).await;
                attacker.tally.answer("first calls", &answer);
            }
        }
        sleep(CONNECTED).await;
    }
}
