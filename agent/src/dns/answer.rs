//! Decides how to handle a query: drop it, answer it, or forward it. Pure: bytes in, bytes out.
//!
//! Follows RFC 8906 (what a server must answer to odd queries) and RFC 6891 (EDNS).

use hickory_proto::op::{
    Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, EncodedSize};

use super::names::{Asker, Meaning, Names, RecordKind};

/// How long a client may cache an answer, in seconds: endpoints come and go.
const TTL: u32 = 5;
/// The largest UDP answer that a client accepts by default (RFC 1035, section 4.2.1).
const MIN_UDP_ANSWER: usize = 512;
/// The largest UDP answer that is ever sent: larger ones would be fragmented (DNS flag day 2020).
const MAX_UDP_ANSWER: u16 = 1232;

/// The transport of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// One datagram; the answer must fit into one, too.
    Udp,
    /// A stream; the answer may have 64 KiB.
    Tcp,
}

/// How to handle a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// Drop it: it is an answer itself, or not DNS at all.
    Silence,
    /// Reply with these bytes.
    Reply(Vec<u8>),
    /// Reply that there is no such name: it is one of the overlay's that the client may not know.
    Elsewhere(Box<Question>),
    /// Decide in a moment, when it is known whether another resolver may be asked.
    Unsettled(Box<Question>),
    /// Forward it to a resolver.
    Forward(Box<Question>),
}

impl Disposition {
    /// Tells whether it is an answer of a name that there is.
    pub(crate) fn is_found(&self) -> bool {
        let Self::Reply(reply) = self else { return false };
        let header = Header::read(&mut BinDecoder::new(reply));

        header.is_ok_and(|header| header.response_code != ResponseCode::NXDomain)
    }
}

/// A question for another resolver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    request: Message,
    transport: Transport,
}

/// Decides how to handle a query.
pub(crate) fn judge(
    bytes: &[u8],
    transport: Transport,
    asker: Asker<'_>,
    names: &Names,
    seed: u64,
) -> Disposition {
    let Ok(header) = Header::read(&mut BinDecoder::new(bytes)) else { return Disposition::Silence };
    if header.message_type == MessageType::Response {
        return Disposition::Silence;
    }
    if header.op_code != OpCode::Query {
        return refusal(&header.metadata, ResponseCode::NotImp);
    }
    if header.counts.queries != 1 {
        return refusal(&header.metadata, ResponseCode::FormErr);
    }
    let Ok(request) = Message::from_vec(bytes) else {
        return refusal(&header.metadata, ResponseCode::FormErr);
    };
    let question = Question { request, transport };
    if question.request.version() > 0 {
        return Disposition::Reply(question.reply(ResponseCode::BADVERS, Vec::new()));
    }

    question.judge(asker, names, seed)
}

impl Question {
    /// Decides how to handle this question.
    pub(crate) fn judge(self, asker: Asker<'_>, names: &Names, seed: u64) -> Disposition {
        let Some(query) = self.request.queries.first() else { return Disposition::Silence };
        let Some(kind) = kind_of(query) else {
            return Disposition::Reply(self.reply(ResponseCode::Refused, Vec::new()));
        };
        let name = query.name().to_lowercase();
        let labels: Option<Vec<&str>> =
            name.iter().map(|label| std::str::from_utf8(label).ok()).collect();
        let meaning = match labels {
            Some(labels) => names.meaning(asker, &labels, kind, seed),
            None => Meaning::Unknown,
        };
        let data = match meaning {
            Meaning::Addresses(addresses) => addresses.into_iter().map(address_data).collect(),
            Meaning::Names(names) => names.iter().filter_map(|name| pointer_data(name)).collect(),
            Meaning::Nothing => Vec::new(),
            Meaning::Nowhere => {
                return Disposition::Reply(self.reply(ResponseCode::NXDomain, Vec::new()));
            }
            Meaning::Elsewhere => return Disposition::Elsewhere(Box::new(self)),
            Meaning::Unsettled => return Disposition::Unsettled(Box::new(self)),
            Meaning::Unknown => return Disposition::Forward(Box::new(self)),
        };

        Disposition::Reply(self.reply(ResponseCode::NoError, data))
    }

    /// Returns the transport of the query.
    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    /// Returns the name that is asked for, in lower case.
    pub(crate) fn name(&self) -> String {
        self.request
            .queries
            .first()
            .map(|query| query.name().to_lowercase().to_ascii())
            .unwrap_or_default()
    }

    /// Tells whether the name has a single label; such names are not forwarded when there is no
    /// resolver.
    pub(crate) fn is_single_label(&self) -> bool {
        self.request.queries.first().is_some_and(|query| query.name().num_labels() == 1)
    }

    /// Encodes the question for a resolver: with an id of our own, and nothing from the client but
    /// the question.
    pub(crate) fn ask(&self, id: u16) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = self.request.metadata.recursion_desired;
        message.metadata.checking_disabled = self.request.metadata.checking_disabled;
        message.add_queries(self.request.queries.iter().cloned());
        if self.request.edns.is_some() {
            message.set_edns(self.edns());
        }

