//! Prefixes that only keep others from choosing them.

use std::collections::BTreeSet;

use super::rig::skipped;
use crate::kernel::host::HostNetwork;
use crate::kernel::netlink::Netlink;
use crate::kernel::tables::LinkChange;
use crate::kernel::{Netns, reservation};

#[tokio::test]
async fn reserved_prefixes_are_exactly_those_and_no_route() {
    if skipped() {
        return;
    }
    let netns = Netns::unnamed("reserved").expect("a namespace");
    let prefixes = |texts: &[&str]| {
        texts.iter().map(|text| text.parse().expect("a prefix")).collect::<BTreeSet<_>>()
    };
    let mut netlink = Netlink::open(&netns).await.expect("a connection");

    netlink.set_link("lo", LinkChange::Up).await.expect("up");

    for wanted in [
        &["10.64.0.0/16", "172.18.0.0/16"][..],
        &["172.18.0.0/16"],
        &["172.18.0.0/16", "10.65.0.0/20"],
        &[],
    ] {
        for _ in 0..2 {
            reservation::set(&netns, &prefixes(wanted)).await.expect("set");
            assert_eq!(netlink.reserved().await.expect("a list"), prefixes(wanted));
        }
        let host = HostNetwork::list(&netns).await.expect("the host");
        assert!(host.prefixes.is_empty(), "no prefix of the host's own: {:?}", host.prefixes);
    }
}
