//! How a transaction is written to the kernel: one batch of netlink messages.
//!
//! Numbers are those of `include/uapi/linux/netfilter/nf_tables.h` and `nfnetlink.h`. Attributes
//! are in network order, headers in that of the host.

use std::io;
use std::net::SocketAddrV4;

use nix::libc;

use super::ruleset::{
    Chain, ChainKind, Hook, L4Protocol, Match, Rule, Ruleset, Transaction, Verdict,
};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const GET_CHAIN: u16 = SUBSYSTEM << 8 | 4;
const GET_GENERATION: u16 = SUBSYSTEM << 8 | 16;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
pub(super) const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
const FAMILY_UNSPEC: u8 = 0;
const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;
const TABLE_F_OWNER: u32 = 0x2;
const HOOK_LOCAL_OUT: u32 = 3;
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;
const REGISTER_VERDICT: u32 = 0;
const VERDICT_RETURN: i32 = -5;
const META_MARK: u32 = 3;
const META_L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const NAT_DESTINATION: u32 = 1;

/// The messages of one transaction.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    asked: usize,
}

/// Writes a transaction; the table that it makes is owned by the socket that sends it.
pub(crate) fn encode(transaction: &Transaction<'_>) -> Batch {
    let mut batch = Batch::default();
    batch.message(BATCH_BEGIN, 0, (FAMILY_UNSPEC, SUBSYSTEM), &[]);
    if let Some(gone) = transaction.remove {
        batch.ask(DELETE_TABLE, 0, &text(1, gone.table));
    }
    batch.make(transaction.make);
    batch.message(BATCH_END, 0, (FAMILY_UNSPEC, SUBSYSTEM), &[]);

    batch
}

/// Asks for the number of the tables' present state.
pub(super) fn ask_stamp() -> Batch {
    let mut batch = Batch::default();
    batch.message(GET_GENERATION, 0, (FAMILY_UNSPEC, 0), &[]);

    batch
}

/// Finds the number of the tables' state among the attributes of an answer.
pub(super) fn stamp(attributes: &[u8]) -> Option<u32> {
    let (_, value) = read_attributes(attributes).find(|(kind, _)| *kind == 1)?;

    Some(u32::from_be_bytes(*value.first_chunk()?))
}

/// Sets an attribute of a log group; `kind` is `NFULNL_MSG_CONFIG`.
pub(super) fn set_log(kind: u16, group: u16, attribute: (u16, &[u8])) -> Batch {
    let mut batch = Batch::default();
    let (number, value) = attribute;
    batch.message(kind, NLM_F_ACK, (FAMILY_UNSPEC, group), &self::attribute(number, value));

    batch
}

/// Asks for a chain of a table of both families.
pub(super) fn ask_chain(table: &str, chain: &str) -> Batch {
    let mut batch = Batch::default();
    let names = [text(1, table), text(3, chain)].concat();
    batch.message(GET_CHAIN, 0, (FAMILY_INET, 0), &names);

    batch
}

/// Takes a table of both families away.
pub(super) fn remove_table(table: &str) -> Batch {
    remove_of(FAMILY_INET, table)
}

/// Takes the tables of this name away, whatever their families; none is as good.
pub(super) fn remove_tables(table: &str) -> Batch {
    remove_of(FAMILY_UNSPEC, table)
}

fn remove_of(family: u8, table: &str) -> Batch {
    let mut batch = Batch::default();
    batch.message(BATCH_BEGIN, 0, (FAMILY_UNSPEC, SUBSYSTEM), &[]);
    batch.message(DELETE_TABLE, NLM_F_ACK, (family, 0), &text(1, table));
    batch.message(BATCH_END, 0, (FAMILY_UNSPEC, SUBSYSTEM), &[]);

    batch
}

/// Reads a message's header: returns its length, its kind, and what follows.
pub(super) fn header(bytes: &[u8]) -> Option<(usize, u16, &[u8])> {
    let len = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);

    Some((len.max(16), kind, bytes.get(16..len)?))
}

/// Returns whether a message acknowledges a request; a refusal is an error.
pub(super) fn is_acknowledgement(kind: u16, body: &[u8]) -> io::Result<bool> {
    if kind != NLMSG_ERROR {
        return Ok(false);
    }
    match body.first_chunk().map_or(-libc::EPROTO, |code| i32::from_ne_bytes(*code)) {
        0 => Ok(true),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

/// Reads attributes, each with its kind, as far as they are whole.
pub(super) fn read_attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();

        Some((kind, value))
    })
}

impl Batch {
    /// Returns what is sent.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns how many of the messages the kernel acknowledges.
    pub(super) fn asked(&self) -> usize {
        self.asked
    }

    fn make(&mut self, ruleset: &Ruleset) {
        let table = [text(1, ruleset.table), number(2, TABLE_F_OWNER)].concat();
        self.ask(NEW_TABLE, NLM_F_CREATE, &table);
        for chain in &ruleset.chains {
            self.chain(ruleset.table, chain);
            for rule in &chain.rules {
                self.rule(ruleset.table, chain.name, rule);
            }
        }
    }

    fn chain(&mut self, table: &str, chain: &Chain) {
        let priority = number(2, chain.priority.cast_unsigned());
        let hook = [number(1, hook_number(chain.hook)), priority].concat();
        let kind = text(7, kind_name(chain.kind));
        let chain = [text(1, table), text(3, chain.name), nested(4, &hook), kind];
        self.ask(NEW_CHAIN, NLM_F_CREATE, &chain.concat());
    }

