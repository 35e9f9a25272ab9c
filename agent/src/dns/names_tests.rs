//! Names of endpoints and what they mean to whom.

use proptest::prelude::*;

use super::*;
use crate::dns::testing::{World, ip};

fn asker(network: u64, source: &str) -> Asker<'static> {
    Asker::Address { network: World::network(network), source: ip(source) }
}

/// Two networks; `both` is on both, `solo` on the first, `other` on the second.
fn world() -> World {
    World::default()
        .with_network(1, "blue", "10.1.0.0/16")
        .with_network(2, "red", "10.2.0.0/16")
        .with_endpoint(1, 1, "both", &["web"], &["10.1.0.2", "fd01::2"])
        .with_endpoint(2, 2, "both", &[], &["10.2.0.2"])
        .with_endpoint(1, 3, "solo", &["web"], &["10.1.0.3"])
        .with_endpoint(2, 4, "other", &["web"], &["10.2.0.4"])
        .with_sandbox(&[(1, 1), (2, 2)])
        .with_sandbox(&[(1, 3)])
        .with_sandbox(&[(2, 4)])
}

fn addresses(list: &[&str]) -> Meaning {
    Meaning::Addresses(list.iter().map(|text| ip(text)).collect())
}

#[test]
fn a_name_is_answered_with_and_without_its_network() {
    let names = world().names();
    let solo = asker(1, "10.1.0.3");

    assert_eq!(names.meaning(solo, &["both"], RecordKind::A, 0), addresses(&["10.1.0.2"]));
    assert_eq!(
        names.meaning(solo, &["both", "blue"], RecordKind::Aaaa, 0),
        addresses(&["fd01::2"])
    );
    assert_eq!(names.meaning(solo, &["000000000001"], RecordKind::A, 0), addresses(&["10.1.0.2"]));
}

#[test]
fn a_name_of_several_labels_is_answered_with_and_without_its_network() {
    let world =
        world().with_endpoint(1, 9, "app", &["my.app", "db.internal", "x.blue"], &["10.1.0.9"]);
    let names = world.with_endpoint(1, 8, "x", &[], &["10.1.0.8"]).names();
    let solo = asker(1, "10.1.0.3");
    let meaning =
        |name: &str| names.meaning(solo, &name.split('.').collect::<Vec<_>>(), RecordKind::A, 0);

    for name in ["my.app", "my.app.blue", "db.internal", "x.blue.blue"] {
        assert_eq!(meaning(name), addresses(&["10.1.0.9"]), "{name}");
    }
    assert_eq!(
        meaning("x.blue"),
        addresses(&["10.1.0.8"]),
        "an alias takes no share of a name with its network"
    );
    for (name, expected) in [
        ("my", Meaning::Nowhere),
        ("internal", Meaning::Nowhere),
        ("blue", Meaning::Nowhere),
        ("my.app.red", Meaning::Elsewhere),
        ("app.my", Meaning::Unknown),
    ] {
        assert_eq!(meaning(name), expected, "{name}");
    }
}

#[test]
fn what_is_on_a_linked_network_is_found_with_its_name_and_by_address_alone() {
    let apart = world().names();
    let linked = world().with_network(3, "grey", "10.3.0.0/16").with_link(1, 2).with_link(2, 3);
    let linked = linked.with_endpoint(3, 9, "far", &[], &["10.3.0.2"]).names();
    let solo = asker(1, "10.1.0.3");
    let ask = |names: &Names, name: &str| {
        names.meaning(solo, &name.split('.').collect::<Vec<_>>(), RecordKind::A, 0)
    };

    assert_eq!(ask(&apart, "other.red"), Meaning::Elsewhere);
    assert_eq!(ask(&linked, "other.red"), addresses(&["10.2.0.4"]));
    assert_eq!(ask(&linked, "both.red"), addresses(&["10.2.0.2"]));
    assert_eq!(ask(&linked, "both"), addresses(&["10.1.0.2"]), "short names are the own network's");
    for name in ["other", "000000000004", "far"] {
        assert_eq!(ask(&linked, name), Meaning::Nowhere, "{name}");
    }
    for name in ["nobody.red", "far.grey"] {
        assert_eq!(ask(&linked, name), Meaning::Elsewhere, "{name}");
    }
    let arpa = ["4", "0", "2", "10", "in-addr", "arpa"];
    assert_eq!(
        linked.meaning(solo, &arpa, RecordKind::Ptr, 0),
        Meaning::Names(vec!["other.red".to_owned()])
    );
    assert_eq!(apart.meaning(solo, &arpa, RecordKind::Ptr, 0), Meaning::Nowhere);
}

