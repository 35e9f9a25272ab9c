//! The rules that lead a sandbox's questions to the interceptor.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::kernel::nft::ruleset::{
    Chain, ChainKind, Hook, L4Protocol, Match, Rule, Ruleset, Verdict,
};

/// The mark of questions that we pass on: they go to the sandbox's resolver as if we were not
/// there.
pub(super) const PASS_MARK: u32 = 0x6f76_6c01;
const DNS_PORT: u16 = 53;
/// Before Docker's own translation, which stands at -100 (`NF_IP_PRI_NAT_DST`).
const PRIORITY: i32 = -110;

/// Leads what is asked of `resolver`, over UDP and TCP, to `port` of the same address, unless it
/// carries [`PASS_MARK`].
pub(super) fn redirect(resolver: Ipv4Addr, port: u16) -> Ruleset {
    let pass = Rule { matches: vec![Match::Mark(PASS_MARK)], verdict: Verdict::Return };
    let lead = |protocol| Rule {
        matches: vec![
            Match::Protocol(protocol),
            Match::Destination(resolver),
            Match::DestinationPort(DNS_PORT),
        ],
        verdict: Verdict::Dnat(SocketAddrV4::new(resolver, port)),
    };
    let chain = Chain {
        name: "names",
        kind: ChainKind::Nat,
        hook: Hook::Output,
        priority: PRIORITY,
        rules: vec![pass, lead(L4Protocol::Udp), lead(L4Protocol::Tcp)],
    };

    Ruleset { table: "overlay", chains: vec![chain] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::nft::encoding::encode;
    use crate::kernel::plan::plan_ruleset;

    #[cfg(target_endian = "little")]
    #[test]
    fn the_redirect_is_written_as_ever() {
        let redirect = redirect(Ipv4Addr::new(127, 0, 0, 11), 4053);

        let batch = encode(&plan_ruleset(&redirect, None).expect("nothing is there yet"));

        let hex = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let written: Vec<_> = batch.bytes().chunks(16).map(hex).collect();
        assert_eq!(written.join("\n"), include_str!("redirect.hex").trim_end());
    }
}
