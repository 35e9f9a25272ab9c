//! Why control cannot be initialised or started.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use overlay_host::port_owner::{self, Protocol};
use overlay_proto::tls::TlsError;

use crate::config::InvalidConfig;
use crate::pki::PkiError;
use crate::random::RandomError;
use crate::registry::RegistryError;
use crate::store::StoreError;

/// Why control cannot be initialised or started, in one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// The state directory holds a cluster already.
    #[error("{0} holds a cluster already; start it: overlay-control serve --state {0}")]
    Initialised(String),
    /// The state directory cannot be used.
    #[error("state directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The state directory, or a file in it, is open to others.
    #[error(
        "{0} holds the cluster's keys, and others may read or write it (mode {mode:03o}); {1} {0}",
        path.display(),
        if path.is_dir() { "chmod 700" } else { "chmod 600" }
    )]
    SharedState {
        /// The directory or file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The port cannot be listened on.
    #[error("cannot listen on {address}: {}", why_not(*address, source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// Something in the state directory is missing, damaged or in use, or cannot be made.
    #[error(transparent)]
    State(StateFailure),
    /// No connections can be encrypted.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Something ended that control cannot be without.
    #[error("{0}; restart overlay-control")]
    Broken(&'static str),
    /// The system refused an operation.
    #[error("{what}: {source}")]
    System {
        /// The operation.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
}

/// Returns why an address cannot be listened on, and what to do.
fn why_not(address: SocketAddr, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::AddrInUse {
        let holder = port_owner::find(Protocol::Tcp, address.port());
        let holder =
            holder.map_or_else(|| "another process".to_owned(), |holder| holder.to_string());
        format!("the port is in use by {holder}; choose another with --listen, or stop it")
    } else if error.kind() == io::ErrorKind::AddrNotAvailable {
        format!(
            "this host does not have the address {}; choose one that it has with --listen",
            address.ip()
        )
    } else {
        error.to_string()
    }
}

/// Why a state directory does not hold a cluster that can be served.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StateFailure(Cause);

/// The parts of control that read and write the state directory.
#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Authority(#[from] PkiError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Random(#[from] RandomError),
}

impl<E> From<E> for StartError
where
    Cause: From<E>,
{
    fn from(error: E) -> Self {
        Self::State(StateFailure(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_told_with_its_holder() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = holder.local_addr().expect("an address");
        let source = std::net::TcpListener::bind(address).expect_err("it is taken");

        let text = StartError::Listen { address, source }.to_string();

        assert!(
            text.contains(&format!("(pid {}); choose another with --listen", std::process::id())),
            "{text}"
        );
    }
}
