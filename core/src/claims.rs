//! Whom a name belongs to, of the endpoints of a network that claim it: the first one, and those
//! that may share it with all before them.
//!
//! An endpoint claims its name, its aliases and its id. A name has one holder. Several share it as
//! an alias, if nobody has it as its name, as replicas of one group, or as endpoints of one
//! container, which follow one another. An id belongs to its endpoint, whoever claimed it before.

mod conflicts;

use std::collections::BTreeSet;

pub use self::conflicts::Conflicts;
use crate::endpoint::Endpoint;
use crate::id::{EndpointId, NodeId};
use crate::name::{Alias, Name};

/// Lists the endpoints, of those that claim a name in this order, that it belongs to.
pub fn holders<'a>(
    name: &Alias,
    claimants: impl IntoIterator<Item = &'a Endpoint> + Clone,
) -> BTreeSet<EndpointId> {
    let is_owner = |endpoint: &&&Endpoint| endpoint.id.to_string() == name.as_str();
    if let Some(owner) = claimants.clone().into_iter().find(|endpoint| is_owner(&endpoint)) {
        return [owner.id].into();
    }
    let mut holders = Holders::default();
    for endpoint in claimants {
        holders.admit(name, endpoint);
    }

    holders.ids
}

/// Those that hold a name, and by which right others may share it.
#[derive(Default)]
struct Holders<'a> {
    ids: BTreeSet<EndpointId>,
    /// All of them have it as an alias.
    are_aliases: bool,
    /// All of them are replicas of this group.
    group: Option<&'a str>,
    /// All of them are of this container.
    container: Option<(NodeId, &'a Name)>,
}

impl<'a> Holders<'a> {
    fn admit(&mut self, name: &Alias, endpoint: &'a Endpoint) {
        let is_alias = endpoint.name.as_str() != name.as_str() && !is_short_id(name.as_str());
        let group = endpoint.group.as_deref();
        let container = endpoint.container.as_ref().map(|id| (endpoint.node, id));
        let shares = (self.are_aliases && is_alias)
            || (group.is_some() && self.group == group)
            || (container.is_some() && self.container == container);
        if self.ids.is_empty() {
            (self.are_aliases, self.group, self.container) = (is_alias, group, container);
        } else if shares {
            self.are_aliases &= is_alias;
            self.group = self.group.filter(|_| self.group == group);
            self.container = self.container.filter(|_| self.container == container);
        } else {
            return;
        }
        self.ids.insert(endpoint.id);
    }
}

/// Why no endpoint is found by a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnfitClaim {
    /// It means this host everywhere.
    #[error("no endpoint is called {0}: every host calls itself so; give it another name")]
    Reserved(Alias),
    /// It looks like an id.
    #[error(
        "no endpoint is called {0}: 12 hexadecimal digits are an id; give it another name, with \
         another letter in it"
    )]
    LikeAnId(Alias),
}

/// Checks that a name does not mean something else to everybody. `may_be_id` says whether it may
/// look like an id, as an own one does.
///
/// # Errors
///
/// [`UnfitClaim`].
pub fn check(name: &Alias, may_be_id: bool) -> Result<(), UnfitClaim> {
    if is_reserved(name.as_str()) {
        return Err(UnfitClaim::Reserved(name.clone()));
    }
    if is_short_id(name.as_str()) && !may_be_id {
        return Err(UnfitClaim::LikeAnId(name.clone()));
    }

    Ok(())
}

/// Returns whether a text looks like an id, or like the short id of a container: 12 hexadecimal
/// digits.
fn is_short_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns whether a text is a name that no endpoint may have: one that everybody knows as
/// something else.
fn is_reserved(text: &str) -> bool {
    text == "localhost" || text.ends_with(".localhost")
}

#[cfg(test)]
pub(crate) mod testing {
    //! Endpoints for tests.

    use std::collections::BTreeMap;

    use super::*;
    use crate::endpoint::Runtime;
    use crate::id::NetworkId;