/// `web` on host 1 came first: the one on host 2 is
/// found by its alias, its id and with its host, whatever others claim.
#[test]
fn a_name_that_belongs_to_another_is_found_by_id_and_with_its_host() {
    let names = World::default()
        .with_network(1, "blue", "10.1.0.0/16")
        .with_endpoint(1, 1, "web", &[], &["10.1.0.2"])
        .with_endpoint(1, 2, "web", &["front"], &["10.1.0.3"])
        .with_endpoint(1, 3, "spoof", &["web.host2", "web.host1"], &["10.1.0.4"])
        .on_host(1, 1, 1, &[])
        .on_host(1, 2, 2, &["web"])
        .on_host(1, 3, 3, &[])
        .names();
    let here = asker(1, "10.1.0.2");
    let found =
        |name: &str| names.meaning(here, &name.split('.').collect::<Vec<_>>(), RecordKind::A, 0);

    assert_eq!(found("web"), addresses(&["10.1.0.2"]));
    assert_eq!(found("web.blue"), addresses(&["10.1.0.2"]));
    for name in ["front", "000000000002", "web.host2", "web.host2.blue"] {
        assert_eq!(found(name), addresses(&["10.1.0.3"]), "{name}");
    }
    assert_eq!(found("web.host1"), addresses(&["10.1.0.2"]));
    assert_eq!(found("web.host3"), Meaning::Elsewhere);
    let ptr = |last: &str| {
        names.meaning(here, &[last, "0", "1", "10", "in-addr", "arpa"], RecordKind::Ptr, 0)
    };
    assert_eq!(ptr("2"), Meaning::Names(vec!["web.blue".to_owned()]));
    assert_eq!(ptr("3"), Meaning::Names(vec!["000000000002.blue".to_owned()]));
}

#[test]
fn no_alias_stands_for_what_is_on_another_network() {
    let names = World::default()
        .with_network(1, "blue", "10.1.0.0/16")
        .with_network(2, "green", "10.2.0.0/16")
        .with_endpoint(1, 1, "asker", &[], &["10.1.0.2"])
        .with_endpoint(2, 1, "asker", &[], &["10.2.0.2"])
        .with_endpoint(1, 3, "spoof", &["db.green", "gone.green", "db.red"], &["10.1.0.4"])
        .with_endpoint(2, 4, "db", &[], &["10.2.0.5"])
        .with_sandbox(&[(1, 1), (2, 1)])
        .names();
    let found = |name: &str| {
        let labels: Vec<_> = name.split('.').collect();
        names.meaning(asker(1, "10.1.0.2"), &labels, RecordKind::A, 0)
    };

    assert_eq!(found("db.green"), addresses(&["10.2.0.5"]));
    assert_eq!(found("gone.green"), Meaning::Elsewhere);
    assert_eq!(found("db.red"), addresses(&["10.1.0.4"]));
    assert_eq!(names.find("db.green").len(), 1);
}

#[test]
fn of_two_of_one_name_on_one_host_the_holder_is_found_with_the_host() {
    let world = World::default()
        .with_network(1, "blue", "10.1.0.0/16")
        .with_endpoint(1, 1, "web", &[], &["10.1.0.2"])
        .with_endpoint(1, 2, "web", &[], &["10.1.0.3"])
        .on_host(1, 1, 1, &[])
        .on_host(1, 2, 1, &["web"]);

    let found = world.names().meaning(asker(1, "10.1.0.2"), &["web", "host1"], RecordKind::A, 0);

    assert_eq!(found, addresses(&["10.1.0.2"]));
}

