//! Which endpoints are not found by a name because it belongs to others, and how both are told.

use std::collections::{BTreeMap, BTreeSet};

use crate::endpoint::Endpoint;
use crate::id::{EndpointId, NetworkId};
use crate::view::View;

/// The conflicts of a view: who waits for which name, and who has it.
#[derive(Debug)]
pub struct Conflicts<'a> {
    view: &'a View,
    /// Who is not found by one of its names.
    lacking: Vec<&'a Endpoint>,
    /// Who has each name that somebody waits for.
    holders: BTreeMap<(NetworkId, &'a str), &'a Endpoint>,
    /// Who waits for a name of each of these, with the name.
    waiting: BTreeMap<(NetworkId, EndpointId), Vec<(&'a str, &'a Endpoint)>>,
}

impl<'a> Conflicts<'a> {
    /// Finds them. The cost is that of one pass over all endpoints, two if there are any.
    pub fn new(view: &'a View) -> Self {
        let lacking = view.endpoints.values().filter(|endpoint| !endpoint.taken.is_empty());
        let lacking: Vec<_> = lacking.collect();
        let mut wanted: BTreeMap<NetworkId, BTreeSet<&str>> = BTreeMap::new();
        for endpoint in &lacking {
            let names = endpoint.taken.iter().map(|name| name.as_str());
            wanted.entry(endpoint.network).or_default().extend(names);
        }
        let mut found = Self { view, lacking, holders: BTreeMap::new(), waiting: BTreeMap::new() };
        if wanted.is_empty() {
            return found;
        }
        for endpoint in view.endpoints.values() {
            if let Some(wanted) = wanted.get(&endpoint.network) {
                found.note_holder(endpoint, wanted);
            }
        }
        for &endpoint in &found.lacking {
            let Some(name) = missed(endpoint) else { continue };
            if let Some(holder) = found.holders.get(&(endpoint.network, name)) {
                let key = (holder.network, holder.id);
                found.waiting.entry(key).or_default().push((name, endpoint));
            }
        }

        found
    }

    /// Lists the endpoints that are not found by one of their names.
    pub fn lacking(&self) -> impl Iterator<Item = &'a Endpoint> {
        self.lacking.iter().copied()
    }

    /// Lists the endpoints that have a name that others wait for.
    pub fn contested(&self) -> impl Iterator<Item = &'a Endpoint> {
        self.waiting.keys().filter_map(|key| self.view.endpoints.get(key))
    }

    fn note_holder(&mut self, endpoint: &'a Endpoint, wanted: &BTreeSet<&'a str>) {
        let id = endpoint.id.to_string();
        let own = [endpoint.name.as_str(), &id].into_iter();
        for name in own.chain(endpoint.aliases.iter().map(|alias| alias.as_str())) {
            let Some(&name) = wanted.get(name) else { continue };
            let key = (endpoint.network, name);
            // Of several, one that runs says more.
            let is_better = self.holders.get(&key).is_none_or(|known| known.is_stopped());
            if is_better && !endpoint.taken.contains(name) {
                self.holders.insert(key, endpoint);
            }
        }
    }

    /// Says which names of an endpoint belong to another one, and how it is found instead; nothing
    /// where all are its own.
    pub fn of(&self, endpoint: &Endpoint) -> Option<String> {
        let name = missed(endpoint)?;
        let holder = match self.holders.get(&(endpoint.network, name)) {
            Some(holder) => {
                let host = self.host(holder).unwrap_or("another node");
                let why = if holder.is_stopped() {
                    ", whose container is stopped and keeps it until it is removed"
                } else {
                    ""
                };
                format!("{} ({}) on {host}{why}", holder.name, holder.id)
            }
            None => "another endpoint".to_owned(),
        };
        let host = self.host(endpoint).map(|host| format!(" and as {}.{host}", endpoint.name));
        let more = match endpoint.taken.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more of its names to others"),
        };

        Some(format!(
            "the name {name} belongs to {holder}{more}: this one is found as {}{}; give it another \
             name, or an alias that both have",
            endpoint.id,
            host.unwrap_or_default()
        ))
    }

    /// Says who else claims a name that an endpoint holds; nothing where nobody does.
    pub fn with(&self, endpoint: &Endpoint) -> Option<String> {
        let waiting = self.waiting.get(&(endpoint.network, endpoint.id))?;
        let (name, first) = waiting.first()?;
        let host = self.host(first).unwrap_or("another node");
        let others = match waiting.len() - 1 {
            0 => "is".to_owned(),
            1 => "and 1 more are".to_owned(),
            more => format!("and {more} more are"),
        };

        Some(format!(
            "the name {name} is also claimed by {} ({}) on {host}, which {others} not found by it; \
             give that one another name, or both an alias",
            first.name, first.id
        ))
    }

    fn host(&self, endpoint: &Endpoint) -> Option<&'a str> {
        self.view.nodes.get(&endpoint.node).map(|node| node.name.as_str())
    }
}

