//! Finds the process that owns a port, so that the error for "address in use" can say what to do.

use std::fmt;
use std::path::Path;

/// The process that owns a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortOwner {
    /// Its process id.
    pub pid: u32,
    /// Its short name.
    pub name: String,
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP: listeners, not connections.
    Tcp,
    /// UDP: all sockets.
    Udp,
}

/// Finds the owner of a port in this network namespace; `None` when it cannot be determined.
pub fn find(protocol: Protocol, port: u16) -> Option<PortOwner> {
    let tables = match protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let inodes: Vec<u64> = tables
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|table| inodes_of(protocol, &table, port))
        .collect();

    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        holds(&entry.path(), &inodes).then(|| PortOwner { pid, name: name_of(&entry.path()) })
    })
}

/// The state of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

fn inodes_of(protocol: Protocol, table: &str, port: u16) -> Vec<u64> {
    let suffix = format!(":{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        fields.get(1)?.ends_with(&suffix).then_some(())?;
        (protocol == Protocol::Udp || *fields.get(3)? == LISTENING).then_some(())?;
        fields.get(9)?.parse().ok()
    };

    table.lines().skip(1).filter_map(inode).collect()
}

fn holds(process: &Path, inodes: &[u64]) -> bool {
    let Ok(descriptors) = std::fs::read_dir(process.join("fd")) else { return false };

    descriptors.flatten().filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok()).any(
        |target| {
            inodes.iter().any(|inode| target.as_os_str() == format!("socket:[{inode}]").as_str())
        },
    )
}

fn name_of(process: &Path) -> String {
    let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
    let printable: String = name.trim().chars().filter(|c| !c.is_control()).collect();

    if printable.is_empty() { "a process".to_owned() } else { printable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let port = socket.local_addr().expect("an address").port();

        let holder = find(Protocol::Udp, port).expect("this process");

        assert_eq!(holder.pid, std::process::id());
    }

    #[test]
    fn a_listener_holds_a_port_and_a_connection_does_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("an address");
        let client = std::net::TcpStream::connect(address).expect("connected");
        let near = client.local_addr().expect("an address").port();

        assert_eq!(
            find(Protocol::Tcp, address.port()).map(|holder| holder.pid),
            Some(std::process::id())
        );
        assert_eq!(find(Protocol::Tcp, near), None);
    }

    #[test]
    fn only_the_local_port_counts() {
        let table = "header\n\
            1: 00000000:CA6C 00000000:0035 07 00000000:00000000 00:00000000 00000000 0 0 111 2 0 0\n\
            2: 00000000:0035 00000000:CA6C 07 00000000:00000000 00:00000000 00000000 0 0 222 2 0 0\n";

        assert_eq!(inodes_of(Protocol::Udp, table, 51820), [111]);
    }
}
