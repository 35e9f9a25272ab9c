//! A member that sends through its tunnel what its own engine would not send.

use super::*;
use crate::noise;

/// Member 2 without an engine: seals whatever it is given for host 0.
pub(crate) struct RawPeer {
    tunnel: noise::Tunnel,
}

impl RawPeer {
    pub(crate) fn new(world: &mut World) -> Self {
        let now = world.now;
        let unix_time = EPOCH + (now - start()) + Duration::from_secs(60);
        let mut interface =
            noise::Interface::new(&key(NET, 2), zeroize::Zeroizing::new([3; 32]), now, unix_time);
        let mut tunnel = interface.new_tunnel(&pub_key(NET, 0), now).expect("a tunnel");
        let initiation = tunnel.initiate(now).expect("an initiation");
        let host = &mut world.hosts[0].engine;
        host.handle_udp(underlay(2), &initiation, initiation.len(), now);
        let response = host.poll_transmit().expect("a response").bytes.to_vec();
        let noise::Message::Response(response) =
            interface.receive(underlay(0), &response, now).expect("sound")
        else {
            panic!("no response")
        };
        tunnel.complete(response, now).expect("a session");
        Self { tunnel }
    }

    pub(crate) fn tell(&mut self, world: &mut World, packet: &[u8]) {
        let mut bytes = vec![0; noise::sealed_len(packet.len())];
        assert!(self.tunnel.begin_seal(world.now).expect("a session").run(packet, &mut bytes));
        world.hosts[0].engine.handle_udp(underlay(2), &bytes, bytes.len(), world.now);
        world.collect();
    }
}
