//! What becomes due, and when (§6).

use super::*;
use crate::timers::{
    KEEPALIVE_TIMEOUT, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME, REKEY_ATTEMPT_TIME,
};

#[test]
fn the_initiator_renews_a_session_that_sends_after_two_minutes() {
    for sender in 0..2 {
        let mut pair = Pair::connected();
        pair.say(0, b"packet");
        pair.say(1, b"packet");

        pair.wait(REKEY_AFTER_TIME - Duration::from_nanos(1));
        assert_eq!(pair.initiations, [0, 0]);
        pair.wait(JITTER + Duration::from_nanos(1));
        assert_eq!(pair.initiations, [1, 0]);
        assert!(pair.ages().iter().all(|age| age.is_some_and(|age| age <= JITTER)));
        pair.say(sender, b"packet");
        assert_eq!(pair.received(1 - sender).len(), 2);
    }
}

#[test]
fn a_session_that_only_receives_is_renewed_before_it_ends() {
    let mut pair = Pair::connected();
    pair.say(1, b"packet");

    pair.wait(Duration::from_secs(165) - Duration::from_nanos(1));
    assert_eq!(pair.initiations, [0, 0]);
    pair.wait(JITTER + Duration::from_nanos(1));

    assert_eq!(pair.initiations, [1, 0]);
}

#[test]
fn a_session_is_renewed_after_so_many_messages_by_whoever_sent_them() {
    for sender in 0..2 {
        let mut pair = Pair::connected();
        pair.session(sender).skip_to(REKEY_AFTER_MESSAGES - 1);

        pair.wait(SECOND);
        assert_eq!(pair.initiations, [0, 0]);
        pair.say(sender, b"the last");
        pair.wait(SECOND);

        let expected = if sender == 0 { [1, 0] } else { [0, 1] };
        assert_eq!(pair.initiations, expected);
        assert_eq!(pair.received(1 - sender).len(), 1);
        assert!(pair.ages().iter().all(|age| age.is_some_and(|age| age <= SECOND)));
    }
}

#[test]
fn the_last_counter_is_sent_and_accepted_and_no_more() {
    let mut pair = Pair::connected();
    pair.is_cut = true;
    pair.session(0).skip_to(REJECT_AFTER_MESSAGES - 1);

    let last = pair.seal(0, b"the last").expect("one more");
    assert!(pair.seal(0, b"too many").is_none());
    assert_eq!(pair.give(1, &last), Ok(()));

    for counter in [REJECT_AFTER_MESSAGES, u64::MAX - 6, u64::MAX] {
        let mut message = last.clone();
        message[8..16].copy_from_slice(&counter.to_le_bytes());
        assert_eq!(pair.give(1, &message), Err("the counter is not acceptable".to_owned()));
    }
}

#[test]
fn a_session_ends_after_three_minutes() {
    let mut pair = Pair::connected();
    let messages = [0, 1].map(|from| pair.seal(from, b"packet").expect("a session"));
    pair.is_cut = true;

    // The side that initiated stops earlier than the other.
    pair.now += REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT;
    assert!(pair.seal(0, b"packet").is_none());
    assert!(pair.seal(1, b"packet").is_some());
    pair.now += KEEPALIVE_TIMEOUT;

    assert!(pair.seal(1, b"packet").is_none());
    for (from, message) in messages.iter().enumerate() {
        assert_eq!(pair.give(1 - from, message), Err("no session".to_owned()));
    }
}

#[test]
fn packets_that_get_nothing_in_return_get_a_keepalive() {
    for sender in 0..2 {
        let mut pair = Pair::connected();
        pair.say(sender, b"packet");

        pair.wait(KEEPALIVE_TIMEOUT - Duration::from_nanos(1));
        assert_eq!(pair.keepalives, [0, 0]);
        pair.wait(SECOND);

        let mut expected = [0, 0];
        expected[1 - sender] = 1;
        assert_eq!(pair.keepalives, expected);
        // A keepalive is not answered, and shows that nothing is lost.
        pair.wait(Duration::from_secs(30));
        assert_eq!((pair.keepalives, pair.initiations), (expected, [0, 0]));
    }
}

