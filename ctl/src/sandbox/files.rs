//! The texts of the files that resolve names inside a sandbox.

use std::fmt::Write;

use overlay_proto::v1;

/// What a sandbox shows instead of the host's own files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) hostname: String,
    resolv_conf: String,
    hosts: String,
    /// Only where the host asks a resolver service of its own before DNS.
    nsswitch: Option<String>,
}

impl Files {
    /// Writes the files for a process that has these attachments, the first one naming it.
    pub(crate) fn new(attached: &[v1::AttachResponse], host_nsswitch: &str) -> Self {
        let hostname =
            attached.iter().filter_map(|a| a.endpoint.as_ref()).map(|e| e.name.clone()).next();

        Self {
            hostname: hostname.unwrap_or_default(),
            resolv_conf: resolv_conf(attached),
            hosts: hosts(attached),
            nsswitch: nsswitch(host_nsswitch),
        }
    }

    /// Lists each file's path and text.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&str, &str)> {
        let nsswitch = self.nsswitch.as_deref().map(|text| ("/etc/nsswitch.conf", text));

        [("/etc/resolv.conf", self.resolv_conf.as_str()), ("/etc/hosts", self.hosts.as_str())]
            .into_iter()
            .chain(nsswitch)
    }
}

/// With the networks as search list, `service2` is looked up as `service2.my-network` and a dotted
/// name as it stands.
fn resolv_conf(attached: &[v1::AttachResponse]) -> String {
    let mut text = String::new();
    // Resolvers heed three servers: one of each network comes before a second one of any.
    let nth = |n: usize| attached.iter().filter_map(move |a| a.nameservers.get(n));
    for server in nth(0).chain(nth(1)) {
        let _ = writeln!(text, "nameserver {server}");
    }
    let networks: Vec<_> = attached.iter().map(|a| a.network_name.as_str()).collect();
    let _ = writeln!(text, "search {}", networks.join(" "));

    text
}

fn hosts(attached: &[v1::AttachResponse]) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    for (network, endpoint) in
        attached.iter().filter_map(|a| Some((&a.network_name, a.endpoint.as_ref()?)))
    {
        for address in &endpoint.addresses {
            let _ = writeln!(text, "{address} {name}.{network} {name}", name = endpoint.name);
        }
    }

    text
}

/// Takes out what would ask the host's own resolver service, which knows nothing of the overlay.
fn nsswitch(host: &str) -> Option<String> {
    let asks_a_service = |line: &str| {
        line.starts_with("hosts:") && (line.contains("resolve") || line.contains("mdns"))
    };
    if !host.lines().any(asks_a_service) {
        return None;
    }
    let lines: Vec<_> = host
        .lines()
        .map(|line| if line.starts_with("hosts:") { "hosts: files dns" } else { line })
        .collect();

    Some(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(network: &str, server: &str, address: &str) -> v1::AttachResponse {
        v1::AttachResponse {
            endpoint: Some(v1::Endpoint {
                name: "web".into(),
                addresses: vec![address.into()],
                ..v1::Endpoint::default()
            }),
            network_name: network.into(),
            ifname: "eth0".into(),
            nameservers: vec![server.into(), "fd00::1".into()],
            mtu: 1408,
        }
    }

    #[test]
    fn the_gateways_resolve_and_the_networks_are_searched() {
        let files = Files::new(
            &[attached("a", "10.1.0.1", "10.1.0.2"), attached("b", "10.2.0.1", "10.2.0.2")],
            "",
        );

        assert_eq!(files.hostname, "web");
        assert_eq!(
            files.resolv_conf,
            "nameserver 10.1.0.1\nnameserver 10.2.0.1\nnameserver fd00::1\nnameserver fd00::1\nsearch a b\n"
        );
        assert!(
            files.hosts.ends_with("10.1.0.2 web.a web\n10.2.0.2 web.b web\n"),
            "{}",
            files.hosts
        );
        assert_eq!(files.each().count(), 2);
    }

    #[test]
    fn a_resolver_service_of_the_host_is_not_asked() {
        let host = "passwd: files\nhosts: files resolve [!UNAVAIL=return] dns\n";

        assert_eq!(nsswitch(host).as_deref(), Some("passwd: files\nhosts: files dns\n"));
        assert_eq!(nsswitch("hosts: files dns\n"), None);
    }
}