#[test]
fn a_sandbox_on_two_networks_sees_the_names_of_both() {
    let names = world().names();

    for both in [asker(1, "10.1.0.2"), asker(2, "10.2.0.2"), asker(1, "fd01::2")] {
        let web = names.meaning(both, &["web"], RecordKind::A, 0);
        assert_eq!(web, addresses(&["10.1.0.2", "10.1.0.3", "10.2.0.4"]));
        assert_eq!(
            names.meaning(both, &["both", "red"], RecordKind::A, 0),
            addresses(&["10.2.0.2"])
        );
    }
}

#[test]
fn names_of_other_networks_do_not_exist() {
    let names = world().names();
    let solo = asker(1, "10.1.0.3");

    assert_eq!(names.meaning(solo, &["other"], RecordKind::A, 0), Meaning::Nowhere);
    assert_eq!(names.meaning(solo, &["other", "red"], RecordKind::A, 0), Meaning::Elsewhere);
    assert_eq!(names.meaning(solo, &["both", "red"], RecordKind::A, 0), Meaning::Elsewhere);
    assert_eq!(
        names.meaning(solo, &["4", "0", "2", "10", "in-addr", "arpa"], RecordKind::Ptr, 0),
        Meaning::Nowhere
    );
}

#[test]
fn an_asker_that_is_not_known_is_on_the_network_it_asks_in() {
    let names = world().names();

    assert_eq!(
        names.meaning(asker(2, "10.2.9.9"), &["other"], RecordKind::A, 0),
        addresses(&["10.2.0.4"])
    );
    assert_eq!(names.meaning(asker(2, "10.2.9.9"), &["solo"], RecordKind::A, 0), Meaning::Nowhere);
    assert_eq!(names.meaning(asker(3, "10.2.9.9"), &["solo"], RecordKind::A, 0), Meaning::Nowhere);
    let outside = ["example", "com"];
    assert_eq!(names.meaning(asker(2, "10.2.9.9"), &outside, RecordKind::A, 0), Meaning::Unknown);
    assert_eq!(
        names.meaning(asker(3, "10.2.9.9"), &outside, RecordKind::A, 0),
        Meaning::Nowhere,
        "on a network that is not known here"
    );
}

#[test]
fn a_name_without_the_wanted_kind_has_nothing() {
    let names = world().names();
    let solo = asker(1, "10.1.0.3");

    assert_eq!(names.meaning(solo, &["solo"], RecordKind::Aaaa, 0), Meaning::Nothing);
    assert_eq!(names.meaning(solo, &["solo"], RecordKind::Other, 0), Meaning::Nothing);
}

#[test]
fn addresses_have_names_and_those_of_nobody_have_none() {
    let names = world().names();
    let solo = asker(1, "10.1.0.3");
    let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.d.f.ip6.arpa";
    let v6: Vec<&str> = v6.split('.').collect();
    let both = Meaning::Names(vec!["both.blue".to_owned()]);

    assert_eq!(
        names.meaning(solo, &["2", "0", "1", "10", "in-addr", "arpa"], RecordKind::Ptr, 0),
        both
    );
    assert_eq!(names.meaning(solo, &v6, RecordKind::Ptr, 0), both);
    assert_eq!(
        names.meaning(solo, &["9", "0", "1", "10", "in-addr", "arpa"], RecordKind::Ptr, 0),
        Meaning::Nowhere
    );
    assert_eq!(
        names.meaning(solo, &["8", "8", "8", "8", "in-addr", "arpa"], RecordKind::Ptr, 0),
        Meaning::Unknown
    );
}

