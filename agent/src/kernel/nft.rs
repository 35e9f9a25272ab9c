//! The one nftables rule set that we need: in a container's namespace, questions to its resolver
//! come to ours first.
//!
//! The table is owned by the netlink socket that made it (`NFT_TABLE_F_OWNER`, Linux 5.12): nobody
//! else can change or flush it, and when this process dies the kernel removes it, so that the
//! container's own resolver answers again. Numbers are those of
//! `include/uapi/linux/netfilter/nf_tables.h` and `nfnetlink.h`.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
};
use overlay_daemon::reserve::Reserve;

/// The table's name.
const TABLE: &str = "overlay";
const CHAIN: &str = "names";
/// Before Docker's own translation, which stands at -100 (`NF_IP_PRI_NAT_DST`).
const PRIORITY: i32 = -110;
/// The mark of questions that we pass on: they go to Docker's resolver as if we were not there.
pub const PASS_MARK: u32 = 0x6f76_6c01;
const DNS_PORT: u16 = 53;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NESTED: u16 = 0x8000;
const FAMILY_UNSPEC: u8 = 0;
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
/// Bytes of a netlink answer that are read; an acknowledgement has 36.
const ANSWER: usize = 4096;

/// The rules; they stand as long as this is held.
#[derive(Debug)]
pub struct Redirect {
    owner: OwnedFd,
}

impl Redirect {
    /// Leads questions that this thread's namespace asks `resolver` to `port` of the same address,
    /// over UDP and TCP, unless they carry [`PASS_MARK`]. Where file descriptors are used up, it
    /// takes one of `reserve`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses: it is older than 5.12, has no nftables, or a table of this name is
    /// there.
    pub fn install(resolver: Ipv4Addr, port: u16, reserve: &Reserve) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkNetFilter;
        let owner = reserve
            .spend(|| socket::socket(AddressFamily::Netlink, SockType::Raw, flags, protocol))?;
        socket::bind(owner.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let batch = batch(resolver, port);
        socket::send(owner.as_raw_fd(), &batch.bytes, MsgFlags::empty())?;
        let mut answers = 0;
        let mut buffer = [0; ANSWER];
        while answers < batch.asked {
            let len = socket::recv(owner.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            answers += read_answers(&buffer[..len])?;
        }

        Ok(Self { owner })
    }

    /// Holds the rules of an earlier session by the socket that owns them.
    pub(crate) fn adopt(owner: OwnedFd) -> Self {
        Self { owner }
    }

    /// Returns a further descriptor of the socket that owns the rules: they stand as long as
    /// anybody has one.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        self.owner.try_clone()
    }
}

/// Counts acknowledgements; the first refusal is an error.
fn read_answers(mut bytes: &[u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some((len, kind, body)) = header(bytes) {
        if kind == NLMSG_ERROR {
            let code =
                body.first_chunk().map(|code| i32::from_ne_bytes(*code)).unwrap_or(-libc::EPROTO);
            if code != 0 {
                return Err(io::Error::from_raw_os_error(-code));
            }
            count += 1;
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }

    Ok(count)
}

fn header(bytes: &[u8]) -> Option<(usize, u16, &[u8])> {
    let len = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);

    Some((len.max(16), kind, bytes.get(16..len)?))
}

#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    asked: usize,
}

fn batch(resolver: Ipv4Addr, port: u16) -> Batch {
    let mut batch = Batch::default();
    batch.message(BATCH_BEGIN, 0, (FAMILY_UNSPEC, SUBSYSTEM), &[]);
    let table = [text(1, TABLE), number(2, TABLE_F_OWNER)].concat();
    batch.ask(NEW_TABLE, NLM_F_CREATE, &table);
    let hook = [number(1, HOOK_LOCAL_OUT), number(2, PRIORITY.cast_unsigned())].concat();
    let chain = [text(1, TABLE), text(3, CHAIN), nested(4, &hook), text(7, "nat")].concat();
    batch.ask(NEW_CHAIN, NLM_F_CREATE, &chain);
    batch.rule(&[meta(META_MARK), equals(&PASS_MARK.to_ne_bytes()), give_back()]);
    for protocol in [libc::IPPROTO_UDP, libc::IPPROTO_TCP] {
        let protocol = protocol.to_ne_bytes()[if cfg!(target_endian = "little") { 0 } else { 3 }];
        batch.rule(&[
            meta(META_L4PROTO),
            equals(&[protocol]),
            payload(NETWORK_HEADER, 16, 4),
            equals(&resolver.octets()),
            payload(TRANSPORT_HEADER, 2, 2),
            equals(&DNS_PORT.to_be_bytes()),
            immediate(REGISTER_1, &resolver.octets()),
            immediate(REGISTER_2, &port.to_be_bytes()),
            translate(),
        ]);
    }
    batch.message(BATCH_END, 0, (FAMILY_UNSPEC, SUBSYSTEM), &[]);

    batch
}

impl Batch {
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

    fn ask(&mut self, kind: u16, flags: u16, attributes: &[u8]) {
        self.message(kind, flags | NLM_F_ACK, (FAMILY_IPV4, 0), attributes);
        self.asked += 1;
    }

    fn rule(&mut self, expressions: &[Vec<u8>]) {
        let list: Vec<u8> =
            expressions.iter().flat_map(|expression| nested(1, expression)).collect();
        let rule = [text(1, TABLE), text(2, CHAIN), nested(4, &list)].concat();
        self.ask(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, &rule);
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
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

fn give_back() -> Vec<u8> {
    let verdict = nested(2, &number(1, VERDICT_RETURN.cast_unsigned()));

    expression("immediate", &[number(1, REGISTER_VERDICT), nested(2, &verdict)])
}

fn translate() -> Vec<u8> {
    let family = number(2, u32::from(FAMILY_IPV4));

    expression(
        "nat",
        &[number(1, NAT_DESTINATION), family, number(3, REGISTER_1), number(5, REGISTER_2)],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_follow_each_other_without_gaps() {
        let batch = batch(Ipv4Addr::new(127, 0, 0, 11), 4053);
        let (mut rest, mut kinds) = (batch.bytes.as_slice(), Vec::new());

        while let Some((len, kind, _)) = header(rest) {
            kinds.push(kind);
            assert_eq!(len % 4, 0);
            rest = &rest[len..];
        }

        assert!(rest.is_empty());
        assert_eq!(
            kinds,
            [BATCH_BEGIN, NEW_TABLE, NEW_CHAIN, NEW_RULE, NEW_RULE, NEW_RULE, BATCH_END]
        );
        assert_eq!(batch.asked, 5);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_redirect_is_written_as_ever() {
        let batch = batch(Ipv4Addr::new(127, 0, 0, 11), 4053);

        let written: Vec<_> = batch
            .bytes
            .chunks(16)
            .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
            .collect();

        assert_eq!(written.join("\n"), include_str!("nft_redirect.hex").trim_end());
    }

    #[test]
    fn a_refusal_is_an_error_and_an_acknowledgement_counts() {
        let answer = |code: i32| {
            let mut bytes =
                [36u32.to_ne_bytes().as_slice(), &NLMSG_ERROR.to_ne_bytes(), &[0; 10]].concat();
            bytes.extend(code.to_ne_bytes());
            bytes.resize(36, 0);
            bytes
        };

        assert_eq!(read_answers(&[answer(0), answer(0)].concat()).expect("fine"), 2);
        let refused = read_answers(&answer(-libc::EPERM)).expect_err("refused");
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        assert_eq!(read_answers(&[1, 2, 3]).expect("nothing whole"), 0);
    }
}
