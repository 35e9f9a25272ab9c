//! The whole service: opens the state directory, binds the port, starts the tasks and ends them.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use overlay_proto::catch_panic::CatchPanicLayer;
use overlay_proto::tls;
use overlay_proto::v1::control_server::ControlServer;
use overlay_proto::v1::enrollment_server::EnrollmentServer;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;

use crate::audit::{self, AuditLayer, Refusals};
use crate::backup::socket::BackupSocket;
use crate::clock;
use crate::conditions::Conditions;
use crate::config::Config;
use crate::init::check_private;
use crate::listener;
use crate::location::LocationTracker;
use crate::pki::Authority;
use crate::pki::server_cert::ServerCert;
use crate::pki::verifier::AnyTime;
use crate::random;
use crate::registry::{ClusterState, Record, Settings};
use crate::service::{ControlService, LargeCallLayer, Turns};
use crate::start_error::StartError;
use crate::store::embedded::Embedded;
use crate::store::{Commit, Damage, Store, StoreError};
use crate::watch::Hub;
use crate::watch::revocations::RevocationSigner;
use crate::writer::Writer;

/// The largest message that control accepts: 1,000 endpoints with all the labels they may have.
pub const MAX_REQUEST: usize = 4 << 20;
/// The largest message of a client without a certificate, a join request: a token, a name and a
/// certificate request.
const MAX_JOIN_REQUEST: usize = 16 << 10;
/// How long a call may take: a commit takes milliseconds, a full queue a second.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Concurrent calls of one connection.
const CALLS_PER_CONNECTION: usize = 32;
/// Streams of one connection: the calls above and those queued behind them.
const STREAMS_PER_CONNECTION: u32 = 64;
/// Watches of one node of which something is left to be read: an agent has one, and one more when
/// another takes its place or its connection was lost. Each costs control less than 1 MiB.
const WATCHES_AT_ONCE: usize = 4;
/// What a client may send before control has taken what it sent, of one call and over one
/// connection: what control keeps of requests that wait.
const CALL_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;
/// The largest headers of a call, in bytes: ours have less than 1 KiB.
const MAX_HEADERS: u32 = 16 << 10;
/// Streams that a client may reset before control has handled them (rapid reset); the connection
/// ends after that.
const MAX_RESETS: usize = 64;
/// An idle connection is probed after this long, and given up after the same time again.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How often control checks whether its certificate must be renewed.
const RENEWAL_CHECK: Duration = Duration::from_secs(60);
/// How long open calls have to finish when control stops.
const DRAIN: Duration = Duration::from_secs(3);

/// A control service that is ready to serve.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    service: ControlService,
    certificate: Arc<ServerCert>,
    refusals: Arc<Refusals>,
    writer: JoinHandle<Result<(), StoreError>>,
    backups: Option<BackupSocket>,
}

impl Server {
    /// Opens a state directory and binds the port; connections wait until [`Server::run`].
    ///
    /// # Errors
    ///
    /// [`StartError`].
    #[expect(clippy::unused_async, reason = "the port belongs to the runtime that awaits this")]
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        config.check()?;
        check_private(&config.state)?;
        let authority = Arc::new(Authority::load(&config.state)?);
        let (store, settings, hub, state) = open(&config)?;
        // Where there can be none, control can be backed up while it is stopped.
        let backups = BackupSocket::open(&config.state)
            .inspect_err(|error| tracing::warn!(%error, "No backup can be made while control runs"))
            .ok();
        let listener = listener::listen(config.listen.unwrap_or(settings.listen))?;
        let system = |what| move |source| StartError::System { what, source };
        let address = listener.local_addr().map_err(system("the port has no address"))?;
        let certificate = Arc::new(ServerCert::new(Arc::clone(&authority), clock::now_unix())?);
        let hub = Arc::new(hub);
        let conditions = Arc::new(Conditions::new(config.log.clone()));
        let (writer, thread) =
            Writer::start(store, state, Arc::clone(&hub), Arc::clone(&conditions))
                .map_err(system("cannot start the thread for the writer"))?;
        let service = ControlService {
            hub,
            writer,
            revocations: Arc::new(RevocationSigner::new(Arc::clone(&authority), settings.cluster)),
            authority,
            locations: Arc::new(LocationTracker::new(settings.advertise.clone(), address)),
            settings,
            cert_ttl: config.cert_ttl,
            conditions,
            tarpit: Arc::default(),
            change_rate: Arc::default(),
            watch_turns: Arc::new(Turns::new(WATCHES_AT_ONCE)),
        };

