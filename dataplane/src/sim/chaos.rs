//! Anything may happen in any order; when it stops, packets flow again.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const HOSTS: usize = 3;

/// How long a peer may take to notice that its session is worthless: nothing heard for 15 seconds, then a handshake
/// that waits at most 5 seconds for its turn.
const PATIENCE: usize = 25;

#[derive(Debug, Clone)]
enum Deed {
    Say { from: usize, to: usize, count: u32 },
    Run { millis: u64 },
    Restart { host: usize, wakes: bool },
    Publish { host: usize, members: Vec<usize> },
    Withdraw { host: usize },
    Move { host: usize, port: u16 },
    Weather { loss: u32, twice: u32, jitter: u64 },
}

fn deed() -> impl Strategy<Value = Deed> {
    let host = || 0..HOSTS;
    prop_oneof![
        4 => (host(), host(), 1..20_u32).prop_map(|(from, to, count)| Deed::Say { from, to, count }),
        4 => prop_oneof![0..50_u64, 0..20_000_u64, 0..400_000_u64].prop_map(|millis| Deed::Run { millis }),
        1 => (host(), any::<bool>()).prop_map(|(host, wakes)| Deed::Restart { host, wakes }),
        1 => (host(), proptest::sample::subsequence(vec![0, 1, 2], 0..=HOSTS))
            .prop_map(|(host, members)| Deed::Publish { host, members }),
        1 => host().prop_map(|host| Deed::Withdraw { host }),
        1 => (host(), 1000..1005_u16).prop_map(|(host, port)| Deed::Move { host, port }),
        1 => (0..=100_u32, 0..50_u32, 0..300_u64).prop_map(|(loss, twice, jitter)| Deed::Weather { loss, twice, jitter }),
    ]
}

fn perform(world: &mut World, deed: Deed) {
    match deed {
        Deed::Say { from, to, count } => (0..count).for_each(|number| world.say(from, to, number)),
        Deed::Run { millis } => world.run(Duration::from_millis(millis)),
        Deed::Restart { host, wakes } => {
            // A process takes some time to start, so its clock has moved on.
            world.run(Duration::from_millis(5));
            world.restart(host, 0);
            if wakes {
                world.wake(host);
            }
        }
        Deed::Publish { host, members } => world.publish(host, table(NET, host, &members)),
        Deed::Withdraw { host } => world.withdraw(host, NET),
        Deed::Move { host, port } => world.hosts[host].addr.set_port(port),
        Deed::Weather { loss, twice, jitter } => {
            world.faults = Faults {
                loss_percent: loss,
                twice_percent: twice,
                jitter: Duration::from_millis(jitter),
                ..Faults::NONE
            };
        }
    }
    world.assert_accounted();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn packets_flow_again_after_any_history(deeds in proptest::collection::vec(deed(), 0..40)) {
        let mut world = World::connected(HOSTS);
        for deed in deeds {
            perform(&mut world, deed);
        }

        world.faults = Faults::NONE;
        for host in 0..HOSTS {
            world.hosts[host].addr = underlay(host);
            world.publish(host, table(NET, host, &[0, 1, 2]));
        }
        world.hosts.iter_mut().for_each(|host| host.received.clear());
        let mut seconds = 0;
        while world.hosts.iter().any(|host| host.received.is_empty()) {
            seconds += 1;
            prop_assert!(seconds <= PATIENCE, "{:#?}", world.hosts.iter().map(|host| host.engine.status(world.now)).collect::<Vec<_>>());
            // Nobody answers, so that nobody is helped by the other side.
            for (from, to) in [(0, 1), (1, 2), (2, 0)] {
                world.say(from, to, 1);
            }
            world.run(Duration::from_secs(1));
        }
        world.assert_accounted();
    }
}
