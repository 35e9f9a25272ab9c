//! Whatever happens.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What happens to a cluster.
#[derive(Debug, Clone)]
enum Event {
    /// An endpoint of the node with this number is as it is at this address, or gone.
    Endpoint { id: u8, host: u8, address: [u8; 2], is_gone: bool },
    /// An endpoint of this node.
    Own { id: u8, address: [u8; 2], is_gone: bool },
    /// A member has this block, or is none.
    Member { host: u8, block: u8, is_gone: bool },
    /// A node is reached here, and has a label of this number.
    Node { host: u8, underlay: u8 },
    /// One of several policies applies, or none.
    Policy(Option<usize>),
    /// Everything was computed.
    Update,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    // Few of each, so that they get in each other's way; blocks begin at 10.
    let address = || (8..14_u8, 1..3_u8).prop_map(<[u8; 2]>::from);
    let gone = || prop_oneof![3 => Just(false), 1 => Just(true)];
    let endpoint = (0..6_u8, 1..4_u8, address(), gone());
    let own = (6..9_u8, address(), gone());
    let member = (0..4_u8, 10..14_u8, gone());

    let event = prop_oneof![
        6 => endpoint.prop_map(|(id, host, address, is_gone)| {
            Event::Endpoint { id, host, address, is_gone }
        }),
        3 => own.prop_map(|(id, address, is_gone)| Event::Own { id, address, is_gone }),
        1 => member.prop_map(|(host, block, is_gone)| Event::Member { host, block, is_gone }),
        1 => (0..4_u8, 1..5_u8).prop_map(|(host, underlay)| Event::Node { host, underlay }),
        1 => proptest::option::of(0..POLICIES.len()).prop_map(Event::Policy),
        4 => Just(Event::Update),
    ];

    vec(event, 0..60)
}

/// The node with a number; this one is the first.
fn numbered(host: u8) -> NodeId {
    if host == 0 { ME } else { NodeId::from_random(u64::from(host) + 10) }
}

impl Fixture {
    fn happen(&mut self, event: Event) {
        let row = |id: u8, node, address: [u8; 2]| Endpoint {
            id: EndpointId::from_random(u64::from(id) + 1),
            name: format!("e{id}").parse().expect("a name"),
            labels: [("role".to_owned(), (address[0] % 3).to_string())].into(),
            ..endpoint(1, node, address)
        };
        match event {
            Event::Endpoint { id, host, address, is_gone } => {
                let row = row(id, numbered(host), address);
                let key = RowKey::Endpoint(row.network, row.id);
                self.change(if is_gone { Change::Removed(key) } else { Change::Endpoint(row) });
            }
            Event::Own { id, address, is_gone } => {
                let row = row(id, ME, address);
                if is_gone {
                    Arc::make_mut(&mut self.journal).remove(&row.id);
                } else {
                    self.attach(row);
                }
            }
            Event::Member { host, block, is_gone } => {
                let key = RowKey::Member(network(1), numbered(host));
                let row = member(1, numbered(host), block);
                self.change(if is_gone { Change::Removed(key) } else { row });
            }
            Event::Node { host, underlay } => {
                self.change(site(numbered(host), underlay));
            }
            Event::Policy(policy) => {
                let key = Change::Removed(RowKey::Policy);
                self.change(policy.map_or(key, |n| cluster_policy(POLICIES[n])));
            }
            Event::Update => drop(self.update()),
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_bit_by_bit_is_what_is_computed_at_once(events in events()) {
        let mut fixture = Fixture::new();
        fixture.update();
        for event in events {
            fixture.happen(event);
        }
        fixture.update();
        let bit_by_bit = fixture.said();

        fixture.begin_anew();

        prop_assert_eq!(bit_by_bit, fixture.said());
    }
}
