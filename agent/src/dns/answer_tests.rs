use proptest::prelude::*;

use super::*;
use crate::dns::testing::{judged, query};

fn reply_to(message: &Message, transport: Transport) -> Message {
    let judged = judged(&message.to_vec().expect("encodes"), transport);
    let Disposition::Reply(bytes) = &judged else { panic!("no reply but {judged:?}") };

    Message::from_vec(bytes).expect("a sound answer")
}

fn code_for(message: &Message) -> ResponseCode {
    reply_to(message, Transport::Udp).metadata.response_code
}

#[test]
fn a_known_name_is_answered_with_authority_for_five_seconds() {
    let answer = reply_to(&query("Service2.", RecordType::A), Transport::Udp);

    assert_eq!(answer.metadata.id, 4711);
    assert!(
        answer.metadata.authoritative
            && answer.metadata.recursion_available
            && answer.metadata.recursion_desired
    );
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(answer.answers[0].data, RData::A(A([10, 1, 0, 2].into())));
    assert_eq!(answer.answers[0].ttl, TTL);
    assert_eq!(answer.queries[0].name().to_ascii(), "Service2.");
}

#[test]
fn an_ipv6_question_for_an_ipv4_name_is_empty_and_no_error() {
    let answer = reply_to(&query("service2.", RecordType::AAAA), Transport::Udp);

    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0));
}

#[test]
fn an_address_is_answered_with_its_name() {
    let answer = reply_to(&query("2.0.1.10.in-addr.arpa.", RecordType::PTR), Transport::Udp);

    assert_eq!(answer.answers[0].data.to_string(), "service2.blue.");
}

#[test]
fn an_unknown_name_is_asked_elsewhere() {
    let bytes = query("example.com.", RecordType::A).to_vec().expect("encodes");

    assert!(matches!(judged(&bytes, Transport::Udp), Disposition::Forward(_)));
}

#[test]
fn a_name_of_the_overlay_that_nobody_may_know_is_none_for_whoever_asks() {
    let bytes = query("DB.Nobody.Blue.", RecordType::A).to_vec().expect("encodes");
    let judged = judged(&bytes, Transport::Udp);
    let Disposition::Elsewhere(question) = judged else { panic!("asked elsewhere: {judged:?}") };

    assert_eq!(question.name(), "db.nobody.blue.");
    assert_eq!(code_for(&query("nobody.", RecordType::A)), ResponseCode::NXDomain);
    let zone = query("com.", RecordType::DS).to_vec().expect("encodes");
    assert!(matches!(
        super::super::testing::judged(&zone, Transport::Udp),
        Disposition::Forward(_)
    ));
}

#[test]
fn answers_are_never_answered() {
    let mut message = query("service2.", RecordType::A);
    message.metadata.message_type = MessageType::Response;

    assert_eq!(judged(&message.to_vec().expect("encodes"), Transport::Udp), Disposition::Silence);
}

#[test]
fn what_is_no_query_gets_the_code_that_rfc_8906_asks_for() {
    let bytes = query("service2.", RecordType::A).to_vec().expect("encodes");
    for opcode in 1..16u8 {
        let mut bytes = bytes.clone();
        bytes[2] = opcode << 3;
        let Disposition::Reply(reply) = judged(&bytes, Transport::Udp) else {
            panic!("no reply to opcode {opcode}")
        };
        assert_eq!((reply[2] >> 3 & 15, reply[3] & 15), (opcode, 4), "NOTIMP for opcode {opcode}");
    }
    for count in [0u16, 2, 65535] {
        let mut bytes = bytes.clone();
        bytes[4..6].copy_from_slice(&count.to_be_bytes());
        let Disposition::Reply(reply) = judged(&bytes, Transport::Udp) else {
            panic!("no reply to {count} questions")
        };
        assert_eq!(reply[3] & 15, 1, "FORMERR for {count} questions");
    }
}

