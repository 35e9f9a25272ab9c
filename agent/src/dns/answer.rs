//! What a query deserves: silence, an answer, or a question to somebody else. Pure: bytes in, bytes out.
//!
//! Follows RFC 8906 (what a server must answer to odd queries) and RFC 6891 (EDNS).

use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, EncodedSize};

use super::names::{Asker, Kind, Meaning, Names};

/// Seconds a client may keep an answer: endpoints come and go.
const TTL: u32 = 5;
/// What a client takes over UDP unless it says otherwise (RFC 1035, section 4.2.1).
const MIN_UDP_ANSWER: usize = 512;
/// The largest UDP answer we send whatever the client takes: larger ones would be fragmented (DNS flag day 2020).
const MAX_UDP_ANSWER: u16 = 1232;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// In one datagram; the answer must fit in one.
    Udp,
    /// On a stream; the answer may have 64 KiB.
    Tcp,
}

/// What a query deserves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing: it is an answer itself, or no DNS at all.
    Silence,
    /// These bytes.
    Reply(Vec<u8>),
    /// To be asked elsewhere.
    Forward(Box<Question>),
}

/// A question that is none of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    request: Message,
    transport: Transport,
}

/// Judges a query.
pub(crate) fn judge(bytes: &[u8], transport: Transport, asker: Asker<'_>, names: &Names, seed: u64) -> Verdict {
    let Ok(header) = Header::read(&mut BinDecoder::new(bytes)) else { return Verdict::Silence };
    if header.message_type == MessageType::Response {
        return Verdict::Silence;
    }
    if header.op_code != OpCode::Query {
        return refusal(&header.metadata, ResponseCode::NotImp);
    }
    if header.counts.queries != 1 {
        return refusal(&header.metadata, ResponseCode::FormErr);
    }
    let Ok(request) = Message::from_vec(bytes) else { return refusal(&header.metadata, ResponseCode::FormErr) };
    let question = Question { request, transport };
    if question.request.version() > 0 {
        return Verdict::Reply(question.reply(ResponseCode::BADVERS, Vec::new()));
    }

    question.judge(asker, names, seed)
}

impl Question {
    fn judge(self, asker: Asker<'_>, names: &Names, seed: u64) -> Verdict {
        let Some(query) = self.request.queries.first() else { return Verdict::Silence };
        let Some(kind) = kind_of(query) else { return Verdict::Reply(self.reply(ResponseCode::Refused, Vec::new())) };
        let name = query.name().to_lowercase();
        let labels: Option<Vec<&str>> = name.iter().map(|label| std::str::from_utf8(label).ok()).collect();
        let meaning = match labels {
            Some(labels) => names.meaning(asker, &labels, kind, seed),
            None => Meaning::Unknown,
        };
        let data = match meaning {
            Meaning::Addresses(addresses) => addresses.into_iter().map(address_data).collect(),
            Meaning::Names(names) => names.iter().filter_map(|name| pointer_data(name)).collect(),
            Meaning::Nothing => Vec::new(),
            Meaning::Nowhere => return Verdict::Reply(self.reply(ResponseCode::NXDomain, Vec::new())),
            Meaning::Unknown => return Verdict::Forward(Box::new(self)),
        };

        Verdict::Reply(self.reply(ResponseCode::NoError, data))
    }

    /// Returns the transport the query came by.
    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    /// Tells whether the name has one label: nobody outside is asked for such when there is nobody to ask.
    pub(crate) fn is_single_label(&self) -> bool {
        self.request.queries.first().is_some_and(|query| query.name().num_labels() == 1)
    }

    /// Writes the question as we ask it elsewhere: with an id of our own, and nothing of the client but what it asks.
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

    /// Turns what came back for [`Question::ask`] into the answer for the client; `None` when it answers something else.
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

    /// Writes the answer for a question that could not be asked.
    pub(crate) fn unanswered(&self, code: ResponseCode) -> Vec<u8> {
        self.reply(code, Vec::new())
    }

    fn reply(&self, code: ResponseCode, data: Vec<RData>) -> Vec<u8> {
        let mut message = self.response(code);
        let owner = self.request.queries.first().map(|query| query.name().clone()).unwrap_or_default();
        message.metadata.authoritative = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        message.add_answers(data.into_iter().map(|data| Record::from_rdata(owner.clone(), TTL, data)));
        let mut bytes = message.to_vec().unwrap_or_default();
        while bytes.len() > self.limit() && !message.answers.is_empty() {
            // What fits is still of use to clients that never ask again by TCP.
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
            Transport::Udp => usize::from(self.request.max_payload().min(MAX_UDP_ANSWER)).max(MIN_UDP_ANSWER),
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

/// An answer from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relayed {
    /// For the client.
    pub(crate) bytes: Vec<u8>,
    /// It is not whole.
    pub(crate) truncated: bool,
    /// The resolver could not or would not answer; another may.
    pub(crate) failed: bool,
}

/// Writes a bare refusal: the header alone, because the rest could not be read or is not understood.
fn refusal(request: &Metadata, code: ResponseCode) -> Verdict {
    let mut message = Message::response(request.id, request.op_code);
    message.metadata = Metadata::response_from_request(request);
    message.metadata.response_code = code;

    message.to_vec().map_or(Verdict::Silence, Verdict::Reply)
}

/// Sorts questions; `None` for those we refuse: whole zones, "any", other classes and what is no question.
#[expect(clippy::wildcard_enum_match_arm, reason = "every type but these has nothing to say about a container")]
fn kind_of(query: &Query) -> Option<Kind> {
    if query.query_class() != DNSClass::IN {
        return None;
    }

    match query.query_type() {
        RecordType::A => Some(Kind::A),
        RecordType::AAAA => Some(Kind::Aaaa),
        RecordType::PTR => Some(Kind::Ptr),
        RecordType::ANY | RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::TSIG => None,
        _ => Some(Kind::Other),
    }
}

fn is_failure(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp | ResponseCode::FormErr)
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