        Ok(Self {
            listener,
            address,
            service,
            certificate,
            refusals: Arc::default(),
            writer: thread,
            backups,
        })
    }

    /// Returns where control listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` completes, then ends open calls and stores the changes that were
    /// requested before.
    ///
    /// # Errors
    ///
    /// [`StartError`] when control cannot continue.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
        let Self { listener, service, certificate, refusals, writer, backups, .. } = self;
        let hub = Arc::clone(&service.hub);
        let queue = service.writer.clone();
        let tls = tls_config(service.authority.certificate(), Arc::clone(&certificate))?;
        // None of these tasks ends by itself.
        let mut tasks = JoinSet::new();
        tasks.spawn(renew(certificate));
        let conditions = Arc::clone(&service.conditions);
        tasks.spawn(async move { conditions.run().await });
        tasks.spawn(queue.clone().probe(Arc::clone(&service.conditions)));
        if let Some(backups) = backups {
            tasks.spawn(backups.serve(Arc::clone(&service.hub)));
        }
        let locations = Arc::clone(&service.locations);
        tasks.spawn(async move { locations.follow().await });
        let (refused, noted) = (Arc::clone(&refusals), queue.clone());
        tasks.spawn(async move { refused.run(noted, clock::now_unix).await });
        let (drain, draining) = oneshot::channel();
        let (accepting, incoming) = listener::accept(listener, tls);
        // Without it, gRPC would go on for those who are connected, and nobody else would get in.
        tasks.spawn(accepting);
        let mut serving = tokio::spawn(serve(incoming, service, AuditLayer(refusals), draining));

        let broken = tokio::select! {
            () = shutdown => {
                tracing::info!("Stopping");
                None
            }
            () = queue.stopped() => None,
            what = broken(&mut serving, &mut tasks) => Some(what),
        };
        hub.shut();
        drop(drain);
        if !serving.is_finished() && timeout(DRAIN, &mut serving).await.is_err() {
            tracing::info!("Closing connections that are still open");
            serving.abort();
        }
        tasks.abort_all();
        queue.stop().await;

        end(writer).await.and(broken.map_or(Ok(()), |what| Err(StartError::Broken(what))))
    }
}

/// Waits until something ends that control cannot be without; says what.
async fn broken(
    serving: &mut tokio::task::JoinHandle<()>,
    tasks: &mut JoinSet<()>,
) -> &'static str {
    tokio::select! {
        ended = serving => {
            tracing::error!(?ended, "The gRPC server has stopped");
            "the gRPC server has stopped"
        }
        Some(ended) = tasks.join_next() => {
            tracing::error!(?ended, "A task of control failed");
            "a task of control failed"
        }
    }
}

