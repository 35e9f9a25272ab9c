//! The protocol alone with other implementations: what our engine never asks for, and what needs
//! changes to its messages. What depends on time and counters is tested in virtual time, in the
//! crate.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use overlay_lab::{Host, Lab, Running, Stock};
use overlay_wireguard::{
    Datagram, Interface, Kind, Message, PresharedKey, Tunnel, open_room, sealed_len,
};

use super::driver::{ECHO_REPLY, ECHO_REQUEST, IP, echo, reply_to, socket_on};
use super::{OUR_KEY, OURS, PORT, THEIR_KEY, THEIRS, pair_of, public};

const PRESHARED: [u8; 32] = [0x33; 32];
/// Long enough for a handshake to be tried three times.
const PATIENCE: Duration = Duration::from_secs(20);
/// The number of handshake messages in a flood: no other implementation accepts as many at once.
const FLOOD: usize = 4_000;

/// A tunnel behind a socket.
struct Ours {
    interface: Interface,
    tunnel: Tunnel,
    socket: UdpSocket,
    to: SocketAddr,
    /// Cookies that we sent, and that we received.
    made: usize,
    met: usize,
    /// Initiations that we received and accepted.
    called: usize,
    /// Their responses that made a session.
    completed: usize,
    answers: VecDeque<u16>,
}

impl Ours {
    fn new(host: &Host, to: SocketAddr, preshared: PresharedKey) -> Self {
        let now = Instant::now();
        let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let mut interface = Interface::new(&OUR_KEY.into(), &rand::random(), now, unix_time);
        let tunnel = interface.new_tunnel(&public(THEIR_KEY), preshared, now).expect("a good key");

        Self {
            interface,
            tunnel,
            socket: socket_on(host),
            to,
            made: 0,
            met: 0,
            called: 0,
            completed: 0,
            answers: VecDeque::new(),
        }
    }

    fn call(&mut self) {
        let initiation = self.tunnel.initiate_again(Instant::now()).expect("an initiation");
        self.send(&initiation);
    }

    fn send(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.to).expect("the underlay takes it");
    }

    /// Sends a packet, if there is a session.
    fn say(&mut self, packet: &[u8]) -> bool {
        let Some(seal) = self.tunnel.begin_seal(Instant::now()) else { return false };
        let mut message = vec![0; sealed_len(packet.len())];
        assert!(seal.run(packet, &mut message));
        self.send(&message);
        true
    }

    /// Answers what is received until `done`; returns `false` if that does not happen in time.
    fn run_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = vec![0; 65_536];
        while !done(self) {
            if Instant::now() > deadline {
                return false;
            }
            // Everything that is there: a flood is answered with thousands of cookies.
            while let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
                self.take(from, &buffer[..len]);
                if Instant::now() > deadline {
                    break;
                }
            }
        }

        true
    }

    fn take(&mut self, from: SocketAddr, datagram: &[u8]) {
        let now = Instant::now();
        if let Some(Kind::Data(header)) = Kind::of(datagram) {
            let mut slot = vec![0; open_room(datagram.len())];
            let Ok(open) = self.tunnel.begin_open(header, now) else { return };
            let opened = open.run(datagram, &mut slot);
            if let Some(len) = self.tunnel.commit(&opened, now).expect("authentic and new") {
                self.take_packet(&slot[..len]);
            }
            return;
        }
        let answer = match self.interface.receive(from, datagram, now).expect("authentic") {
            Message::Challenge(reply) => {
                self.made += 1;
                reply
            }
            Message::Initiation(initiation) => {
                self.called += 1;
                self.tunnel.answer(initiation, now).expect("new")
            }
            Message::Response(response) => match self.tunnel.complete(response, now) {
                Ok(keepalive) => {
                    self.completed += 1;
                    keepalive
                }
                // An answer to an initiation that was replaced by a later one.
                Err(_) => return,
            },
            Message::Cookie(reply) => {
                self.met += usize::from(self.tunnel.keep_cookie(&reply, now).is_ok());
                return;
            }
        };
        self.send(&answer);
    }

    fn take_packet(&mut self, packet: &[u8]) {
        let len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        match packet[IP] {
            ECHO_REQUEST => assert!(self.say(&reply_to(&packet[..len]))),
            ECHO_REPLY => {
                self.answers.push_back(u16::from_be_bytes([packet[IP + 6], packet[IP + 7]]))
            }
            _ => {}
        }
    }

    fn expect_echo(&mut self, number: u16) {
        let packet = echo(ECHO_REQUEST, (OURS, THEIRS), number, &[b'x'; 500]);
        let mut next = Instant::now();
        let is_answered = self.run_until(|ours| {
            // The rest of a flood may fill a queue.
            if Instant::now() >= next {
                assert!(ours.say(&packet), "there is a session");
                next = Instant::now() + Duration::from_millis(500);
            }
            ours.answers.contains(&number)
        });
        assert!(is_answered, "echo {number}");
    }

    /// Puts our side under load for this second.
    fn load(&mut self) {
        let (initiation, from) = (stranger(OUR_KEY), SocketAddr::from(([192, 0, 2, 9], 9)));
        for _ in 0..101 {
            let _ = self.interface.receive(from, &initiation, Instant::now());
        }
    }

    /// Calls, at most once a second and in a flood, until `done`.
    fn call_in_a_flood(&mut self, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let (flood, mut next) = (stranger(THEIR_KEY), Instant::now());

        self.run_until(|ours| {
            ours.load_theirs(&flood);
            if Instant::now() >= next {
                ours.call();
                next = Instant::now() + Duration::from_secs(1);
            }
            done(ours)
        })
    }

    /// Puts the other side under load: one initiation, sent many times.
    fn load_theirs(&mut self, initiation: &[u8]) {
        for _ in 0..FLOOD {
            // A full queue on the way is load as well.
            let _ = self.socket.send_to(initiation, self.to);
        }
    }
}

