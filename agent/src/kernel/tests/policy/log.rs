//! What is logged of flows.

use std::os::fd::AsRawFd;

use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt,
};

use super::*;
use crate::kernel::nft::LOG_GROUP;

#[tokio::test]
async fn the_first_packet_of_each_flow_is_logged_with_the_rule_s_name() {
    if skipped() {
        return;
    }
    let mut shop = Shop::open(&[11, 12]).await;
    let text = WEB_TO_DB.replace("allow", "log = true\nallow");
    let deny =
        "[[rule]]\nname = \"rest\"\nfrom = \"any\"\nto = \"any\"\ndeny = \"any\"\nlog = true\n";
    shop.enforce(&policy(&format!("{text}{deny}")), &[labelled(11, "web"), labelled(12, "db")]);
    let log = shop.namespace.netns().within(Log::open).expect("a namespace");

    for address in [v4, v6] {
        let (web, db) = (shop.container(11), shop.container(12));
        let (web, db) = (web.socket(address(11)), db.socket(address(12)));
        for _packet in 0..3 {
            send(&web, address(12), "allowed").expect("a route");
            assert_eq!(receive(&db).0, "allowed");
            web.send_to(b"refused", (address(12), 9)).expect("a route");
        }
        assert_eq!([log.next(), log.next()], ["web-to-db", "rest"]);
    }
    // A flow of its own, whose packet comes after all that could have been logged before.
    let other = shop.udp(v4(11), 11, 9);
    other.send_to(b"refused", (v4(12), 9)).expect("a route");
    assert_eq!(log.next(), "rest");
    assert!(log.waiting().is_empty());
}

/// Listens to the packets that are logged in a namespace.
struct Log {
    socket: std::os::fd::OwnedFd,
    waiting: std::cell::RefCell<Vec<String>>,
}

impl Log {
    fn open() -> Self {
        let (flags, protocol) = (SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter);
        let socket = socket::socket(AddressFamily::Netlink, SockType::Raw, flags, protocol);
        let socket = socket.expect("a socket");
        socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).expect("bound");
        let timeout = nix::sys::time::TimeVal::new(5, 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).expect("set");
        let log = Self { socket, waiting: std::cell::RefCell::default() };
        // NFULNL_MSG_CONFIG with NFULNL_CFG_CMD_BIND, and then a queue of one packet
        // (NFULA_CFG_QTHRESH), so that nothing waits for a timer.
        log.configure(1, &[1]);
        log.configure(5, &1u32.to_be_bytes());

        log
    }

    /// Sends one attribute of the group's configuration.
    fn configure(&self, attribute: u16, value: &[u8]) {
        let mut body = vec![0, 0];
        body.extend(LOG_GROUP.to_be_bytes());
        let len = u16::try_from(4 + value.len()).expect("short");
        body.extend([len.to_ne_bytes(), attribute.to_ne_bytes()].concat());
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
        let mut message = u32::try_from(16 + body.len()).expect("short").to_ne_bytes().to_vec();
        // NFNL_SUBSYS_ULOG, NFULNL_MSG_CONFIG; NLM_F_REQUEST and NLM_F_ACK.
        message.extend([(4u16 << 8 | 1).to_ne_bytes(), 5u16.to_ne_bytes()].concat());
        message.extend([0; 8]);
        message.extend(body);
        socket::send(self.socket.as_raw_fd(), &message, MsgFlags::empty()).expect("sent");
        let mut answer = [0; 256];
        let len = socket::recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty());
        let code = answer[16..].first_chunk().map(|code| i32::from_ne_bytes(*code));
        assert_eq!((len.is_ok(), code), (true, Some(0)), "the group is ours");
    }

    /// Waits for the next packet's prefix.
    fn next(&self) -> String {
        if self.waiting.borrow().is_empty() {
            assert!(self.read(MsgFlags::empty()), "no packet in time");
        }

        self.waiting.borrow_mut().remove(0)
    }

    /// Returns what else was logged.
    fn waiting(&self) -> Vec<String> {
        while self.read(MsgFlags::MSG_DONTWAIT) {}

        self.waiting.take()
    }

    fn read(&self, flags: MsgFlags) -> bool {
        let mut buffer = vec![0; 1 << 16];
        let Ok(len) = socket::recv(self.socket.as_raw_fd(), &mut buffer, flags) else {
            return false;
        };
        let mut rest = &buffer[..len];
        while let Some(size) = rest.first_chunk().map(|size| u32::from_ne_bytes(*size)) {
            let size = usize::try_from(size).expect("short").max(16).min(rest.len());
            self.waiting.borrow_mut().extend(prefix(rest.get(20..size).unwrap_or_default()));
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }

        true
    }
}

/// Finds NFULA_PREFIX among the attributes of a packet.
fn prefix(mut attributes: &[u8]) -> Option<String> {
    loop {
        let len = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        if kind == 10 {
            let text = attributes.get(4..len)?.split(|byte| *byte == 0).next()?;
            return String::from_utf8(text.to_vec()).ok();
        }
        attributes = attributes.get(len.max(4).next_multiple_of(4)..)?;
    }
}