        message.to_vec().unwrap_or_default()
    }

    /// Converts a resolver's answer to [`Question::ask`] for the client; `None` when it answers
    /// another question.
    pub(crate) fn relay(&self, id: u16, mut answer: Vec<u8>) -> Option<Relayed> {
        let header = Header::read(&mut BinDecoder::new(&answer)).ok()?;
        let asked = self.ask(id);
        let asked = asked.get(Header::LEN..)?;
        let question = asked.get(..self.question_len()?)?;
        let same = header.message_type == MessageType::Response
            && header.id == id
            && header.counts.queries == 1
            && answer.get(Header::LEN..)?.get(..question.len())?.eq_ignore_ascii_case(question);
        if !same {
            return None;
        }
        answer.get_mut(..2)?.copy_from_slice(&self.request.metadata.id.to_be_bytes());
        let truncated = header.truncation;
        if answer.len() > self.limit() {
            answer = self.truncated();
        }

        Some(Relayed { bytes: answer, truncated, failed: is_failure(header.response_code) })
    }

    /// Encodes the answer to a question that could not be forwarded.
    pub(crate) fn unanswered(&self, code: ResponseCode) -> Vec<u8> {
        self.reply(code, Vec::new())
    }

    fn reply(&self, code: ResponseCode, data: Vec<RData>) -> Vec<u8> {
        let mut message = self.response(code);
        let owner =
            self.request.queries.first().map(|query| query.name().clone()).unwrap_or_default();
        message.metadata.authoritative =
            matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        message
            .add_answers(data.into_iter().map(|data| Record::from_rdata(owner.clone(), TTL, data)));
        let mut bytes = message.to_vec().unwrap_or_default();
        while bytes.len() > self.limit() && !message.answers.is_empty() {
            // What fits is still useful for clients that never retry over TCP.
            message.metadata.truncation = true;
            let excess = (bytes.len() - self.limit()).div_ceil(SMALLEST_RECORD * 2);
            message.answers.truncate(message.answers.len().saturating_sub(excess.max(1)));
            bytes = message.to_vec().unwrap_or_default();
        }

        bytes
    }

    fn truncated(&self) -> Vec<u8> {
        let mut message = self.response(ResponseCode::NoError);
        message.metadata.truncation = true;

        message.to_vec().unwrap_or_default()
    }

    fn response(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.request.metadata.id, OpCode::Query);
        message.metadata = Metadata::response_from_request(&self.request.metadata);
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_queries(self.request.queries.iter().cloned());
        if self.request.edns.is_some() {
            let mut edns = self.edns();
            edns.set_rcode_high(code.high());
            edns.set_max_payload(MAX_UDP_ANSWER);
            message.set_edns(edns);
        }

        message
    }

    fn edns(&self) -> Edns {
        let mut edns = Edns::new();
        edns.set_max_payload(self.request.max_payload().min(MAX_UDP_ANSWER));
        edns.set_version(0);
        edns.set_dnssec_ok(self.request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok));

        edns
    }

    fn limit(&self) -> usize {
        match self.transport {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp => {
                usize::from(self.request.max_payload().min(MAX_UDP_ANSWER)).max(MIN_UDP_ANSWER)
            }
        }
    }

    /// The length of the question section: name, type, class.
    fn question_len(&self) -> Option<usize> {
        let mut bare = Message::new(0, MessageType::Query, OpCode::Query);
        bare.add_queries(self.request.queries.iter().cloned());

        bare.to_vec().ok()?.len().checked_sub(Header::LEN)
    }
}

/// An address record with a compressed name.
const SMALLEST_RECORD: usize = 16;

/// A resolver's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relayed {
    /// The answer for the client.
    pub(crate) bytes: Vec<u8>,
    /// Whether it is truncated.
    pub(crate) truncated: bool,
    /// Whether the resolver failed or refused; another one may answer.
    pub(crate) failed: bool,
}

/// Encodes a bare refusal: only the header, because the rest could not be parsed or is not
/// understood.
fn refusal(request: &Metadata, code: ResponseCode) -> Disposition {
    let mut message = Message::response(request.id, request.op_code);
    message.metadata = Metadata::response_from_request(request);
    message.metadata.response_code = code;

    message.to_vec().map_or(Disposition::Silence, Disposition::Reply)
}

/// Classifies a question; `None` for those that are refused: zone transfers, "any", other classes
/// and other opcodes.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every type but these has nothing to say about a container"
)]
fn kind_of(query: &Query) -> Option<RecordKind> {
    if query.query_class() != DNSClass::IN {
        return None;
    }

    match query.query_type() {
        RecordType::A => Some(RecordKind::A),
        RecordType::AAAA => Some(RecordKind::Aaaa),
        RecordType::PTR => Some(RecordKind::Ptr),
        RecordType::NS | RecordType::SOA | RecordType::DS | RecordType::DNSKEY => {
            Some(RecordKind::Zone)
        }
        RecordType::ANY
        | RecordType::AXFR
        | RecordType::IXFR
        | RecordType::OPT
        | RecordType::TSIG => None,
        _ => Some(RecordKind::Other),
    }
}

fn is_failure(code: ResponseCode) -> bool {
    matches!(
        code,
        ResponseCode::ServFail
            | ResponseCode::Refused
            | ResponseCode::NotImp
            | ResponseCode::FormErr
    )
}

fn address_data(address: std::net::IpAddr) -> RData {
    match address {
        std::net::IpAddr::V4(v4) => RData::A(A(v4)),
        std::net::IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

fn pointer_data(name: &str) -> Option<RData> {
    let name = Name::from_labels(name.split('.').map(str::as_bytes)).ok()?;

    Some(RData::PTR(PTR(name)))
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
