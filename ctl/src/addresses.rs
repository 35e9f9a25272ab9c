//! The addresses of this host: what is advertised must be among them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use overlay_proto::{Code, Refusal};

/// Refuses addresses that other hosts are told to dial and that this host does not have.
pub(crate) fn check_advertised(advertised: &[IpAddr]) -> Result<(), Refusal> {
    // A host that does not tell its addresses cannot be judged by them.
    let Some(own) = own() else { return Ok(()) };

    match advertised.iter().find(|address| !own.contains_key(address)) {
        None => Ok(()),
        Some(stranger) => Err(Refusal::new(Code::InvalidInput, not_here(*stranger, &own))),
    }
}

fn not_here(stranger: IpAddr, own: &BTreeMap<IpAddr, String>) -> String {
    let reachable = own.iter().filter(|(address, _)| !address.is_loopback());
    let listed: Vec<_> =
        reachable.map(|(address, interface)| format!("{address} ({interface})")).collect();
    let listed =
        if listed.is_empty() { "none but its loopback's".to_owned() } else { listed.join(", ") };

    format!(
        "--advertise {stranger}: this host does not have that address; it has {listed}. \
         For an address that a router forwards to this host, add --force"
    )
}

/// Lists the addresses of this host with their interfaces; without link-local ones, which nobody
/// can dial.
fn own() -> Option<BTreeMap<IpAddr, String>> {
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let v6 = || storage.as_sockaddr_in6().map(|address| address.ip());
        let ip = v4.or_else(|| v6().filter(|v6| !v6.is_unicast_link_local()).map(IpAddr::V6))?;

        Some((ip, interface.interface_name))
    };

    getifaddrs().ok().map(|all| all.filter_map(address).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_host_is_taken_and_another_one_is_not() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let documentation = IpAddr::from([203, 0, 113, 77]);

        assert_eq!(check_advertised(&[]), Ok(()));
        assert_eq!(check_advertised(&[loopback]), Ok(()));
        let refusal =
            check_advertised(&[loopback, documentation]).expect_err("nobody has that one");
        assert!(
            refusal.message.starts_with("--advertise 203.0.113.77: this host does not have"),
            "{refusal}"
        );
    }

    #[test]
    fn the_refusal_lists_what_could_be_meant() {
        let on =
            |ip: &str, name: &str| (ip.parse::<IpAddr>().expect("an address"), name.to_owned());
        let own = BTreeMap::from([
            on("127.0.0.1", "lo"),
            on("192.0.2.1", "eth0"),
            on("2001:db8::1", "eth0"),
        ]);

        let text = not_here(IpAddr::from([203, 0, 113, 77]), &own);

        assert!(text.contains("it has 192.0.2.1 (eth0), 2001:db8::1 (eth0). For"), "{text}");
        assert!(
            not_here(IpAddr::from([203, 0, 113, 77]), &BTreeMap::new())
                .contains("none but its loopback's")
        );
    }
}
