//! Whom the names of endpoints belong to, after endpoints were put or removed.

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::{Alias, Change, Endpoint, EndpointId, NetworkId, RowKey, claims};

use super::{ClusterState, Record};

/// Endpoints by their keys; missing ones are removed.
pub(super) type Changed = BTreeMap<(NetworkId, EndpointId), Option<Endpoint>>;

/// Decides anew whom the names belong to that changed endpoints claim or claimed. Returns those of
/// the changed endpoints that are still there, and all others for which it makes a difference.
///
/// The cost is that of all endpoints that claim one of these names.
pub(super) fn settle(state: &ClusterState, changed: Changed) -> Vec<Endpoint> {
    let mut names = BTreeSet::new();
    let mut next = BTreeMap::new();
    for (key, endpoint) in &changed {
        let old = state.view().endpoints.get(key);
        for claims in [old, endpoint.as_ref()].into_iter().flatten().map(Endpoint::claims) {
            names.extend(claims.into_iter().map(|name| (key.0, name)));
        }
        if let Some(endpoint) = endpoint {
            // Nobody but this function says whose names are.
            let taken = old.map(|old| old.taken.clone()).unwrap_or_default();
            let taken = taken.into_iter().filter(|name| endpoint.claims_name(name.as_str()));
            let taken = taken.collect();
            next.insert(*key, Endpoint { taken, ..endpoint.clone() });
        }
    }
    for (network, name) in names {
        let ordered = claimants(state, &changed, network, &name);
        let holders = claims::holders(&name, ordered.iter().copied());
        let lost: Vec<_> = ordered
            .into_iter()
            .map(|endpoint| (endpoint, !holders.contains(&endpoint.id)))
            .collect();
        for (endpoint, is_taken) in lost {
            let key = (network, endpoint.id);
            let known = next.get(&key).unwrap_or(endpoint);
            if known.taken.contains(&name) != is_taken {
                let mut endpoint = known.clone();
                if is_taken {
                    endpoint.taken.insert(name.clone());
                } else {
                    endpoint.taken.remove(&name);
                }
                next.insert(key, endpoint);
            }
        }
    }

    next.into_values().collect()
}

/// Makes the records for endpoints as [`settle`] returns them.
pub(super) fn records(
    state: &ClusterState,
    endpoints: Vec<Endpoint>,
) -> impl Iterator<Item = Record> + '_ {
    let is_news = |row: &Endpoint| state.view().endpoints.get(&(row.network, row.id)) != Some(row);

    endpoints.into_iter().filter(is_news).map(|row| Record::Row(Change::Endpoint(row)))
}

/// Makes the records that remove endpoints, and give their names to whoever waits for them.
pub(super) fn removals(state: &ClusterState, removed: Changed) -> Vec<Record> {
    let removal = |&(network, id): &(NetworkId, EndpointId)| {
        Record::Row(Change::Removed(RowKey::Endpoint(network, id)))
    };
    let mut all: Vec<_> = removed.keys().map(removal).collect();
    all.extend(records(state, settle(state, removed)));

    all
}

/// Lists the endpoints that claim a name, in the order in which it is given to them: whoever has
/// it, whoever waits for it, whoever is new.
fn claimants<'a>(
    state: &'a ClusterState,
    changed: &'a Changed,
    network: NetworkId,
    name: &Alias,
) -> Vec<&'a Endpoint> {
    let old = |id| state.view().endpoints.get(&(network, id));
    let new = changed
        .range((network, EndpointId::FIRST)..=(network, EndpointId::LAST))
        .filter_map(|(_, endpoint)| endpoint.as_ref());
    let there = state.claimants(network, name).filter(|id| !changed.contains_key(&(network, *id)));
    let mut all: Vec<&Endpoint> = there
        .filter_map(old)
        .chain(new.filter(|endpoint| endpoint.claims_name(name.as_str())))
        .collect();
    all.sort_by_key(|endpoint| {
        let rank = match old(endpoint.id) {
            Some(old) if has(old, name) && as_before(old, endpoint, name) => Rank::Holds,
            Some(old) if old.claims_name(name.as_str()) => Rank::Waits,
            Some(_) | None => Rank::New,
        };
        (rank, endpoint.id)
    });

    all
}

/// In which order a name is given.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Holds,
    Waits,
    New,
}

fn has(endpoint: &Endpoint, name: &Alias) -> bool {
    !endpoint.taken.contains(name) && endpoint.claims_name(name.as_str())
}