#[test]
fn zones_anything_and_other_classes_are_refused() {
    for kind in [RecordType::ANY, RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(code_for(&query("service2.", kind)), ResponseCode::Refused, "{kind}");
    }
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code_for(&chaos), ResponseCode::Refused);
}

#[test]
fn another_version_of_edns_is_refused_and_version_0_answered_in_kind() {
    let mut message = query("service2.", RecordType::A);
    assert_eq!(reply_to(&message, Transport::Udp).edns, None);

    message.set_edns(Edns::new());
    assert_eq!(reply_to(&message, Transport::Udp).version(), 0);
    assert!(reply_to(&message, Transport::Udp).edns.is_some());

    let mut edns = Edns::new();
    edns.set_version(1);
    message.set_edns(edns);
    let answer = reply_to(&message, Transport::Udp);
    // Its number is that of BADSIG, too.
    assert_eq!((u16::from(answer.metadata.response_code), answer.version()), (16, 0));
}

#[test]
fn what_does_not_fit_is_cut_and_marked_and_comes_whole_by_tcp() {
    let mut message = query("many.", RecordType::A);
    let size = |message: &Message, transport| {
        let answer = reply_to(message, transport);
        (answer.to_vec().expect("encodes").len(), answer.answers.len(), answer.metadata.truncation)
    };

    let (len, count, truncated) = size(&message, Transport::Udp);
    assert!(truncated && count > 0 && len <= 512, "{len} bytes, {count} answers");

    message.set_edns({
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        edns
    });
    let (len, _, truncated) = size(&message, Transport::Udp);
    assert!(truncated && len > 512 && len <= 1232, "{len} bytes");

    let (_, count, truncated) = size(&message, Transport::Tcp);
    assert_eq!((count, truncated), (98, false));
}

#[test]
fn compression_that_points_at_itself_is_a_format_error() {
    let mut bytes = query("service2.", RecordType::A).to_vec().expect("encodes");
    bytes[12] = 0xC0;
    bytes[13] = 12;

    let Disposition::Reply(reply) = judged(&bytes, Transport::Udp) else { panic!("no reply") };
    assert_eq!(reply[3] & 15, 1);
}

fn question(name: &str) -> Question {
    let judged = judged(&query(name, RecordType::A).to_vec().expect("encodes"), Transport::Udp);
    let Disposition::Forward(question) = judged else { panic!("not forwarded but {judged:?}") };

    *question
}

#[test]
fn only_the_answer_to_the_very_question_is_relayed() {
    let asked = question("example.com.");
    let answer = |id, name: &str| {
        let mut message = Message::from_vec(&question(name).ask(id)).expect("a sound question");
        message.metadata.message_type = MessageType::Response;
        message.to_vec().expect("encodes")
    };

    assert!(asked.relay(7, answer(8, "example.com.")).is_none());
    assert!(asked.relay(7, answer(7, "example.org.")).is_none());
    assert!(asked.relay(7, asked.ask(7)).is_none());
    let relayed = asked.relay(7, answer(7, "EXAMPLE.com.")).expect("the answer");
    assert_eq!(relayed.bytes[..2], 4711u16.to_be_bytes());
}

proptest! {
    #[test]
    fn no_bytes_can_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = judged(&bytes, Transport::Udp);
    }

    #[test]
    fn no_damaged_query_can_make_it_panic(
        at in prop::collection::vec((0..40usize, any::<u8>()), 0..6),
        cut in 0..60usize,
        answer in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut message = query("service2.blue.", RecordType::A);
        message.set_edns(Edns::new());
        let mut bytes = message.to_vec().expect("encodes");
        for (at, value) in at {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(cut);

        if let Disposition::Forward(question) = judged(&bytes, Transport::Tcp) {
            let mut echo = question.ask(1);
            echo[2] |= 0x80;
            echo.extend(answer);
            let _ = question.relay(1, echo);
        }
    }
}