/// Opens the store; inconsistent contents are refused rather than served.
fn open(config: &Config) -> Result<(Box<dyn Store>, Settings, Hub, ClusterState), StartError> {
    let mut store = Embedded::open(&config.state)?;
    let loaded = store.load()?;
    let settings = loaded.settings.clone();
    let mut state = ClusterState::from_records(loaded.settings, loaded.revision, loaded.records);
    if let Some(what) = state.contradiction() {
        return Err(store.damaged(Damage::Contents(what)).into());
    }
    let opening =
        audit::entry::opening(Store::audit_extent(&store)?, loaded.revision, clock::now_unix());
    let mut audited: Vec<_> = opening.into_iter().collect();
    let mut commits = Vec::new();
    if state.history().is_none() {
        // A version before lineages made it.
        let records = vec![Record::History(random::history()?)];
        let changed = state.commit(records.clone());
        let to = state.view().revision;
        commits.push(Commit { to, records, changed, nonce: random::bits()? });
        audited.push(audit::entry::begin("a lineage was given", to, clock::now_unix()));
    }
    if !audited.is_empty() {
        store.commit_audited(loaded.revision, &commits, &audited.into())?;
    }
    // After a restore it does not reach back as far as revisions do.
    let hub = Hub::new(state.clone(), store.recent()?);

    Ok((Box::new(store), settings, hub, state))
}

fn tls_config(
    ca: &CertificateDer<'static>,
    certificate: Arc<ServerCert>,
) -> Result<ServerConfig, StartError> {
    let verifier = tls::client_verifier(ca.clone())?;

    Ok(tls::server_with(Arc::new(AnyTime::new(verifier)), certificate)?)
}

async fn serve(
    incoming: listener::Incoming,
    service: ControlService,
    audit: AuditLayer,
    draining: oneshot::Receiver<()>,
) {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ControlServer<ControlService>>().await;
    health.set_serving::<EnrollmentServer<ControlService>>().await;
    let enrollment =
        EnrollmentServer::new(service.clone()).max_decoding_message_size(MAX_JOIN_REQUEST);
    let control = ControlServer::new(service)
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(overlay_proto::channel::MAX_MESSAGE);
    let served = tonic::transport::Server::builder()
        .timeout(CALL_TIMEOUT)
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_max_pending_accept_reset_streams(Some(MAX_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .layer(audit)
        .layer(LargeCallLayer::default())
        .layer(CatchPanicLayer)
        .add_service(health_service)
        .add_service(enrollment)
        .add_service(control)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async {
            // A dropped sender counts as a signal, too.
            let _ = draining.await;
        })
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "gRPC ended");
    }
}

async fn renew(certificate: Arc<ServerCert>) {
    let mut check = interval(RENEWAL_CHECK);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        check.tick().await;
        if let Err(error) = certificate.renew_if_due(clock::now_unix()) {
            tracing::error!(%error, "Failed to renew the certificate of control");
        }
    }
}

/// Waits for the writer.
async fn end(writer: JoinHandle<Result<(), StoreError>>) -> Result<(), StartError> {
    let joined = tokio::task::spawn_blocking(move || writer.join()).await;
    match joined {
        Ok(Ok(result)) => Ok(result?),
        Ok(Err(_)) | Err(_) => Err(StartError::Broken("the writer panicked")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use overlay_core::ClusterId;

    use super::*;

    fn endless() -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());

        tasks
    }

    #[tokio::test]
    async fn a_server_that_ends_by_itself_is_noticed() {
        let mut serving = tokio::spawn(async {});

        assert!(
            broken(&mut serving, &mut endless()).await.starts_with("the gRPC server has stopped")
        );
    }

    #[tokio::test]
    async fn what_accepts_connections_is_missed_when_it_ends() {
        let (directory, now) = (tempfile::tempdir().expect("a directory"), clock::now_unix());
        let authority =
            Authority::create(directory.path(), ClusterId::FIRST, now).expect("an authority");
        let authority = Arc::new(authority);
        let certificate =
            Arc::new(ServerCert::new(Arc::clone(&authority), now).expect("a certificate"));
        let tls = tls_config(authority.certificate(), certificate).expect("a configuration");
        let listener = listener::listen((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        let (accepting, incoming) = listener::accept(listener, tls);
        let (mut serving, mut tasks) = (tokio::spawn(std::future::pending()), endless());
        tasks.spawn(accepting);

        drop(incoming);

        assert!(broken(&mut serving, &mut tasks).await.starts_with("a task of control failed"));
    }
}