/// Whether an endpoint claims a name by the same right as before.
fn as_before(old: &Endpoint, new: &Endpoint, name: &Alias) -> bool {
    let is_name = |endpoint: &Endpoint| endpoint.name.as_str() == name.as_str();

    is_name(old) == is_name(new) && (old.group == new.group || is_name(new) && old.group.is_none())
}

#[cfg(test)]
mod tests {
    use overlay_core::{Member, Role, Runtime};

    use super::super::testing::*;
    use super::super::tests::create;
    use super::super::*;

    use super::*;

    /// Three members of a network.
    struct Members {
        state: ClusterState,
        network: NetworkId,
        members: Vec<Member>,
    }

    fn members() -> Members {
        let mut state = ClusterState::new(settings());
        token(&mut state, 1, 3, Role::Admin);
        let made = ask(&mut state, Actor::Operator, create("net", Some("10.9.0.0/16")));
        let Ok(Reply::Network(network)) = made else { panic!("{made:?}") };
        let member = |key: u8| {
            let joined = ask(&mut state, Actor::Operator, join_with(1, key, &format!("host{key}")));
            let Ok(Reply::Joined(node)) = joined else { panic!("{joined:?}") };
            let lane_keys = vec![[key; 32].into()];
            let enter = Operation::EnterNetwork { network: network.id, lane_keys, blocks: 1 };
            match ask(&mut state, Actor::Node(node.id), enter) {
                Ok(Reply::Member(member)) => member,
                other => panic!("{other:?}"),
            }
        };
        let members = (1..4).map(member).collect();

        Members { state, network: network.id, members }
    }

    impl Members {
        fn row(&self, member: usize, id: u8, name: &str) -> Endpoint {
            let member = &self.members[member];
            let [a, b, c, _] = member.blocks[0].prefix.network().octets();

            Endpoint {
                id: EndpointId::from_random(id.into()),
                network: self.network,
                node: member.node,
                name: name.parse().expect("a name"),
                aliases: BTreeSet::new(),
                addresses: vec![std::net::IpAddr::from([a, b, c, id + 10])],
                labels: BTreeMap::new(),
                runtime: Runtime::Run,
                group: None,
                container: None,
                taken: BTreeSet::new(),
            }
        }

        fn put(&mut self, row: Endpoint) {
            let put = Operation::PutEndpoints(vec![row.clone()]);
            ask(&mut self.state, Actor::Node(row.node), put).expect("it may");
        }

        fn remove(&mut self, row: &Endpoint) {
            let remove = Operation::RemoveEndpoints(vec![(row.network, row.id)]);
            ask(&mut self.state, Actor::Node(row.node), remove).expect("its own");
        }

        /// Lists what is taken of an endpoint's names.
        fn taken(&self, id: u8) -> Vec<&str> {
            let row =
                &self.state.view().endpoints[&(self.network, EndpointId::from_random(id.into()))];

            row.taken.iter().map(Alias::as_str).collect()
        }
    }

    #[test]
    fn a_name_stays_with_its_first_holder_and_goes_on_to_the_next() {
        let mut net = members();
        net.put(net.row(0, 5, "service1"));
        net.put(net.row(1, 1, "Service1"));
        net.put(net.row(2, 2, "service1"));
        assert_eq!((net.taken(5), net.taken(1)), (vec![], vec!["service1"]));
        // A later change of the holder, or of who waits, changes nothing.
        let mut changed = net.row(0, 5, "service1");
        changed.aliases.insert("web".parse().expect("a name"));
        net.put(changed);
        net.put(net.row(1, 1, "service1"));
        assert_eq!((net.taken(5), net.taken(1)), (vec![], vec!["service1"]));

        let remove = vec![(net.network, EndpointId::from_random(5))];
        let holder = Actor::Node(net.members[0].node);
        ask(&mut net.state, holder, Operation::RemoveEndpoints(remove)).expect("its own");

        assert_eq!((net.taken(1), net.taken(2)), (vec![], vec!["service1"]));
        ask(&mut net.state, Actor::Operator, Operation::RemoveNode("host2".into()))
            .expect("an admin");
        assert_eq!(net.taken(2), [""; 0]);
        assert_eq!(net.state.contradiction(), None);
    }

    #[test]
    fn no_node_says_itself_whose_a_name_is() {
        let mut net = members();
        net.put(net.row(0, 1, "service1"));
        let mut claimed = net.row(1, 2, "service1");
        claimed.taken.insert("other".parse().expect("a name"));

        net.put(claimed);

        assert_eq!(net.taken(2), ["service1"]);
    }

