//! What a hostile container sends: each attack with its packets, and the counter that must count
//! them. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packet::{
    ARP, FRAGMENT, ICMP, ICMP6, IPV4, IPV6, MORE, Mac, OPTIONS, ROUTING, TCP, UDP, arp, fragment6,
    frame, icmp, ip, ipv4, ipv6, options6, routing6, syn, udp,
};

/// In every packet of an attack, followed by its number: five bytes that are also the beginning of
/// a hardware address.
pub(super) const MARKER: [u8; 5] = [0x02, 0xDE, 0xAD, 0xBE, 0xEF];
const EVERYBODY: Mac = [0xFF; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// A port that the policy of the second part refuses, and the one that it allows.
const REFUSED: u16 = 22;
const ALLOWED: u16 = 80;

/// Who is who, as the attacker sees it.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(super) mac: Mac,
    pub(super) gateway_mac: Mac,
    pub(super) own: (Ipv4Addr, Ipv6Addr),
    pub(super) link_local: Ipv6Addr,
    pub(super) gateway: Ipv4Addr,
    pub(super) near: (Ipv4Addr, Ipv6Addr),
    pub(super) far: (Ipv4Addr, Ipv6Addr),
    /// Addresses of the hosts.
    pub(super) hosts: Vec<Ipv4Addr>,
    /// The ports of the gateway that are tried.
    pub(super) ports: Vec<u16>,
}

/// One attack.
#[derive(Debug)]
pub(super) struct Attack {
    pub(super) name: &'static str,
    /// The counter: a reason of the guard, or `policy`.
    pub(super) counter: &'static str,
    /// The frames of one round.
    pub(super) frames: Vec<Vec<u8>>,
    /// How many counts a round makes, where that is not one a frame.
    pub(super) counts: usize,
    /// Whether the gateway must not answer it either.
    pub(super) is_scan: bool,
}

/// Makes attacks, each with its number in its packets.
struct Attacks<'a> {
    scene: &'a Scene,
    all: Vec<Attack>,
}

/// Lists all attacks; the last ones are for a network with a policy that allows TCP to port 80
/// alone.
pub(super) fn all(scene: &Scene) -> Vec<Attack> {
    let mut attacks = Attacks { scene, all: Vec::new() };
    attacks.sources();
    attacks.neighbours();
    attacks.routers();
    attacks.fragments();
    attacks.destinations();
    attacks.groups();
    attacks.scans();
    attacks.headers();
    attacks.policy();

    attacks.all
}