    pub(crate) fn endpoint(id: u64, name: &str, aliases: &[&str], group: Option<&str>) -> Endpoint {
        Endpoint {
            id: EndpointId::from_random(id),
            network: NetworkId::FIRST,
            node: NodeId::from_random(id),
            name: name.parse().expect("a name"),
            aliases: aliases.iter().map(|alias| alias.parse().expect("an alias")).collect(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            runtime: Runtime::Run,
            group: group.map(str::to_owned),
            container: None,
            taken: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::endpoint;
    use super::*;

    fn held(name: &str, claimants: &[Endpoint]) -> Vec<u64> {
        let name = name.parse().expect("a name");

        holders(&name, claimants).into_iter().map(EndpointId::as_u64).collect()
    }

    #[test]
    fn a_name_belongs_to_the_first_that_has_it() {
        let (first, second) = (endpoint(2, "web", &[], None), endpoint(1, "web", &[], None));

        assert_eq!(held("web", &[first.clone(), second.clone()]), [2]);
        assert_eq!(held("web", &[second, first]), [1]);
        assert_eq!(held("web", &[]), [0; 0]);
    }

    #[test]
    fn an_alias_is_shared_until_somebody_has_it_as_its_name() {
        let shared = [endpoint(1, "a", &["web"], None), endpoint(2, "b", &["web"], None)];
        let named = endpoint(3, "web", &[], None);

        assert_eq!(held("web", &shared), [1, 2]);
        let [one, other] = shared;
        assert_eq!(held("web", &[one.clone(), named.clone(), other.clone()]), [1, 2]);
        assert_eq!(held("web", &[named, one, other]), [3]);
    }

    #[test]
    fn replicas_of_one_group_share_their_name() {
        let replica = |id, group| endpoint(id, "web", &[], group);

        let all = [replica(1, Some("a")), replica(2, Some("b")), replica(3, Some("a"))];
        assert_eq!(held("web", &all), [1, 3]);
        assert_eq!(held("web", &[replica(1, None), replica(2, None)]), [1]);
        let mixed = [endpoint(1, "a", &["web"], Some("a")), replica(2, Some("a"))];
        assert_eq!(held("web", &mixed), [1, 2]);
    }

    #[test]
    fn endpoints_of_one_container_follow_one_another() {
        let of = |id, node, container: &str| Endpoint {
            node: NodeId::from_random(node),
            container: Some(container.parse().expect("an id")),
            ..endpoint(id, "web", &[], None)
        };
        let (before, waiting) = (of(1, 1, "c1").stopped(), of(2, 2, "c2"));

        assert_eq!(held("web", &[before.clone(), waiting.clone(), of(3, 1, "c1")]), [1, 3]);
        assert_eq!(held("web", &[before.clone(), waiting.clone(), of(3, 1, "c2")]), [1]);
        assert_eq!(held("web", &[before, waiting, of(3, 2, "c1")]), [1], "of another host");
    }

    #[test]
    fn an_id_belongs_to_its_endpoint_and_a_short_id_to_one() {
        let id = EndpointId::from_random(0xabc).to_string();
        let (owner, thief) = (endpoint(0xabc, "a", &[], None), endpoint(1, "b", &[&id], None));
        assert_eq!(held(&id, &[thief, owner]), [0xabc]);

        let short = "5df66f04e09f";
        let both = [endpoint(1, "a", &[short], None), endpoint(2, "b", &[short], None)];
        assert_eq!(held(short, &both), [1]);
    }

    #[test]
    fn names_that_mean_something_else_are_known() {
        assert!(is_reserved("localhost") && is_reserved("a.localhost") && !is_reserved("local"));
        assert!(
            is_short_id("0123456789ab")
                && !is_short_id("0123456789a")
                && !is_short_id("0123456789xy")
        );
    }

    fn claimant() -> impl Strategy<Value = Endpoint> {
        (0..2u8, 0..3u8, 0..3u8).prop_map(|(kind, group, container)| {
            let group = ["a", "b"].get(usize::from(group)).copied();
            let container = ["c1", "c2"].get(usize::from(container));
            let drawn = match kind {
                0 => endpoint(1, "web", &[], group),
                _ => endpoint(1, "x", &["web"], group),
            };
            Endpoint { container: container.map(|id| id.parse().expect("an id")), ..drawn }
        })
    }

    proptest! {
        /// Whoever comes next shares by a right that all before it have in common.
        #[test]
        fn all_holders_of_a_name_share_it_by_one_right(
            drawn in prop::collection::vec(claimant(), 0..6),
        ) {
            let with_id = |(id, endpoint)| Endpoint { id: EndpointId::from_random(id), ..endpoint };
            let claimants: Vec<_> = (1..).zip(drawn).map(with_id).collect();
            let may_share = |all: &[&Endpoint]| {
                let first = all[0];
                let are_aliases = all.iter().all(|endpoint| endpoint.name.as_str() != "web");
                let is_group = first.group.is_some();
                let is_container = first.container.is_some();
                all.len() == 1
                    || are_aliases
                    || (is_group && all.iter().all(|other| other.group == first.group))
                    || (is_container && all.iter().all(|other| other.container == first.container))
            };
            let mut expected: Vec<&Endpoint> = Vec::new();
            for endpoint in &claimants {
                expected.push(endpoint);
                if !may_share(&expected) {
                    expected.pop();
                }
            }

            let held = holders(&"web".parse().expect("a name"), &claimants);

            prop_assert_eq!(held, expected.iter().map(|endpoint| endpoint.id).collect());
        }
    }
}