    #[test]
    fn replicas_and_aliases_share() {
        let mut net = members();
        for (member, id) in [(0, 1), (1, 2)] {
            let mut replica = net.row(member, id, "web");
            replica.group = Some("run".into());
            replica.aliases.insert("front".parse().expect("a name"));
            net.put(replica);
        }
        net.put(net.row(2, 3, "front"));

        assert_eq!((net.taken(1), net.taken(2)), (vec![], vec![]));
        assert_eq!(net.taken(3), ["front"]);
    }

    #[test]
    fn a_container_that_restarts_keeps_its_names_and_one_that_is_gone_gives_them_up() {
        let mut net = members();
        let of_container = |net: &Members, id: u8| Endpoint {
            container: Some("5df66f04e09f".parse().expect("an id")),
            runtime: Runtime::Docker,
            ..net.row(0, id, "service1")
        };
        let (first, next) = (of_container(&net, 1), of_container(&net, 3));
        net.put(first.clone());
        net.put(net.row(1, 2, "service1"));

        net.put(first.stopped());
        assert_eq!((net.taken(1), net.taken(2)), (vec![], vec!["service1"]));
        net.put(net.row(2, 4, "service1"));
        // What another host says of a container of that id is about another one.
        let mut forged = of_container(&net, 5);
        (forged.node, forged.addresses) = (net.members[2].node, net.row(2, 5, "x").addresses);
        net.put(forged);
        net.put(next.clone());
        assert_eq!((net.taken(1), net.taken(3)), (vec![], vec![]));
        assert_eq!((net.taken(4), net.taken(5)), (vec!["service1"], vec!["service1"]));
        net.remove(&first);
        assert_eq!((net.taken(2), net.taken(3)), (vec!["service1"], vec![]));

        net.put(next.stopped());
        net.remove(&next);
        assert_eq!(net.taken(2), [""; 0]);
    }

    #[test]
    fn stopped_endpoints_are_in_nobodys_way_but_by_their_names() {
        let mut net = members();
        let mut row = net.row(0, 1, "service1");
        row.container = Some("5df66f04e09f".parse().expect("an id"));
        net.put(row.stopped());
        let of_nobody = Endpoint { container: None, ..row.stopped() };
        let put = Operation::PutEndpoints(vec![of_nobody]);
        let told = ask(&mut net.state, Actor::Node(row.node), put).expect_err("it has no address");
        assert_eq!(told.code, overlay_proto::Code::InvalidInput, "{told}");

        let taken = Endpoint { addresses: row.addresses.clone(), ..net.row(0, 2, "service2") };
        net.put(taken);
        net.remove(&net.row(0, 2, "service2"));
        let network = net.network.to_string();
        let removal = Operation::RemoveNetwork { network, force: false };
        let mut other = net.state.clone();
        ask(&mut other, Actor::Node(net.members[1].node), removal).expect("nothing runs on it");
        assert_eq!((other.contradiction(), other.view().endpoints.len()), (None, 0));
        let exit = Operation::ExitNetwork(net.network);
        ask(&mut net.state, Actor::Node(row.node), exit).expect("nothing runs there");

        assert_eq!(net.state.contradiction(), None);
        assert!(net.state.view().endpoints.is_empty());
    }

    #[test]
    fn what_would_shadow_an_id_or_the_host_itself_is_refused() {
        let mut net = members();
        let mut with_alias = net.row(0, 1, "web");
        with_alias.aliases.insert("0123456789ab".parse().expect("a name"));
        let rows = [net.row(0, 1, "0123456789ab"), net.row(0, 1, "localhost"), with_alias];

        for row in rows {
            let (node, put) = (Actor::Node(row.node), Operation::PutEndpoints(vec![row]));
            let told = ask(&mut net.state, node, put).expect_err("it shadows");
            assert_eq!(told.code, overlay_proto::Code::InvalidInput, "{told}");
        }
        // As an endpoint is called until its engine tells the name.
        let own = EndpointId::from_random(1).to_string();
        net.put(net.row(0, 1, &own));
        assert_eq!(net.taken(1), [""; 0]);
    }

    #[test]
    fn what_is_put_out_gives_its_names_back() {
        let mut net = members();
        net.put(net.row(0, 1, "web"));
        net.put(net.row(1, 2, "web"));
        let removed = Changed::from([((net.network, EndpointId::from_random(1)), None)]);

        let settled = settle(&net.state, removed);

        assert_eq!(settled.len(), 1);
        assert!(settled[0].taken.is_empty());
    }
}