impl Attacks<'_> {
    fn mark(&self) -> Mac {
        let [a, b, c, d, e] = MARKER;

        [a, b, c, d, e, u8::try_from(self.all.len()).unwrap_or(u8::MAX)]
    }

    fn add(&mut self, name: &'static str, counter: &'static str, frames: Vec<Vec<u8>>) {
        let counts = frames.len();
        self.all.push(Attack { name, counter, frames, counts, is_scan: false });
    }

    /// Adds one of packets of the attacker's own hardware address, to the gateway's.
    fn packets(&mut self, name: &'static str, counter: &'static str, packets: Vec<Vec<u8>>) {
        let frames = packets.iter().map(|packet| self.sent(packet)).collect();
        self.add(name, counter, frames);
    }

    fn sent(&self, packet: &[u8]) -> Vec<u8> {
        let kind = if packet.first().is_some_and(|byte| byte >> 4 == 6) { IPV6 } else { IPV4 };

        frame(self.scene.gateway_mac, self.scene.mac, kind, packet)
    }

    /// A datagram with the mark.
    fn datagram(&self, from: impl Into<IpAddr>, to: impl Into<IpAddr>, port: u16) -> Vec<u8> {
        let (from, to) = (from.into(), to.into());

        ip(from, to, UDP, &udp(from, to, (4_000, port), &self.mark()))
    }

    fn connection(&self, from: impl Into<IpAddr>, to: impl Into<IpAddr>, port: u16) -> Vec<u8> {
        let (from, to) = (from.into(), to.into());

        ip(from, to, TCP, &syn(from, to, (4_000, port), &self.mark()))
    }

    fn message(&self, from: impl Into<IpAddr>, to: impl Into<IpAddr>, kind: u8) -> Vec<u8> {
        let (from, to) = (from.into(), to.into());
        let body = [&[0; 4][..], &[0; 16], &[2, 1], &self.mark()].concat();

        ip(from, to, if from.is_ipv4() { ICMP } else { ICMP6 }, &icmp(from, to, kind, 0, &body))
    }

    fn sources(&mut self) {
        let Scene { own, near, far, gateway, gateway_mac, link_local, .. } = self.scene.clone();
        let stranger = Ipv4Addr::new(192, 0, 2, 1);
        let forged = vec![
            self.datagram(near.0, far.0, 9),
            self.datagram(far.0, near.0, 9),
            self.datagram(stranger, near.0, 9),
            self.datagram(Ipv4Addr::UNSPECIFIED, near.0, 9),
            self.datagram(Ipv4Addr::LOCALHOST, near.0, 9),
        ];
        self.packets("another's IPv4 source", "source", forged);
        let forged = vec![
            self.datagram(near.1, far.1, 9),
            self.datagram(far.1, near.1, 9),
            self.datagram(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), near.1, 9),
            self.datagram(own.0.to_ipv6_mapped(), near.1, 9),
        ];
        self.packets("another's IPv6 source", "source", forged);
        let forged = vec![self.datagram(gateway, near.0, 53), self.datagram(GATEWAY6, near.1, 53)];
        self.packets("the gateway's source", "source", forged);
        let forged = [self.datagram(own.0, near.0, 9), self.datagram(own.0, far.0, 9)];
        let mac = self.mark();
        let frames = forged.iter().map(|packet| frame(gateway_mac, mac, IPV4, packet)).collect();
        self.add("another's MAC, IPv4", "mac", frames);
        let mac = self.mark();
        let forged = [self.datagram(own.1, near.1, 9), self.datagram(link_local, near.1, 9)];
        let frames = forged.iter().map(|packet| frame(gateway_mac, mac, IPV6, packet)).collect();
        self.add("another's MAC, IPv6", "mac", frames);
    }

    fn neighbours(&mut self) {
        let Scene { mac, gateway_mac, own, near, far, gateway, link_local, .. } =
            self.scene.clone();
        for (name, operation) in [("ARP answers", 2), ("gratuitous ARP", 1)] {
            let mark = self.mark();
            let of = |ip: Ipv4Addr, to: Mac| {
                let target = if operation == 1 { ip } else { gateway };
                frame(to, mac, ARP, &arp(operation, (mark, ip), target))
            };
            let everyone = [near.0, far.0, gateway, own.0];
            let frames =
                everyone.iter().flat_map(|ip| [of(*ip, gateway_mac), of(*ip, EVERYBODY)]).collect();
            self.add(name, "neighbor", frames);
        }
        let mark = self.mark();
        let advert = |from: Ipv6Addr, to: Ipv6Addr, target: Ipv6Addr| {
            let body = [&[0x20, 0, 0, 0][..], &target.octets(), &[2, 1], &mark].concat();
            ipv6(from, to, ICMP6, &icmp(from.into(), to.into(), 136, 0, &body))
        };
        let adverts = vec![
            advert(own.1, GATEWAY6, near.1),
            advert(own.1, ALL_NODES, far.1),
            advert(link_local, GATEWAY6, near.1),
            advert(link_local, ALL_NODES, GATEWAY6),
        ];
        self.packets("neighbour advertisements", "neighbor", adverts);
        let mark = self.mark();
        let solicit = |from: Ipv6Addr| {
            let body = [&[0; 4][..], &GATEWAY6.octets(), &[1, 1], &mark].concat();
            ipv6(from, GATEWAY6, ICMP6, &icmp(from.into(), GATEWAY6.into(), 135, 0, &body))
        };
        let solicits = vec![solicit(near.1), solicit(far.1), solicit(GATEWAY6)];
        self.packets("neighbour solicitations", "source", solicits);
    }

    fn routers(&mut self) {
        let Scene { own, near, far, link_local, .. } = self.scene.clone();
        let adverts = vec![
            self.message(link_local, ALL_NODES, 134),
            self.message(link_local, near.1, 134),
            self.message(own.1, far.1, 134),
        ];
        self.packets("router advertisements", "router", adverts);
        let redirects =
            vec![self.message(link_local, near.1, 137), self.message(own.1, far.1, 137)];
        self.packets("IPv6 redirects", "router", redirects);
        let redirects = vec![
            self.message(own.0, near.0, 5),
            self.message(own.0, far.0, 5),
            self.message(own.0, near.0, 9),
        ];
        self.packets("IPv4 redirects", "router", redirects);
        let mark = self.mark();
        let answer =
            |from: IpAddr, to: IpAddr, ports| ip(from, to, UDP, &udp(from, to, ports, &mark));
        let answers = vec![
            answer(own.0.into(), near.0.into(), (67, 68)),
            answer(own.0.into(), far.0.into(), (67, 68)),
            answer(own.1.into(), near.1.into(), (547, 546)),
            answer(own.1.into(), far.1.into(), (547, 546)),
        ];
        self.packets("DHCP servers' answers", "dhcp", answers);
    }

    fn fragments(&mut self) {
        let Scene { own, near, far, .. } = self.scene.clone();
        let mark = [&self.mark()[..], &[0; 2]].concat();
        let mut all = Vec::new();
        for to in [near.0, far.0] {
            all.push(ipv4(own.0, to, TCP, MORE, &mark));
            all.push(ipv4(own.0, to, TCP, 1, &mark));
            all.push(ipv4(own.0, to, UDP, 23, &mark));
        }
        for to in [near.1, far.1] {
            for (offset, more) in [(0, true), (1, false), (23, false)] {
                let payload = [fragment6(TCP, offset, more), mark.clone()].concat();
                all.push(ipv6(own.1, to, FRAGMENT, &payload));
            }
        }
        self.packets("tiny fragments", "fragment", all);
    }

    fn destinations(&mut self) {
        let Scene { own, near, hosts, .. } = self.scene.clone();
        let to_hosts = |port| hosts.iter().map(move |host| (*host, port));
        let all = [51_820, 51_821].into_iter().flat_map(to_hosts);
        let all = all.map(|(host, port)| self.datagram(own.0, host, port)).collect();
        self.packets("tunnel ports", "destination", all);
        let all = [22, 2_375, 7_070].into_iter().flat_map(to_hosts);
        let all = all.map(|(host, port)| self.connection(own.0, host, port)).collect();
        self.packets("services of hosts", "destination", all);
        let metadata = Ipv4Addr::new(169, 254, 169, 254);
        let all = vec![
            self.connection(own.0, metadata, 80),
            self.datagram(own.0, metadata, 53),
            self.connection(own.0, Ipv4Addr::new(192, 0, 2, 1), 80),
        ];
        self.packets("169.254/16, and elsewhere", "destination", all);
        let other = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x6f, 0xff, 0xfe00, 0x1234);
        let all = vec![
            self.datagram(own.1, other, 9),
            self.datagram(self.scene.link_local, other, 9),
            self.connection(own.1, near.0.to_ipv6_mapped(), 80),
            self.datagram(own.1, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9),
        ];
        self.packets("fe80:: of others, mapped addresses", "destination", all);
        let all = vec![self.datagram(own.0, Ipv4Addr::LOCALHOST, 53)];
        self.packets("IPv4 loopback", "destination", all);
        let all = vec![self.datagram(own.1, Ipv6Addr::LOCALHOST, 53)];
        self.packets("IPv6 loopback", "malformed", all);
    }

    fn groups(&mut self) {
        let Scene { own, link_local, .. } = self.scene.clone();
        let all = [[224, 0, 0, 1], [224, 0, 0, 251], [239, 1, 2, 3], [255, 255, 255, 255]];
        let all = all.map(|group| self.datagram(own.0, Ipv4Addr::from(group), 5_353)).to_vec();
        self.packets("IPv4 multicast and broadcast", "group", all);
        let site = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 2);
        let all = vec![
            self.datagram(own.1, ALL_NODES, 5_353),
            self.datagram(own.1, site, 5_353),
            self.datagram(link_local, ALL_NODES, 5_353),
        ];
        self.packets("IPv6 multicast", "group", all);
    }

    fn scans(&mut self) {
        let Scene { own, gateway, ports, .. } = self.scene.clone();
        let scan = |all: &mut Self, name, frames: Vec<Vec<u8>>| {
            all.packets(name, "gateway", frames);
            if let Some(attack) = all.all.last_mut() {
                attack.is_scan = true;
            }
        };
        let all = ports.iter().map(|port| self.connection(own.0, gateway, *port)).collect();
        scan(self, "the gateway's TCP ports", all);
        let all = ports.iter().map(|port| self.datagram(own.0, gateway, *port)).collect();
        scan(self, "the gateway's UDP ports", all);
        let all = ports.iter().map(|port| self.connection(own.1, GATEWAY6, *port)).collect();
        scan(self, "the gateway's TCP ports, IPv6", all);
        let all = ports.iter().map(|port| self.datagram(own.1, GATEWAY6, *port)).collect();
        scan(self, "the gateway's UDP ports, IPv6", all);
    }

    fn headers(&mut self) {
        let Scene { own, near, far, .. } = self.scene.clone();
        let mut all = Vec::new();
        for to in [near.1, far.1] {
            let segment = syn(own.1.into(), to.into(), (4_000, ALLOWED), &self.mark());
            all.push(ipv6(own.1, to, 0, &[options6(TCP), segment.clone()].concat()));
            let routed = [routing6(TCP, far.1), segment.clone()].concat();
            all.push(ipv6(own.1, to, ROUTING, &routed));
            let hidden = [options6(ROUTING), routing6(TCP, far.1), segment].concat();
            all.push(ipv6(own.1, to, OPTIONS, &hidden));
        }
        self.packets("hop-by-hop and routing headers", "header", all);
    }

    /// Those that try to pass a policy which allows TCP to one port.
    fn policy(&mut self) {
        let Scene { own, near, far, .. } = self.scene.clone();
        let mut all = Vec::new();
        for to in [near.1, far.1] {
            let segment = syn(own.1.into(), to.into(), (4_000, REFUSED), &self.mark());
            for count in [1, 2, 8] {
                let mut headers: Vec<_> = (1..count).flat_map(|_| options6(OPTIONS)).collect();
                headers.extend(options6(TCP));
                all.push(ipv6(own.1, to, OPTIONS, &[headers, segment.clone()].concat()));
            }
        }
        self.packets("destination options before a refused port", "policy", all);
        let mut all = Vec::new();
        for protocol in [2, 4, 41, 47, 50, 51, 89, 132, 136, 253, 255] {
            for to in [near.0, far.0] {
                all.push(ipv4(own.0, to, protocol, 0, &[&self.mark()[..], &[0; 34]].concat()));
            }
        }
        self.packets("other protocols", "policy", all);
        let all = vec![
            self.datagram(own.0, near.0, ALLOWED),
            self.datagram(own.1, far.1, ALLOWED),
            self.connection(own.0, far.0, REFUSED),
            self.connection(own.1, near.1, REFUSED),
        ];
        self.packets("refused ports", "policy", all);
        self.whole_fragments();
        self.overlaps();
    }

    /// Large fragments of a packet to a refused port: they count as one.
    fn whole_fragments(&mut self) {
        let Scene { own, near, far, .. } = self.scene.clone();
        let mut all = Vec::new();
        let data = [&self.mark()[..], &[0; 506]].concat();
        for to in [near.0, far.0] {
            let segment = syn(own.0.into(), to.into(), (4_000, REFUSED), &data);
            all.push(ipv4(own.0, to, TCP, MORE, &segment[..256]));
            all.push(ipv4(own.0, to, TCP, 32, &segment[256..]));
        }
        for to in [near.1, far.1] {
            let segment = syn(own.1.into(), to.into(), (4_000, REFUSED), &data);
            let part = |offset: u16, more, bytes: &[u8]| {
                ipv6(own.1, to, FRAGMENT, &[&fragment6(TCP, offset, more)[..], bytes].concat())
            };
            all.push(part(0, true, &segment[..256]));
            all.push(part(32, false, &segment[256..]));
        }
        self.packets("fragments of a packet to a refused port", "policy", all);
        self.halve();
    }

    /// Fragments of which the second one would overwrite an allowed port's packet.
    fn overlaps(&mut self) {
        let Scene { own, near, far, .. } = self.scene.clone();
        let mut all = Vec::new();
        let data = [&self.mark()[..], &[0; 506]].concat();
        for to in [near.0, far.0] {
            let segment = syn(own.0.into(), to.into(), (4_000, ALLOWED), &data);
            all.push(ipv4(own.0, to, TCP, MORE, &segment[..512]));
            all.push(ipv4(own.0, to, TCP, 32, &segment[256..]));
        }
        self.packets("overlapping fragments", "malformed", all);
        self.halve();
    }

    /// Two frames of the last attack count as one.
    fn halve(&mut self) {
        if let Some(attack) = self.all.last_mut() {
            attack.counts /= 2;
        }
    }
}
