//! `boringtun` as the other side, in virtual time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use mock_instant::MockClock;

use crate::interface::{Interface, Message};
use crate::message::Kind;
use crate::static_key::PresharedKey;
use crate::timers::{REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME, REKEY_TIMEOUT};
use crate::tunnel::tests::{address, interface, start};
use crate::tunnel::{Action, Tunnel};

const SECOND: Duration = Duration::from_secs(1);
/// The number of handshake messages per second that puts `boringtun` under load.
const CALM: u64 = 10;

/// A packet that `boringtun` accepts: complete IPv4.
fn packet(number: u8) -> Vec<u8> {
    let mut packet = vec![0; 48];
    packet[0] = 0x45;
    packet[3] = 48;
    packet[47] = number;
    packet
}

/// Our side, the other side, and the time of both.
struct Match {
    now: Instant,
    interface: Interface,
    ours: Tunnel,
    theirs: Tunn,
    limiter: Arc<RateLimiter>,
    /// The packets that came out of either side.
    received: [Vec<Vec<u8>>; 2],
    /// How many handshakes each side began.
    begun: [usize; 2],
    /// How many cookie replies each side sent.
    challenges: [usize; 2],
}

impl Match {
    fn new(preshared: Option<[u8; 32]>) -> Self {
        let mut interface = interface(1, start());
        let secret = x25519::StaticSecret::from([2; 32]);
        let public = x25519::PublicKey::from(&secret);
        let our_public = x25519::PublicKey::from(*interface.public_key().as_bytes());
        let limiter = Arc::new(RateLimiter::new(&public, CALM));
        let theirs = Tunn::new(secret, our_public, preshared, None, 7, Some(Arc::clone(&limiter)));
        let preshared = preshared.map_or_else(PresharedKey::default, PresharedKey::from);
        let ours =
            interface.new_tunnel(&public.to_bytes().into(), preshared, start()).expect("a tunnel");

        Self {
            now: start(),
            interface,
            ours,
            theirs,
            limiter,
            received: Default::default(),
            begun: [0; 2],
            challenges: [0; 2],
        }
    }

    fn connected() -> Self {
        let mut game = Self::new(None);
        game.we_call();
        game.exchange(0);
        game
    }

    fn we_call(&mut self) {
        let initiation = self.ours.initiate(self.now).expect("an initiation");
        self.give_theirs(&initiation);
    }

    fn it_calls(&mut self) {
        let mut buffer = [0; 200];
        let TunnResult::WriteToNetwork(initiation) =
            self.theirs.format_handshake_initiation(&mut buffer, false)
        else {
            panic!("no initiation")
        };
        let initiation = initiation.to_vec();
        self.give_ours(&initiation);
    }

    /// Sends a packet in each direction, and checks that both arrive.
    fn exchange(&mut self, number: u8) {
        let packet = packet(number);
        let mut message = vec![0; crate::sealed_len(packet.len())];
        assert!(self.ours.begin_seal(self.now).expect("a session").run(&packet, &mut message));
        self.give_theirs(&message);
        assert_eq!(self.received[1].pop(), Some(packet.clone()));

        let mut buffer = [0; 2000];
        let TunnResult::WriteToNetwork(message) = self.theirs.encapsulate(&packet, &mut buffer)
        else {
            panic!("no message")
        };
        let message = message.to_vec();
        self.give_ours(&message);
        assert_eq!(self.received[0].pop(), Some(packet));
    }

    fn give_ours(&mut self, datagram: &[u8]) {
        self.begun[1] += usize::from(datagram[0] == 1);
        let answer = match Kind::of(datagram).expect("a message") {
            Kind::Data(header) => {
                let mut slot = vec![0; crate::open_room(datagram.len())];
                let open = self.ours.begin_open(header, self.now).expect("a session");
                let opened = open.run(datagram, &mut slot);
                if let Some(len) = self.ours.commit(&opened, self.now).expect("authentic and new") {
                    self.received[0].push(slot[..len].to_vec());
                }
                return;
            }
            Kind::Initiation | Kind::Answer(_) => {
                match self
                    .interface
                    .receive(their_address(), datagram, self.now)
                    .expect("authentic")
                {
                    Message::Challenge(reply) => {
                        self.challenges[0] += 1;
                        reply
                    }
                    Message::Initiation(initiation) => {
                        self.ours.answer(initiation, self.now).expect("new")
                    }
                    Message::Response(response) => {
                        self.ours.complete(response, self.now).expect("asked for")
                    }
                    Message::Cookie(reply) => {
                        return self.ours.keep_cookie(&reply, self.now).expect("asked for");
                    }
                }
            }
        };
        self.give_theirs(&answer);
    }