#[test]
fn a_question_from_inside_a_sandbox_sees_the_networks_of_the_sandbox() {
    let names = world().names();
    let (both, red) = (scope(&[1, 2], &[]), scope(&[2], &[]));

    let web = names.meaning(Asker::Sandbox(&both), &["web"], RecordKind::A, 0);

    assert_eq!(web, addresses(&["10.1.0.2", "10.1.0.3", "10.2.0.4"]));
    assert_eq!(names.meaning(Asker::Sandbox(&red), &["solo"], RecordKind::A, 0), Meaning::Nowhere);
    let none = SandboxScope::default();
    assert_eq!(
        names.meaning(Asker::Sandbox(&none), &["solo"], RecordKind::A, 0),
        Meaning::Unknown,
        "it has left the overlay"
    );
}

/// A sandbox on these networks of the cluster, and on these of the engine.
fn scope(networks: &[u64], engine: &[&str]) -> SandboxScope {
    let networks = networks.iter().map(|&number| World::network(number)).collect();
    let others = engine.iter().map(|&name| name.to_owned()).collect();
    let engine = crate::dns::EngineNames { networks: Some(others), ..Default::default() };

    SandboxScope { networks, engine }
}

#[test]
fn on_internal_networks_alone_no_other_resolver_is_asked() {
    let names = world()
        .with_network(3, "vault", "10.3.0.0/16")
        .internal(1)
        .internal(3)
        .with_endpoint(3, 9, "solo", &[], &["10.3.0.3"])
        .with_sandbox(&[(1, 3), (3, 9)])
        .names();
    let asked = |asker: Asker<'_>, name: &str, kind| {
        let labels: Vec<_> = name.split('.').collect();
        names.meaning(asker, &labels, kind, 0)
    };
    let (alone, bridged) = (scope(&[1, 3], &[]), scope(&[1], &["bridge"]));
    let inside = [asker(1, "10.1.0.3"), asker(3, "10.1.9.9"), Asker::Sandbox(&alone)];

    for asker in inside {
        for name in ["example.com", "8.8.8.8.in-addr.arpa", "com"] {
            for kind in [RecordKind::A, RecordKind::Ptr, RecordKind::Zone, RecordKind::Other] {
                assert_eq!(asked(asker, name, kind), Meaning::Nowhere, "{asker:?} {name}");
            }
        }
        assert_eq!(asked(asker, "both.red", RecordKind::A), Meaning::Elsewhere);
    }
    assert_eq!(asked(inside[0], "both", RecordKind::A), addresses(&["10.1.0.2"]));
    for asker in [asker(1, "10.1.0.2"), asker(2, "10.2.0.4"), Asker::Sandbox(&bridged)] {
        let outside = asked(asker, "example.com", RecordKind::A);
        assert_eq!(outside, Meaning::Unknown, "{asker:?} is on another network, too");
    }
}

#[test]
fn the_seed_turns_the_addresses() {
    let names = world().names();
    let both = asker(1, "10.1.0.2");
    let first = |seed| match names.meaning(both, &["web"], RecordKind::A, seed) {
        Meaning::Addresses(addresses) => addresses.first().copied(),
        Meaning::Names(_)
        | Meaning::Nothing
        | Meaning::Nowhere
        | Meaning::Elsewhere
        | Meaning::Unsettled
        | Meaning::Unknown => None,
    };

    let firsts: BTreeSet<_> = (0..3).map(first).collect();

    assert_eq!(firsts.len(), 3);
}

#[test]
fn the_node_itself_finds_names_in_all_its_networks() {
    let names = world().names();

    let found = names.find("Both.");

    assert_eq!(found.len(), 3);
    assert_eq!(names.find("both.red"), [(World::network(2), ip("10.2.0.2"))]);
    assert_eq!(names.find("nobody"), []);
    assert_eq!(names.find(""), []);
}

proptest! {
    #[test]
    fn no_labels_can_make_it_panic(labels in prop::collection::vec("[a-f0-9.]{0,3}|in-addr|ip6|arpa|web|blue", 0..36)) {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();

        let _ = world().names().meaning(asker(1, "10.1.0.3"), &labels, RecordKind::Ptr, 7);
    }
}