#[test]
fn packets_in_return_are_as_good_as_keepalives() {
    let mut pair = Pair::connected();
    for _ in 0..20 {
        pair.say(0, b"question");
        pair.wait(SECOND);
        pair.say(1, b"answer");
    }

    pair.wait(KEEPALIVE_TIMEOUT - SECOND);

    assert_eq!((pair.keepalives, pair.initiations), ([0, 0], [0, 0]));
}

#[test]
fn silence_after_packets_starts_a_handshake() {
    for sender in 0..2 {
        let mut pair = Pair::connected();
        pair.is_cut = true;
        pair.say(sender, b"packet");
        pair.wait(SECOND);
        // Later packets do not delay it.
        pair.say(sender, b"packet");

        pair.wait(KEEPALIVE_TIMEOUT + REKEY_TIMEOUT - SECOND - Duration::from_nanos(1));
        assert_eq!(pair.initiations, [0, 0]);
        pair.wait(JITTER + Duration::from_nanos(1));

        let mut expected = [0, 0];
        expected[sender] = 1;
        assert_eq!(pair.initiations, expected);
    }
}

#[test]
fn only_one_side_initiates_when_silence_follows_packets_of_both() {
    let mut pair = Pair::connected();
    pair.is_cut = true;
    pair.say(0, b"packet");
    pair.say(1, b"packet");
    pair.is_cut = false;

    pair.wait(KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + JITTER);

    assert_eq!(pair.initiations.iter().sum::<usize>(), 1, "{:?}", pair.initiations);
    assert!(pair.ages().iter().all(|age| age.is_some_and(|age| age <= JITTER)));
}

#[test]
fn an_unanswered_handshake_is_tried_for_ninety_seconds() {
    let mut pair = Pair::new();
    pair.is_cut = true;
    pair.initiate(0);
    pair.carry();

    pair.wait(REKEY_ATTEMPT_TIME - Duration::from_nanos(1));
    // Every 5 to 5.333 seconds, not more often.
    assert!((16..=17).contains(&pair.initiations[0]), "{:?}", pair.initiations);
    assert!(!pair.is_over(0));
    pair.wait(JITTER);

    assert!(pair.is_over(0));
    assert_eq!(pair.refused(0), ["forgotten"]);
    assert_eq!(pair.sides[0].tunnel.poll_timeout(), None);
    assert!(pair.sides[0].tunnel.initiate_again(pair.now).is_none());
}

#[test]
fn the_time_between_tries_can_be_set() {
    let mut pair = Pair::new();
    pair.is_cut = true;
    pair.sides[0].tunnel.set_retry_time(SECOND);
    pair.initiate(0);

    pair.wait(Duration::from_secs(10));

    assert!((7..=9).contains(&pair.initiations[0]), "{:?}", pair.initiations);
}

#[test]
fn a_handshake_that_was_answered_is_not_tried_again() {
    let mut pair = Pair::connected();

    pair.wait(REKEY_ATTEMPT_TIME);

    assert_eq!((pair.initiations, pair.keepalives), ([0, 0], [0, 0]));
}

#[test]
fn a_tunnel_whose_peer_is_gone_is_forgotten() {
    for sender in 0..2 {
        let mut pair = Pair::connected();
        pair.say(sender, b"packet");
        pair.is_cut = true;

        pair.wait(REJECT_AFTER_TIME);

        assert!(pair.is_over(sender));
        assert_eq!(pair.refused(sender), ["forgotten"]);
    }
}

#[test]
fn a_tunnel_without_a_session_is_forgotten_after_nine_minutes() {
    let mut pair = Pair::new();

    pair.wait(REJECT_AFTER_TIME * 3 - Duration::from_nanos(1));
    assert!(!pair.is_over(0));
    pair.wait(SECOND);

    assert!(pair.is_over(0) && pair.is_over(1));
}
