//! Values on the command line: each is checked here, and a wrong one is answered with what is
//! expected and an example.
//!
//! clap quotes the value and names the argument; the texts here follow that.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use overlay_core::Selector;
use overlay_core::selector::InvalidSelector;

/// Where control listens.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "write it as ADDRESS:PORT, such as 192.0.2.1:7443 or [2001:db8::1]:7443".to_owned()
    })
}

/// An address that other hosts can dial.
pub(crate) fn advertise(text: &str) -> Result<IpAddr, String> {
    let wrong =
        || "this is not an IP address; write one of this host's, such as 192.0.2.1".to_owned();
    let address = IpAddr::from_str(text).map_err(|_| wrong())?;

    if address.is_unspecified() || address.is_multicast() {
        Err("no other host can send to this address; write one of this host's, such as 192.0.2.1"
            .to_owned())
    } else {
        Ok(address)
    }
}

/// An address of an endpoint or a gateway.
pub(crate) fn ipv4(text: &str) -> Result<Ipv4Addr, String> {
    let bare = text.split_once('/').and_then(|(address, _)| address.parse::<Ipv4Addr>().ok());

    text.parse().map_err(|_| match (bare, text.parse::<IpAddr>()) {
        (Some(address), _) => format!("write the address without a prefix length: {address}"),
        (None, Ok(_)) => {
            "an IPv4 address is needed, such as 10.64.0.20; the IPv6 address follows from it"
                .to_owned()
        }
        (None, Err(_)) => "this is not an IPv4 address; write one such as 10.64.0.20".to_owned(),
    })
}

/// A prefix of either family; bits of a host in it are a slip of the hand.
pub(crate) fn subnet(text: &str) -> Result<IpNet, String> {
    let subnet: IpNet = text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => {
            format!(
                "the prefix length is missing; write it as {}",
                Ipv4Net::new_assert(address, 16).trunc()
            )
        }
        Ok(IpAddr::V6(address)) => {
            format!(
                "the prefix length is missing; write it as {}",
                IpNet::new_assert(address.into(), 64).trunc()
            )
        }
        Err(_) => "this is not a prefix; write one such as 10.9.0.0/16 or fd00:9::/64".to_owned(),
    })?;

    if subnet.trunc() == subnet { Ok(subnet) } else { Err(host_bits(subnet.trunc())) }
}

/// An IPv4 prefix.
pub(crate) fn subnet4(text: &str) -> Result<Ipv4Net, String> {
    match subnet(text) {
        Ok(IpNet::V4(subnet)) => Ok(subnet),
        Ok(IpNet::V6(_)) => Err("an IPv4 prefix is needed, such as 10.9.0.0/16".to_owned()),
        Err(wrong) => Err(wrong.replace(" or fd00:9::/64", "")),
    }
}

fn host_bits(truncated: IpNet) -> String {
    format!("a prefix ends in zeros; for the one that holds this address write {truncated}")
}

/// Which nodes may enter a network.
pub(crate) fn nodes(text: &str) -> Result<Selector, String> {
    // As a selector it is the nodes that have a label of this key.
    if matches!(text, "all" | "any") {
        return Err(format!("for every node write --nodes '' and not {text}"));
    }

    text.parse().map_err(|error: InvalidSelector| error.to_string())
}

/// A whole number within bounds.
pub(crate) fn number(text: &str, least: u32, most: u32) -> Result<u32, String> {
    let wrong =
        || format!("write a whole number from {least} to {most}, such as {}", 4.clamp(least, most));

    text.parse().ok().filter(|number| (least..=most).contains(number)).ok_or_else(wrong)
}

/// A label: `k=v`; the value may be empty.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("write it as KEY=VALUE, such as rack=7".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong<T: std::fmt::Debug>(parsed: Result<T, String>) -> String {
        parsed.expect_err("wrong")
    }

    #[test]
    fn a_subnet_without_its_length_is_told_how_to_write_it() {
        assert!(wrong(subnet("10.9.0.0")).ends_with("write it as 10.9.0.0/16"));
        assert!(wrong(subnet("10.9.3.1")).ends_with("write it as 10.9.0.0/16"));
        assert!(wrong(subnet("fd00:9::1")).ends_with("write it as fd00:9::/64"));
        assert!(wrong(subnet("10.9.3.0/16")).ends_with("write 10.9.0.0/16"));
        assert!(wrong(subnet("ten")).contains("10.9.0.0/16"));
        assert_eq!(subnet("10.9.0.0/16").map(|net| net.to_string()), Ok("10.9.0.0/16".to_owned()));
        assert!(!wrong(subnet4("ten")).contains("fd00"));
        assert!(subnet4("fd00::/64").is_err());
    }

    #[test]
    fn addresses_are_told_from_prefixes_and_families() {
        assert_eq!(
            wrong(ipv4("10.9.0.7/16")),
            "write the address without a prefix length: 10.9.0.7"
        );
        assert!(wrong(ipv4("fd00::7")).starts_with("an IPv4 address is needed"));
        assert!(wrong(ipv4("seven")).contains("10.64.0.20"));
        assert!(wrong(advertise("0.0.0.0")).contains("no other host"));
    }

    #[test]
    fn every_wrong_value_is_answered_with_an_example() {
        let answers = [
            wrong(listen("7443")),
            wrong(advertise("host-a")),
            wrong(ipv4("x")),
            wrong(subnet("x")),
            wrong(subnet4("x")),
            wrong(label("rack")),
            wrong(number("many", 1, 9)),
            wrong(number("0", 1, 9)),
        ];

        assert!(answers.iter().all(|answer| answer.contains("such as")), "{answers:?}");
    }
}
