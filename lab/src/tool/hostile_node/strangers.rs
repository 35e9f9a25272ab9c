//! Connections to control without a certificate: half of them never begin a handshake, the others
//! complete it and say nothing, and some try a token that does not exist.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::{StreamExt as _, stream};
use overlay_proto::v1::enrollment_client::EnrollmentClient;
use overlay_proto::{JoinLine, v1};
use overlay_traffic::signal::is_stopped;
use rcgen::{CertificateParams, KeyPair};
use tokio::net::TcpStream;
use tokio::time::{sleep_until, timeout};
use tonic::transport::Channel;

use super::Tally;
use crate::tool::enrolled_node;

/// The seconds for which connections are made at once.
const BURST: u32 = 5;
/// How many are made at a time.
const AT_ONCE: usize = 256;
/// How many are held open, unless control ends them before; then the oldest is given up.
const HELD: usize = 4_096;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// One of so many tries a token.
const TRIES: u32 = 16;

/// All connections without a certificate.
pub(super) struct Strangers {
    pub(super) line: JoinLine,
    /// How many there are.
    pub(super) count: u32,
    /// In how many seconds.
    pub(super) seconds: u32,
    pub(super) ends: Instant,
    pub(super) tally: Arc<Tally>,
}

/// A connection that says nothing more.
enum Silent {
    Tcp(#[expect(dead_code, reason = "it is open as long as this is there")] TcpStream),
    Tls(Channel),
}

impl Strangers {
    /// Makes them in bursts, on a thread of their own.
    pub(super) fn run(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.bursts());
        runtime.shutdown_background();

        Ok(())
    }

    async fn bursts(&self) {
        let start = tokio::time::Instant::now();
        let bursts = self.seconds.div_ceil(BURST).max(1);
        let mut held = VecDeque::new();
        for burst in 0..bursts {
            let of = |burst: u32| u64::from(self.count) * u64::from(burst) / u64::from(bursts);
            let numbers = of(burst)..of(burst + 1);
            let mut made = stream::iter(numbers).map(|n| self.open(n)).buffer_unordered(AT_ONCE);
            while let Some(connection) = made.next().await {
                held.extend(connection);
                if held.len() > HELD {
                    held.pop_front();
                }
                if is_stopped() || Instant::now() >= self.ends {
                    return;
                }
            }
            sleep_until(start + Duration::from_secs((BURST * (burst + 1)).into())).await;
        }
    }

    async fn open(&self, number: u64) -> Option<Silent> {
        let (kind, opened) = if number.is_multiple_of(2) {
            let address = self.line.addresses.first()?;
            let tcp = timeout(PATIENCE, TcpStream::connect(address)).await;
            ("strangers without TLS", tcp.ok().and_then(Result::ok).map(Silent::Tcp))
        } else {
            let tls = timeout(PATIENCE, enrolled_node::stranger(&self.line)).await;
            ("strangers with TLS", tls.ok().and_then(Result::ok).map(Silent::Tls))
        };
        match &opened {
            Some(_) => self.tally.accepted(kind),
            None => self.tally.refused(kind, "not-made", ""),
        }
        if let Some(Silent::Tls(channel)) = &opened
            && number % u64::from(TRIES) == 1
        {
            self.try_token(channel.clone()).await;
        }

        opened
    }

    async fn try_token(&self, channel: Channel) {
        let key = KeyPair::generate();
        let csr = key.and_then(|key| {
            let csr = CertificateParams::default().serialize_request(&key)?;
            Ok(csr.der().to_vec())
        });
        let request = v1::JoinRequest {
            token_id: "00".repeat(8),
            token_secret: "00".repeat(16),
            name: "nobody".to_owned(),
            csr: csr.unwrap_or_default(),
        };
        let mut enrollment = EnrollmentClient::new(channel);
        if let Ok(answer) = timeout(PATIENCE, enrollment.join(request)).await {
            self.tally.answer("tokens that do not exist", &answer);
        }
    }
}
