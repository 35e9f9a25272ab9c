//! The stages of the engine, one by one, for the benchmarks of this crate.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use overlay_core::PrivateKey;
use zeroize::Zeroizing;

use crate::noise::{Interface, Kind, Message, Tunnel, open_room, public_key, sealed_len};
use crate::routes::PrefixTable;

/// Two tunnels with a session between them.
pub struct Session {
    sender: Tunnel,
    receiver: Tunnel,
    now: Instant,
}

impl Session {
    /// Makes both tunnels and completes a handshake between them.
    ///
    /// # Panics
    ///
    /// If the handshake fails.
    pub fn new(now: Instant) -> Self {
        let (ours, theirs) = (PrivateKey::from([7; 32]), PrivateKey::from([9; 32]));
        let interface = |key, seed| {
            Interface::new(key, Zeroizing::new([seed; 32]), now, Duration::from_secs(1))
        };
        let (mut near, mut far) = (interface(&ours, 1), interface(&theirs, 2));
        let mut sender = near.new_tunnel(&public_key(&theirs), now).expect("a sound key");
        let mut receiver = far.new_tunnel(&public_key(&ours), now).expect("a sound key");
        let from = (Ipv4Addr::LOCALHOST, 1).into();

        let initiation = sender.initiate(now).expect("no handshake is under way");
        let Ok(Message::Initiation(initiation)) = far.receive(from, &initiation, now) else {
            panic!("an initiation")
        };
        let answer = receiver.answer(initiation, now).expect("a sound initiation");
        let Ok(Message::Response(response)) = near.receive(from, &answer, now) else {
            panic!("an answer")
        };
        sender.complete(response, now).expect("a sound answer");

        Self { sender, receiver, now }
    }

    /// Returns the size in bytes of the datagram that carries a packet of `len` bytes.
    pub fn sealed_len(len: usize) -> usize {
        sealed_len(len)
    }

    /// Seals one packet into `datagram`.
    ///
    /// # Panics
    ///
    /// If `datagram` is too short.
    pub fn seal(&mut self, packet: &[u8], datagram: &mut [u8]) {
        let seal = self.sender.begin_seal(self.now).expect("a session");
        assert!(seal.run(packet, datagram), "the datagram is too short");
    }

    /// Opens one datagram into `buffer`, checks that it is not a replay, and returns the length of
    /// the inner packet in bytes.
    ///
    /// # Panics
    ///
    /// If the datagram does not authenticate or was opened before.
    pub fn open(&mut self, datagram: &[u8], buffer: &mut [u8]) -> usize {
        let Some(Kind::Data(header)) = Kind::of(datagram) else { panic!("a data message") };
        let open = self.receiver.begin_open(header, self.now).expect("a session");
        let opened = open.run(datagram, &mut buffer[..open_room(datagram.len())]);

        self.receiver.commit(&opened, self.now).expect("new and sound").unwrap_or_default()
    }
}

/// The responder of a handshake, and an initiator to call it.
pub struct Called {
    interface: Interface,
    tunnel: Tunnel,
    caller: Tunnel,
    now: Instant,
}

impl Called {
    /// The interval between initiations, long enough that none needs a cookie.
    const STEP: Duration = Duration::from_millis(20);

    /// Makes the responder and the initiator.
    ///
    /// # Panics
    ///
    /// If a key is invalid.
    pub fn new(now: Instant) -> Self {
        let (ours, theirs) = (PrivateKey::from([7; 32]), PrivateKey::from([9; 32]));
        let interface = |key, seed| {
            Interface::new(key, Zeroizing::new([seed; 32]), now, Duration::from_secs(1))
        };
        let (mut near, mut far) = (interface(&ours, 1), interface(&theirs, 2));
        let caller = near.new_tunnel(&public_key(&theirs), now).expect("a sound key");
        let tunnel = far.new_tunnel(&public_key(&ours), now).expect("a sound key");

        Self { interface: far, tunnel, caller, now }
    }

    /// Returns the next initiation.
    ///
    /// # Panics
    ///
    /// If the initiator gave up.
    pub fn call(&mut self) -> Vec<u8> {
        self.now += Self::STEP;

        self.caller.initiate_again(self.now).expect("an initiation").to_vec()
    }

    /// Answers an initiation.
    ///
    /// # Panics
    ///
    /// If the initiation is not valid, or not the latest.
    pub fn answer(&mut self, initiation: &[u8]) {
        let from = (Ipv4Addr::LOCALHOST, 1).into();
        let Ok(Message::Initiation(initiation)) =
            self.interface.receive(from, initiation, self.now)
        else {
            panic!("an initiation")
        };
        assert!(self.tunnel.answer(initiation, self.now).is_ok(), "a sound initiation");
    }
}

/// A routing table of `/24` prefixes.
pub struct Routes(PrefixTable<u32>);

impl Routes {
    /// Makes a table with this many prefixes, from `10.0.0.0/24` on.
    pub fn new(prefixes: u32) -> Self {
        let mut table = PrefixTable::default();
        for number in 0..prefixes {
            let net = Ipv4Net::new(Self::address(number), 24).expect("a prefix length");
            table.insert(IpNet::V4(net), number);
        }

        Self(table)
    }

    /// Returns an address within the prefix with this number.
    pub fn address(number: u32) -> Ipv4Addr {
        Ipv4Addr::from(0x0A00_0001 + (number << 8))
    }

    /// Looks an address up.
    pub fn lookup(&self, address: IpAddr) -> Option<u32> {
        self.0.lookup(address)
    }
}