    fn rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        let matches = rule.matches.iter().flat_map(expressions);
        let list: Vec<u8> =
            matches.chain(verdict(rule.verdict)).flat_map(|one| nested(1, &one)).collect();
        let rule = [text(1, table), text(2, chain), nested(4, &list)].concat();
        self.ask(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, &rule);
    }

    fn ask(&mut self, kind: u16, flags: u16, attributes: &[u8]) {
        self.message(kind, flags | NLM_F_ACK, (FAMILY_IPV4, 0), attributes);
        self.asked += 1;
    }

    fn message(&mut self, kind: u16, flags: u16, (family, resource): (u8, u16), attributes: &[u8]) {
        let len = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
        self.bytes.extend(len.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(attributes);
        self.sequence += 1;
    }
}

/// Writes a match: what is loaded into a register, and what it must equal.
fn expressions(wanted: &Match) -> [Vec<u8>; 2] {
    match wanted {
        Match::Mark(mark) => [meta(META_MARK), equals(&mark.to_ne_bytes())],
        Match::Protocol(protocol) => [meta(META_L4PROTO), equals(&[protocol_number(*protocol)])],
        Match::Destination(address) => [payload(NETWORK_HEADER, 16, 4), equals(&address.octets())],
        Match::DestinationPort(port) => {
            [payload(TRANSPORT_HEADER, 2, 2), equals(&port.to_be_bytes())]
        }
    }
}

fn verdict(verdict: Verdict) -> Vec<Vec<u8>> {
    match verdict {
        Verdict::Return => vec![decide(VERDICT_RETURN)],
        Verdict::Dnat(to) => translate(to),
    }
}

const fn kind_name(kind: ChainKind) -> &'static str {
    match kind {
        ChainKind::Nat => "nat",
    }
}

const fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Output => HOOK_LOCAL_OUT,
    }
}

const fn protocol_number(protocol: L4Protocol) -> u8 {
    match protocol {
        L4Protocol::Tcp => 6,
        L4Protocol::Udp => 17,
    }
}

fn meta(key: u32) -> Vec<u8> {
    expression("meta", &[number(2, key), number(1, REGISTER_1)])
}

fn payload(base: u32, offset: u32, len: u32) -> Vec<u8> {
    expression(
        "payload",
        &[number(1, REGISTER_1), number(2, base), number(3, offset), number(4, len)],
    )
}

fn equals(value: &[u8]) -> Vec<u8> {
    expression("cmp", &[number(1, REGISTER_1), number(2, 0), nested(3, &attribute(1, value))])
}

fn immediate(register: u32, value: &[u8]) -> Vec<u8> {
    expression("immediate", &[number(1, register), nested(2, &attribute(1, value))])
}

fn decide(code: i32) -> Vec<u8> {
    let verdict = nested(2, &number(1, code.cast_unsigned()));

    expression("immediate", &[number(1, REGISTER_VERDICT), nested(2, &verdict)])
}

fn translate(to: SocketAddrV4) -> Vec<Vec<u8>> {
    let family = number(2, u32::from(FAMILY_IPV4));
    let nat = [number(1, NAT_DESTINATION), family, number(3, REGISTER_1), number(5, REGISTER_2)];

    vec![
        immediate(REGISTER_1, &to.ip().octets()),
        immediate(REGISTER_2, &to.port().to_be_bytes()),
        expression("nat", &nat),
    ]
}

/// Writes an attribute, padded.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);

    bytes
}

fn nested(kind: u16, attributes: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, attributes)
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    [text(1, name), nested(2, &data.concat())].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table whose chain has some rules.
    fn with_rules(table: &'static str, count: usize) -> Ruleset {
        let rule = Rule { matches: vec![Match::Mark(1)], verdict: Verdict::Return };
        let chain = Chain {
            name: "names",
            kind: ChainKind::Nat,
            hook: Hook::Output,
            priority: -110,
            rules: vec![rule; count],
        };

        Ruleset { table, chains: vec![chain] }
    }

    fn kinds(batch: &Batch) -> Vec<u16> {
        let (mut rest, mut kinds) = (batch.bytes(), Vec::new());
        while let Some((len, kind, _)) = header(rest) {
            kinds.push(kind);
            assert_eq!(len % 4, 0);
            rest = &rest[len..];
        }
        assert!(rest.is_empty());

        kinds
    }

    #[test]
    fn messages_follow_each_other_without_gaps() {
        let batch = encode(&Transaction { remove: None, make: &with_rules("overlay", 3) });

        assert_eq!(
            kinds(&batch),
            [BATCH_BEGIN, NEW_TABLE, NEW_CHAIN, NEW_RULE, NEW_RULE, NEW_RULE, BATCH_END]
        );
        assert_eq!(batch.asked(), 5);
    }

    #[test]
    fn the_table_before_goes_in_the_transaction_that_makes_the_next() {
        let (before, after) = (with_rules("before", 2), with_rules("after", 1));

        let batch = encode(&Transaction { remove: Some(&before), make: &after });

        assert_eq!(
            kinds(&batch),
            [BATCH_BEGIN, DELETE_TABLE, NEW_TABLE, NEW_CHAIN, NEW_RULE, BATCH_END]
        );
        assert_eq!(batch.asked(), 4);
        let names = |name: &[u8]| batch.bytes().windows(name.len()).filter(|w| *w == name).count();
        assert_eq!((names(b"before\0"), names(b"after\0")), (1, 3));
    }
}
