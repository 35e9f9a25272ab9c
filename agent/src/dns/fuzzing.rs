//! What containers ask, what resolvers answer, and what a host's `resolv.conf` may say, for
//! fuzzers.

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::RecordType;
use overlay_core::View;

use super::answer::{Disposition, Question, Transport};
use super::resolvers;
use super::testing::{blue, judged, query};

/// The id of our question.
const ID: u16 = 0x0C0C;

/// A small membership.
pub(crate) fn view() -> View {
    blue().view()
}

/// Judges a query of a container; the first byte says how it came.
///
/// # Panics
///
/// When what it is answered, or what is asked elsewhere for it, is no sound message of the right
/// size.
pub fn dns_queries(bytes: &[u8]) {
    let Some((&way, query)) = bytes.split_first() else { return };
    let transport = if way % 2 == 0 { Transport::Udp } else { Transport::Tcp };
    let most = if transport == Transport::Udp { 1232 } else { usize::from(u16::MAX) };
    match judged(query, transport) {
        Disposition::Silence => {}
        Disposition::Reply(reply) => {
            assert!(reply.len() <= most);
            assert_eq!(reply[..2], query[..2], "another id");
            let reply = Message::from_vec(&reply).expect("a sound answer");
            assert_eq!(reply.metadata.message_type, MessageType::Response);
        }
        Disposition::Elsewhere(question) | Disposition::Unsettled(question) => {
            let reply = question.unanswered(ResponseCode::NXDomain);
            assert!(reply.len() <= most);
        }
        Disposition::Forward(question) => {
            let asked = question.ask(ID);
            let asked = Message::from_vec(&asked).expect("a sound question");
            assert_eq!((asked.metadata.id, asked.metadata.message_type), (ID, MessageType::Query));
        }
    }
}

fn question(transport: Transport) -> Box<Question> {
    let message = query("example.com.", RecordType::A);
    let judged = judged(&message.to_vec().expect("encodes"), transport);
    let Disposition::Forward(question) = judged else {
        panic!("nobody here knows the name, but: {judged:?}")
    };

    question
}

/// Takes what a resolver answers; the first byte says how the question came.
///
/// # Panics
///
/// When the client would get something that is too large or no answer to its question.
pub fn dns_answers(bytes: &[u8]) {
    let Some((&way, answer)) = bytes.split_first() else { return };
    let transport = if way % 2 == 0 { Transport::Udp } else { Transport::Tcp };
    if let Some(relayed) = question(transport).relay(ID, answer.to_vec()) {
        assert!(
            transport == Transport::Tcp || relayed.bytes.len() <= 512,
            "the client takes no more"
        );
        assert_eq!(relayed.bytes[..2], 4711_u16.to_be_bytes());
        assert!(relayed.bytes[2] & 0x80 != 0, "no answer");
    }
}

/// Reads a `resolv.conf`.
///
/// # Panics
///
/// When more resolvers come of it than are ever asked.
pub fn resolv_conf(bytes: &[u8]) {
    assert!(resolvers::parse(&String::from_utf8_lossy(bytes)).len() <= resolvers::MAX_RESOLVERS);
}

#[cfg(test)]
mod tests {
    use crate::corpus;

    #[test]
    fn dns_queries() {
        corpus::replay("dns_queries", super::dns_queries);
    }

    #[test]
    fn dns_answers() {
        corpus::replay("dns_answers", super::dns_answers);
    }
}
