//! Who is answered under load (§5.3).

use super::*;

/// Puts an interface under load for the rest of this second.
fn load(pair: &mut Pair, side: usize) {
    let mut third = interface(3, pair.now);
    let public = pair.sides[side].interface.public_key();
    let mut tunnel =
        third.new_tunnel(&public, PresharedKey::default(), pair.now).expect("a tunnel");
    let initiation = tunnel.initiate(pair.now).expect("an initiation");
    for _ in 0..101 {
        let _ = pair.sides[side].interface.receive(address(9), &initiation, pair.now);
    }
}

#[test]
fn a_cookie_is_kept_for_the_next_try() {
    let mut pair = Pair::new();
    load(&mut pair, 1);
    pair.initiate(0);
    pair.carry();
    assert_eq!(pair.ages(), [None; 2]);
    assert_eq!(pair.initiations, [0, 0]);

    // Not sooner than it would have been retried without the cookie (§6.6).
    pair.now += REKEY_TIMEOUT - SECOND;
    load(&mut pair, 1);
    pair.wait(SECOND - Duration::from_nanos(1));
    assert_eq!(pair.initiations, [0, 0]);
    load(&mut pair, 1);
    pair.wait(JITTER + Duration::from_nanos(1));

    assert_eq!(pair.initiations, [1, 0]);
    assert!(pair.ages().iter().all(Option::is_some));
    assert!(pair.sides[0].tunnel.cookies.cookie(pair.now).is_some());
    pair.wait(Duration::from_secs(120));
    assert!(pair.sides[0].tunnel.cookies.cookie(pair.now).is_none());
    assert_eq!([pair.refused(0), pair.refused(1)], [const { Vec::<String>::new() }; 2]);
}

#[test]
fn an_answer_needs_a_cookie_too() {
    let mut pair = Pair::new();
    load(&mut pair, 0);
    pair.initiate(0);
    pair.carry();
    assert_eq!(pair.ages(), [None; 2]);
    assert!(pair.sides[1].tunnel.cookies.cookie(pair.now).is_some());

    pair.wait(REKEY_TIMEOUT - SECOND);
    load(&mut pair, 0);
    pair.wait(SECOND);
    load(&mut pair, 0);
    pair.wait(JITTER);

    assert!(pair.ages().iter().all(Option::is_some));
}

#[test]
fn a_cookie_is_for_one_address_and_port() {
    let mut pair = Pair::new();
    load(&mut pair, 1);
    pair.initiate(0);
    pair.carry();
    let signed = pair.sides[0].tunnel.initiate_again(pair.now).expect("an initiation");

    let interface = &mut pair.sides[1].interface;
    let right = address(1);
    let elsewhere = [
        SocketAddr::new(right.ip(), 1),
        address(9),
        SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201], right.port())),
    ];
    for from in elsewhere {
        let message = interface.receive(from, &signed, pair.now);
        assert!(matches!(message, Ok(Message::Challenge(_))), "{from}");
    }
    assert!(matches!(interface.receive(right, &signed, pair.now), Ok(Message::Initiation(_))));
}

#[test]
fn a_cookie_is_good_for_two_minutes_at_most() {
    let mut pair = Pair::new();
    load(&mut pair, 1);
    pair.initiate(0);
    pair.carry();
    let signed = pair.sides[0].tunnel.initiate_again(pair.now).expect("an initiation");

    pair.now += Duration::from_secs(120);
    load(&mut pair, 1);
    let message = pair.sides[1].interface.receive(address(1), &signed, pair.now);

    assert!(matches!(message, Ok(Message::Challenge(_))));
}

#[test]
fn a_cookie_that_nobody_asked_for_is_refused() {
    let mut pair = Pair::new();
    load(&mut pair, 1);
    pair.initiate(0);
    let (_, initiation) = pair.wire.remove(0);
    pair.give(1, &initiation).expect("a challenge");
    let (_, reply) = pair.wire.remove(0);

    for at in 0..reply.len() {
        let mut forged = reply.clone();
        forged[at] ^= 1;
        assert!(pair.give(0, &forged).is_err(), "byte {at}");
    }
    assert_eq!(pair.give(0, &reply), Ok(()));
    assert!(pair.give(0, &reply).is_err(), "once");
}

#[test]
fn under_load_each_source_has_its_share() {
    let mut pair = Pair::new();
    load(&mut pair, 1);
    pair.initiate(0);
    pair.carry();

    let outcomes: Vec<_> = (0..20)
        .map(|_| {
            let signed = pair.sides[0].tunnel.initiate_again(pair.now).expect("an initiation");
            pair.sides[1].interface.receive(address(1), &signed, pair.now).is_ok()
        })
        .collect();

    assert_eq!(outcomes.iter().filter(|is_read| **is_read).count(), 5);
}

#[test]
fn strangers_are_not_answered_even_under_load() {
    let mut pair = Pair::new();
    load(&mut pair, 1);
    let mut third = interface(3, pair.now);
    let stranger = interface(4, pair.now).public_key();
    let mut tunnel =
        third.new_tunnel(&stranger, PresharedKey::default(), pair.now).expect("a tunnel");
    let initiation = tunnel.initiate(pair.now).expect("an initiation");

    assert_eq!(pair.give(1, &initiation), Err("mac1 is wrong".to_owned()));
    assert!(pair.wire.is_empty());
}
