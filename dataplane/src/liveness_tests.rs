use super::*;
use crate::sim::start;

fn at(millis: u64) -> Instant {
    start() + Duration::from_millis(millis)
}

/// Performs everything that falls due before `until`.
fn run(life: &mut Liveness, until: Instant) -> Vec<(Duration, Due)> {
    let mut all = Vec::new();
    while let Some(next) = life.poll_timeout(|| true).filter(|next| *next <= until) {
        all.push((next - start(), life.handle_timeout(true, next)));
        assert!(
            life.poll_timeout(|| true).is_none_or(|at| at > next),
            "a handled timeout is still due"
        );
    }
    all
}

fn echo(kind: EchoKind, heard_ago: Option<Duration>) -> Echo {
    Echo { kind, sent_micros: 0, heard_ago, loss: None, seen_at: None, sent: 1, notices: None }
}

#[test]
fn nothing_is_asked_of_those_who_are_heard_or_not_wanted() {
    let mut life = Liveness::new(start());
    assert_eq!(life.poll_timeout(|| true), None);

    for tick in 0..100 {
        life.note_wanted(at(tick * 100));
        life.note_heard(false, at(tick * 100 + 50));
        assert_eq!(life.poll_timeout(|| true), None);
    }
}

#[test]
fn a_peer_is_asked_then_called_then_silent_then_given_up() {
    let mut life = Liveness::new(start());
    life.note_wanted(start());

    let all = run(&mut life, at(400_000));

    let first = |which: fn(&Due) -> bool| {
        all.iter().find(|(_, due)| which(due)).expect("at some time").0.as_millis()
    };
    assert_eq!(first(|due| due.ask), 2_000);
    assert_eq!(first(|due| due.call), 3_000);
    assert_eq!(first(|due| due.is_silent), 5_000);
    assert_eq!(first(|due| due.is_over), 181_000);
    assert!(all.len() < 150, "{}", all.len());
    assert!(!life.is_silent() && life.poll_timeout(|| true).is_none());
}

#[test]
fn a_process_that_was_stopped_asks_before_it_accuses() {
    let mut life = Liveness::new(start());
    life.note_wanted(start());

    let due = life.handle_timeout(true, at(60_000));

    assert!(due.ask && !due.is_silent, "{due:?}");
}

#[test]
fn who_knows_no_echoes_has_the_time_that_wireguard_gives() {
    let mut life = Liveness::new(start());
    life.note_heard(true, start());
    run(&mut life, at(1_000));
    life.note_heard(false, at(1_000));
    run(&mut life, at(10_000));
    assert_eq!(life.speaks, Speaks::No);

    life.note_wanted(at(10_000));

    let all = run(&mut life, at(25_000));
    assert!(all.iter().all(|(_, due)| !due.ask), "{all:?}");
    assert_eq!(all.first().map(|(when, due)| (when.as_secs(), due.call)), Some((21, true)));
    assert!(all.iter().any(|(when, due)| due.is_silent && when.as_millis() == 24_000), "{all:?}");
}

#[test]
fn a_peer_is_deaf_when_it_never_hears_the_first_answer() {
    let mut life = Liveness::new(start());
    let ago = |millis| Some(Duration::from_millis(millis));

    for tick in 0..6 {
        let now = tick * 500;
        life.handle_echo(&echo(EchoKind::Request, ago(2_000 + now)), at(now));
    }
    assert_eq!(life.deaf_since(at(2_500)), Some(start()));

    life.handle_echo(&echo(EchoKind::Request, ago(20)), at(3_000));
    assert_eq!(life.deaf_since(at(3_000)), None);
}

#[test]
fn requests_that_are_answered_now_and_then_prove_nothing() {
    let mut life = Liveness::new(start());
    for tick in 0..100 {
        // It heard the answer before the last one.
        life.handle_echo(
            &echo(EchoKind::Request, Some(Duration::from_millis(700))),
            at(tick * 500),
        );
        assert_eq!(life.deaf_since(at(tick * 500)), None);
    }
}

#[test]
fn what_waited_in_a_buffer_proves_nothing() {
    let mut life = Liveness::new(start());
    for age in 0..60 {
        life.handle_echo(&echo(EchoKind::Request, Some(Duration::from_secs(age + 2))), at(0));
    }

    assert_eq!(life.deaf_since(at(3_000)), None);
}

#[test]
fn handshakes_that_are_not_confirmed_make_a_deaf_peer_and_a_new_session_a_hearing_one() {
    let mut life = Liveness::new(start());
    for tick in 0..5 {
        life.note_called(at(tick * 1_000));
    }
    assert!(life.deaf_since(at(4_000)).is_some() && life.is_in_doubt());

    life.note_session(Duration::from_secs(100), at(4_000));
    assert!(life.deaf_since(at(4_000)).is_some(), "an older session proves nothing");
    life.note_session(Duration::from_millis(500), at(4_000));
    assert!(life.deaf_since(at(4_000)).is_none());
}

#[test]
fn a_translation_is_kept_open_until_there_is_none() {
    let mut life = Liveness::new(start());
    life.keep_open(true, start());
    life.keep_open(true, at(5_000));

    let all = run(&mut life, at(60_000));
    assert!(all.iter().filter(|(_, due)| due.ask).count() >= 2, "{all:?}");

    life.keep_open(false, at(60_000));
    assert!(run(&mut life, at(600_000)).len() <= 2);
}

#[test]
fn a_receiver_asks_when_a_stream_pauses_unless_its_sender_did() {
    let mut life = Liveness::new(start());
    let receive = |life: &mut Liveness, now| {
        life.note_heard(false, now);
        life.note_fed(now);
    };
    receive(&mut life, start());
    assert_eq!(life.poll_timeout(|| true), None, "whether it knows echoes is not known");
    life.handle_echo(&echo(EchoKind::Answer, None), start());
    receive(&mut life, at(1_000));

    life.note_heard(false, at(3_000));
    life.handle_echo(&echo(EchoKind::Request, None), at(3_000));
    assert_eq!(life.poll_timeout(|| true), None, "the sender asked");
    receive(&mut life, at(4_000));
    assert_eq!(life.poll_timeout(|| true), Some(at(7_000)));
    let asked = run(&mut life, at(7_000));
    assert!(matches!(asked.as_slice(), [(_, Due { ask: true, is_silent: false, .. })]));
    life.note_heard(false, at(7_001));
    life.handle_echo(&echo(EchoKind::Answer, None), at(7_001));
    assert_eq!(life.poll_timeout(|| true), None, "it was answered");

    receive(&mut life, at(8_000));
    let all = run(&mut life, at(400_000));
    let silent = all.iter().find(|(_, due)| due.is_silent).map(|(when, _)| when.as_millis());
    assert_eq!(silent, Some(13_000));
    assert!(!life.is_silent() && life.poll_timeout(|| true).is_none(), "it is given up");
}