    fn give_theirs(&mut self, datagram: &[u8]) {
        self.begun[0] += usize::from(datagram[0] == 1);
        let mut datagram = datagram.to_vec();
        loop {
            let mut buffer = [0; 2000];
            match self.theirs.decapsulate(Some(address(1).ip()), &datagram, &mut buffer) {
                TunnResult::WriteToNetwork(answer) => {
                    self.challenges[1] += usize::from(answer[0] == 3);
                    let answer = answer.to_vec();
                    self.give_ours(&answer);
                    datagram = Vec::new();
                }
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    return self.received[1].push(packet.to_vec());
                }
                TunnResult::Done => return,
                TunnResult::Err(error) => panic!("{error:?}"),
            }
        }
    }

    /// Lets time pass for both.
    fn wait(&mut self, time: Duration) {
        let step = SECOND / 4;
        for _ in 0..time.as_millis() / step.as_millis() {
            self.now += step;
            MockClock::advance(step);
            self.limiter.reset_count();
            let mut buffer = [0; 200];
            if let TunnResult::WriteToNetwork(message) = self.theirs.update_timers(&mut buffer) {
                let message = message.to_vec();
                self.give_ours(&message);
            }
            while self.ours.poll_timeout().is_some_and(|at| at <= self.now) {
                self.ours.handle_timeout(self.now);
                match self.ours.poll_action() {
                    Some(Action::Initiate(message) | Action::KeepAlive(message)) => {
                        self.give_theirs(&message)
                    }
                    Some(Action::Forget) => panic!("forgotten"),
                    None => {}
                }
            }
        }
    }
}

fn their_address() -> SocketAddr {
    address(2)
}

#[test]
fn we_call_it() {
    let mut game = Match::new(None);

    game.we_call();

    (0..100).for_each(|number| game.exchange(number));
    assert_eq!(game.begun, [1, 0]);
}

#[test]
fn it_calls_us() {
    let mut game = Match::new(None);

    game.it_calls();

    (0..100).for_each(|number| game.exchange(number));
    assert_eq!(game.begun, [0, 1]);
}

#[test]
fn a_preshared_key_is_mixed_in_where_it_mixes_it_in() {
    let call: [fn(&mut Match); 2] = [Match::we_call, Match::it_calls];
    for call in call {
        let mut game = Match::new(Some([5; 32]));
        call(&mut game);
        game.exchange(1);
    }
}

#[test]
fn whoever_called_renews_the_session() {
    let call: [fn(&mut Match); 2] = [Match::we_call, Match::it_calls];
    for (caller, call) in call.into_iter().enumerate() {
        let mut game = Match::new(None);
        call(&mut game);

        for number in 0..60 {
            game.exchange(number);
            game.wait(SECOND * 10);
            let age = game.ours.session_age(game.now).expect("a session");
            assert!(age <= REKEY_AFTER_TIME + SECOND * 10, "{age:?}");
        }

        // After each 120 s, with some tolerance for its rounding.
        assert!((5..=6).contains(&game.begun[caller]), "{:?}", game.begun);
        assert_eq!(game.begun[1 - caller], 0);
    }
}

#[test]
fn it_goes_along_when_we_renew_by_count() {
    let mut game = Match::connected();
    game.ours.skip_to(REKEY_AFTER_MESSAGES);

    game.exchange(1);
    game.wait(SECOND);

    assert_eq!(game.begun, [2, 0]);
    assert!(game.ours.session_age(game.now).is_some_and(|age| age <= SECOND));
    game.exchange(2);
}

#[test]
fn it_shows_our_cookie() {
    let mut game = Match::new(None);
    load_ours(&mut game);
    game.it_calls();
    assert_eq!(game.challenges, [1, 0]);

    let mut waited = Duration::ZERO;
    while game.ours.session_age(game.now).is_none() {
        game.wait(SECOND / 4);
        load_ours(&mut game);
        waited += SECOND / 4;
        assert!(waited < REKEY_TIMEOUT * 3);
    }

    assert_eq!(game.challenges, [1, 0], "the second one had it");
    game.exchange(1);
}

#[test]
fn we_show_its_cookie() {
    let mut game = Match::new(None);
    let load = |game: &mut Match| {
        let initiation = stranger(game.ours.peer(), game.now);
        for _ in 0..=CALM {
            let mut buffer = [0; 200];
            let _ = game.theirs.decapsulate(Some(address(9).ip()), &initiation, &mut buffer);
        }
    };
    load(&mut game);
    game.we_call();
    assert_eq!(game.challenges, [0, 1]);
    assert_eq!(game.begun, [1, 0]);

    let mut waited = Duration::ZERO;
    while game.ours.session_age(game.now).is_none() {
        // It counts load by its own clock, in whole seconds.
        load(&mut game);
        game.wait(SECOND / 4);
        waited += SECOND / 4;
        assert!(waited < REKEY_TIMEOUT * 3);
    }

    assert_eq!(game.challenges, [0, 1], "the second one had it");
    game.exchange(1);
}

/// Returns an initiation by a stranger, only to cause load.
fn stranger(to: &overlay_core::PublicKey, now: Instant) -> Vec<u8> {
    let mut third = interface(3, now);
    let mut tunnel = third.new_tunnel(to, PresharedKey::default(), now).expect("a tunnel");

    tunnel.initiate(now).expect("an initiation").to_vec()
}

fn load_ours(game: &mut Match) {
    let initiation = stranger(&game.interface.public_key(), game.now);
    for _ in 0..101 {
        let _ = game.interface.receive(address(9), &initiation, game.now);
    }
}