/// Returns a name that an endpoint is not found by: its own, or else one of the others.
fn missed(endpoint: &Endpoint) -> Option<&str> {
    let is_own = |name: &&str| *name == endpoint.name.as_str();
    let mut all = endpoint.taken.iter().map(|name| name.as_str());

    all.clone().find(is_own).or_else(|| all.next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::testing::endpoint;
    use crate::id::NodeId;
    use crate::node::{Node, Role};
    use crate::view::{Change, Revision};

    fn view(endpoints: &[&Endpoint]) -> View {
        let node = |id: u64| {
            Change::Node(Node {
                id: NodeId::from_random(id),
                name: format!("host{id}").parse().expect("a name"),
                role: Role::Node,
                labels: BTreeMap::new(),
                underlay: Vec::new(),
                lane_ports: Vec::new(),
            })
        };
        let endpoints = endpoints.iter().map(|&endpoint| Change::Endpoint(endpoint.clone()));

        View::from_rows(Revision(1), (1..4).map(node).chain(endpoints))
    }

    fn late(id: u64) -> Endpoint {
        let mut late = endpoint(id, "web", &[], None);
        late.taken.insert("web".parse().expect("a name"));

        late
    }

    #[test]
    fn a_conflict_is_told_to_both_with_the_way_round() {
        let (first, late) = (endpoint(1, "web", &[], None), late(2));
        let view = view(&[&first, &late]);
        let conflicts = Conflicts::new(&view);

        assert_eq!((conflicts.of(&first), conflicts.with(&late)), (None, None));
        assert_eq!(
            conflicts.of(&late).as_deref(),
            Some(
                "the name web belongs to web (000000000001) on host1: this one is found as \
                 000000000002 and as web.host2; give it another name, or an alias that both have"
            )
        );
        assert_eq!(
            conflicts.with(&first).as_deref(),
            Some(
                "the name web is also claimed by web (000000000002) on host2, which is not found \
                 by it; give that one another name, or both an alias"
            )
        );
    }

    #[test]
    fn several_that_wait_are_one_conflict_of_the_holder() {
        let (first, second, third) = (endpoint(1, "web", &[], None), late(2), late(3));
        let view = view(&[&first, &second, &third]);

        let told = Conflicts::new(&view).with(&first).expect("a conflict");

        assert!(told.contains("on host2, which and 1 more are not found"), "{told}");
    }

    #[test]
    fn a_holder_that_is_stopped_is_told_with_the_remedy() {
        let (mut first, late) = (endpoint(1, "web", &[], None), late(2));
        first.container = Some("5df66f04e09f".parse().expect("an id"));
        let view = view(&[&first.stopped(), &late]);

        let told = Conflicts::new(&view).of(&late).expect("a conflict");

        assert!(
            told.contains("whose container is stopped and keeps it until it is removed"),
            "{told}"
        );
    }
}
