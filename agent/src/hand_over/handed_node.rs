//! What a session of the node goes on with that is neither on disk nor in the kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use overlay_proto::v1;

use crate::membership::admission::Admission;

/// What the session before knew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HandedNode {
    /// Tells this agent from every other that shows the same certificate.
    pub(crate) instance: String,
    /// The time since the Unix epoch that no handshake was made after.
    pub(crate) unix_time: Duration,
    /// The MTU of the underlay, in bytes; 0 where nothing was joined.
    pub(crate) underlay_mtu: u32,
    /// The host's own addresses.
    pub(crate) own: BTreeSet<IpAddr>,
    /// Whether this host may carry packets.
    pub(crate) admission: Admission,
}

impl HandedNode {
    pub(super) fn to_message(&self) -> v1::HandOverProceed {
        let bytes = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };

        v1::HandOverProceed {
            instance: self.instance.clone(),
            unix_seconds: self.unix_time.as_secs().saturating_add(1),
            underlay_mtu: self.underlay_mtu,
            own: self.own.iter().map(bytes).collect(),
            admission: match self.admission {
                Admission::Unproven => 0,
                Admission::Admitted => 1,
                Admission::TurnedAway => 2,
            },
        }
    }

    pub(super) fn from_message(message: v1::HandOverProceed) -> Self {
        let address = |bytes: &Vec<u8>| {
            let v4 =
                <[u8; 4]>::try_from(bytes.as_slice()).map(|octets| Ipv4Addr::from(octets).into());

            v4.or_else(|_| {
                <[u8; 16]>::try_from(bytes.as_slice()).map(|octets| Ipv6Addr::from(octets).into())
            })
            .ok()
        };

        Self {
            instance: message.instance,
            unix_time: Duration::from_secs(message.unix_seconds),
            underlay_mtu: message.underlay_mtu,
            own: message.own.iter().filter_map(address).collect(),
            admission: match message.admission {
                1 => Admission::Admitted,
                2 => Admission::TurnedAway,
                // Control must say.
                _ => Admission::Unproven,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_comes_back_and_time_does_not_go_back() {
        for admission in [Admission::Unproven, Admission::Admitted, Admission::TurnedAway] {
            let node = HandedNode {
                instance: "a".to_owned(),
                unix_time: Duration::from_millis(1_999),
                underlay_mtu: 9000,
                own: ["192.0.2.1", "2001:db8::1"]
                    .map(|text| text.parse().expect("an address"))
                    .into(),
                admission,
            };

            let read = HandedNode::from_message(node.to_message());

            assert_eq!(read, HandedNode { unix_time: Duration::from_secs(2), ..node });
        }
    }
}
