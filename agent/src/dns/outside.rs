//! Which names other resolvers are asked for. Pure.
//!
//! A name that the overlay does not have is asked for elsewhere if it can be one of a domain. What
//! looks like a name of the overlay is answered as non-existent instead, so that no other resolver
//! hears of it, and an asker hears the same whether somebody else has the name or nobody:
//!
//! - whatever ends in the name of a network or of a host of the cluster (`db.othernet`,
//!   `db.host2`), unless domains end in that, too ([`is_domain`]);
//! - a single label (`db`): no domain name of a host has one. Questions about zones are asked
//!   elsewhere, because validating resolvers ask for those of top-level domains.
//!
//! Who is on `--internal` networks alone has nothing else resolved, either.

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::NetworkId;

use super::domains::is_domain;
use super::names::{Meaning, RecordKind};

/// The networks that a sandbox is on, and what the resolver behind it may know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SandboxScope {
    /// The networks of the cluster.
    pub networks: BTreeSet<NetworkId>,
    /// What the engine's resolver may know.
    pub engine: EngineNames,
}

/// What a container engine's resolver may know that the overlay does not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineNames {
    /// The names, in lower case, of the networks of the engine alone that the container is on;
    /// nothing while that is not known yet.
    pub networks: Option<BTreeSet<String>>,
    /// Whether a container on one of its networks is starting, whose names are not known yet.
    pub is_settling: bool,
    /// Whether there are names on its networks that none but the engine knows.
    pub has_more: bool,
}

/// The last labels of names that are the overlay's, whether anybody has them or not. Of each, in
/// lower case, whether domains end in it, too.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReservedLabels(BTreeMap<String, bool>);

impl ReservedLabels {
    /// Takes the names of networks and hosts. What was found out about those of before is not
    /// found out again.
    pub(crate) fn new<'a>(names: impl Iterator<Item = &'a str>, before: &Self) -> Self {
        let names = names.map(str::to_ascii_lowercase).map(|name| {
            let known = before.0.get(&name).copied();
            let is_of_domains = known.unwrap_or_else(|| is_domain(&name));
            (name, is_of_domains)
        });

        Self(names.collect())
    }

    fn end(&self, labels: &[&str]) -> bool {
        labels.len() > 1 && labels.last().is_some_and(|last| self.0.get(*last) == Some(&false))
    }
}

/// Who asks for a name that the overlay does not have.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutsideAsker<'a> {
    /// Whether all its networks are `--internal`.
    pub(super) is_internal: bool,
    /// Whether the name ends in the name of a network that it is on.
    pub(super) is_own_network: bool,
    /// What the resolver behind it may know; nothing where that is one of the host's.
    pub(super) engine: Option<&'a EngineNames>,
}