/// Returns an initiation by somebody whom the holder of the key does not know.
fn stranger(to: [u8; 32]) -> Datagram {
    let now = Instant::now();
    let mut stranger =
        Interface::new(&[0x44; 32].into(), &rand::random(), now, Duration::from_secs(1));
    let tunnel = stranger.new_tunnel(&public(to), PresharedKey::default(), now);

    tunnel.expect("a good key").initiate(now).expect("an initiation")
}

/// Makes a lab with `stock` on host 1 and our protocol on host 0; returns `None` with a message if
/// that is not possible.
fn against(
    stock: Stock,
    it_calls: bool,
    preshared: Option<[u8; 32]>,
) -> Option<(Lab, Running, Ours)> {
    let (lab, running) = pair_of(stock, it_calls)?;
    if let Some(key) = preshared {
        let hex = |key: &[u8; 32]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let ours = hex(public(OUR_KEY).as_bytes());
        let endpoint = it_calls.then(|| format!("endpoint={}:{PORT}\n", lab.host(0).address()));
        // boringtun cannot set a preshared key for an existing peer.
        let request = format!(
            "set=1\nreplace_peers=true\npublic_key={ours}\npreshared_key={}\n{}allowed_ip=10.9.0.0/24\n\n",
            hex(&key),
            endpoint.unwrap_or_default(),
        );
        let uapi = lab.host(1).command("overlay-lab").args(["uapi", stock.interface()]);
        let uapi = uapi.input(&request).expect("it takes input");
        uapi.run().expect("it takes the preshared key");
    }
    let to = (lab.host(1).address(), PORT).into();
    let preshared = preshared.map_or_else(PresharedKey::default, PresharedKey::from);
    let ours = Ours::new(lab.host(0), to, preshared);

    Some((lab, running, ours))
}

fn a_preshared_key_is_agreed_on(stock: Stock) {
    let Some((_lab, _running, mut ours)) = against(stock, false, Some(PRESHARED)) else { return };

    ours.call();
    assert!(ours.run_until(|ours| ours.tunnel.session_age(Instant::now()).is_some()), "a session");
    (1..=10).for_each(|number| ours.expect_echo(number));
}

/// Makes the other host send through the tunnel.
fn ping(lab: &Lab) -> Running {
    let ping = ["ping", "--count=20", "--interval-ms=200", "--size=500", OURS];
    lab.host(1).command("overlay-lab").args(ping).spawn().expect("the ping runs")
}

fn it_mixes_in_the_preshared_key(stock: Stock) {
    let Some((lab, _running, mut ours)) = against(stock, true, Some(PRESHARED)) else { return };

    let _ping = ping(&lab);
    assert!(ours.run_until(|ours| ours.tunnel.session_age(Instant::now()).is_some()), "a session");
    (1..=10).for_each(|number| ours.expect_echo(number));
}

fn it_shows_our_cookie(stock: Stock) {
    let Some((lab, _running, mut ours)) = against(stock, true, None) else { return };

    let _ping = ping(&lab);
    let is_connected = ours.run_until(|ours| {
        ours.load();
        ours.called > 0 && ours.tunnel.session_age(Instant::now()).is_some()
    });

    assert!(is_connected, "it tries again with the cookie");
    assert!(ours.made > 0, "the first time it had none");
    ours.expect_echo(1);
}

fn we_show_its_cookie(stock: Stock) {
    let Some((_lab, _running, mut ours)) = against(stock, false, None) else { return };

    assert!(ours.call_in_a_flood(|ours| ours.met > 0), "it demands a cookie");
    let before = ours.completed;
    assert!(ours.call_in_a_flood(|ours| ours.completed > before), "it takes its cookie");

    // Nothing tells what was lost in the flood.
    let mut next = Instant::now();
    let packet = echo(ECHO_REQUEST, (OURS, THEIRS), 1, &[b'x'; 500]);
    let is_answered = ours.run_until(|ours| {
        if Instant::now() >= next {
            ours.call();
            ours.say(&packet);
            next = Instant::now() + Duration::from_secs(1);
        }
        ours.answers.contains(&1)
    });
    assert!(is_answered, "packets flow");
}

#[test]
fn wireguard_go_agrees_on_a_preshared_key() {
    a_preshared_key_is_agreed_on(Stock::WireguardGo);
}

#[test]
fn wireguard_go_mixes_in_the_preshared_key() {
    it_mixes_in_the_preshared_key(Stock::WireguardGo);
}

#[test]
fn wireguard_go_shows_our_cookie() {
    it_shows_our_cookie(Stock::WireguardGo);
}

#[test]
fn we_show_the_cookie_of_wireguard_go() {
    we_show_its_cookie(Stock::WireguardGo);
}

#[test]
fn boringtun_agrees_on_a_preshared_key() {
    a_preshared_key_is_agreed_on(Stock::Boringtun);
}

#[test]
fn boringtun_mixes_in_the_preshared_key() {
    it_mixes_in_the_preshared_key(Stock::Boringtun);
}

#[test]
fn boringtun_shows_our_cookie() {
    it_shows_our_cookie(Stock::Boringtun);
}

#[test]
fn we_show_the_cookie_of_boringtun() {
    we_show_its_cookie(Stock::Boringtun);
}