/// Says what becomes of a question for a name that the overlay does not have.
pub(super) fn outside(
    asker: OutsideAsker<'_>,
    labels: &[&str],
    kind: RecordKind,
    reserved: &ReservedLabels,
) -> Meaning {
    let is_reserved = reserved.end(labels);
    let is_own = is_reserved && asker.is_own_network;
    let is_short = labels.len() == 1 && kind != RecordKind::Zone;
    let is_free = !is_reserved && !is_short && !asker.is_internal;
    if is_free {
        return Meaning::Unknown;
    }
    let nowhere = if is_reserved { Meaning::Elsewhere } else { Meaning::Nowhere };
    let Some(engine) = asker.engine else { return nowhere };
    let Some(networks) = &engine.networks else { return Meaning::Unsettled };
    if labels.last().is_some_and(|last| networks.contains(*last)) {
        return Meaning::Unknown;
    }
    let is_inside = is_short || is_own;
    if asker.is_internal && networks.is_empty() {
        let waits = is_inside && engine.is_settling;
        return if waits { Meaning::Unsettled } else { nowhere };
    }
    let may_be_of_engine = engine.is_settling || engine.has_more;
    let goes_on = if is_short {
        may_be_of_engine || !networks.is_empty()
    } else if is_reserved {
        is_own && may_be_of_engine
    } else {
        true
    };

    if goes_on { Meaning::Unknown } else { nowhere }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: OutsideAsker<'static> =
        OutsideAsker { is_internal: false, is_own_network: false, engine: None };

    fn engine(networks: Option<&[&str]>) -> EngineNames {
        let networks = networks.map(|names| names.iter().map(|&name| name.to_owned()).collect());

        EngineNames { networks, ..EngineNames::default() }
    }

    fn asked(asker: OutsideAsker<'_>, name: &str) -> Meaning {
        let names = || ["Backend", "host2", "dev"].into_iter();
        let reserved = ReservedLabels::new(names(), &ReservedLabels::default());
        let reserved = ReservedLabels::new(names(), &reserved);

        outside(asker, &name.split('.').collect::<Vec<_>>(), RecordKind::A, &reserved)
    }

    #[test]
    fn what_looks_like_ours_is_not_asked_for_elsewhere() {
        for (name, expected) in [
            ("db.backend", Meaning::Elsewhere),
            ("a.b.host2", Meaning::Elsewhere),
            ("db", Meaning::Nowhere),
            ("backend", Meaning::Nowhere),
            ("web.dev", Meaning::Unknown),
            ("db.backend.example", Meaning::Unknown),
            ("example.com", Meaning::Unknown),
        ] {
            assert_eq!(asked(OPEN, name), expected, "{name}");
        }
        let zone = outside(OPEN, &["com"], RecordKind::Zone, &ReservedLabels::default());
        assert_eq!(zone, Meaning::Unknown, "a validating resolver asks for it");
        assert_eq!(
            outside(OPEN, &[], RecordKind::Other, &ReservedLabels::default()),
            Meaning::Unknown
        );
    }

    #[test]
    fn on_internal_networks_alone_nothing_is_asked_for_elsewhere() {
        let internal = OutsideAsker { is_internal: true, ..OPEN };
        let (alone, bridged, unknown) =
            (engine(Some(&[])), engine(Some(&["bridge"])), engine(None));
        for name in ["example.com", "db", "db.backend", "web.dev"] {
            assert_ne!(asked(internal, name), Meaning::Unknown, "{name}");
            let asker = OutsideAsker { engine: Some(&alone), ..internal };
            assert_ne!(asked(asker, name), Meaning::Unknown, "{name}");
            let asker = OutsideAsker { engine: Some(&unknown), ..internal };
            assert_eq!(asked(asker, name), Meaning::Unsettled, "{name}");
        }
        let asker = OutsideAsker { engine: Some(&bridged), ..internal };
        assert_eq!(asked(asker, "example.com"), Meaning::Unknown, "it has another way out");
        assert_eq!(asked(asker, "db.bridge"), Meaning::Unknown);
        assert_eq!(asked(asker, "db.backend"), Meaning::Elsewhere);
    }

    #[test]
    fn the_engine_is_asked_for_what_only_it_may_know() {
        let with =
            |is_settling, has_more| EngineNames { is_settling, has_more, ..engine(Some(&[])) };
        let (settled, settling, more) = (with(false, false), with(true, false), with(false, true));
        let of = |engine| OutsideAsker { engine: Some(engine), ..OPEN };

        assert_eq!(asked(of(&settled), "db"), Meaning::Nowhere);
        for engine in [&settling, &more] {
            assert_eq!(asked(of(engine), "db"), Meaning::Unknown);
            assert_eq!(asked(of(engine), "db.backend"), Meaning::Elsewhere, "not on that network");
            let own = OutsideAsker { is_own_network: true, ..of(engine) };
            assert_eq!(asked(own, "db.backend"), Meaning::Unknown);
        }
        let internal = OutsideAsker { is_internal: true, ..of(&settling) };
        assert_eq!(asked(internal, "db"), Meaning::Unsettled, "it may be ours in a moment");
        assert_eq!(asked(internal, "example.com"), Meaning::Nowhere);
    }
}
