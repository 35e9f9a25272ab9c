//! A control service on a free port of the loopback, and clients for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use overlay_control::{Config, InitConfig, Server, init};
use overlay_core::{Change, Delta, Revision, View};
use overlay_proto::v1::control_client::ControlClient;
use overlay_proto::v1::enrollment_client::EnrollmentClient;
use overlay_proto::v1::watch_response::Event;
use overlay_proto::{JoinLine, Refusal, channel, convert, tls, v1};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;

/// How long anything that should be quick may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster that is being served.
pub(crate) struct Control {
    pub(crate) address: SocketAddr,
    pub(crate) line: JoinLine,
    _directory: TempDir,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<()>>,
    config: Config,
}

impl Control {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let state = tempfile::tempdir().unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let line = init(InitConfig { listen, ..InitConfig::new(state.path()) }).unwrap().join;
        let mut config = Config::new(state.path());
        change(&mut config);
        let mut control =
            Self { address: listen, line, _directory: state, stop: None, served: None, config };
        control.serve().await;

        control
    }

    /// Returns the state directory.
    pub(crate) fn state(&self) -> &std::path::Path {
        &self.config.state
    }

    /// Starts the service on a new port.
    pub(crate) async fn serve(&mut self) {
        let server = Server::bind(self.config.clone()).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        self.address = server.local_addr();
        self.line.addresses = vec![self.address.to_string()];
        self.stop = Some(stop);
        self.served = Some(tokio::spawn(async move {
            server.run(async { drop(stopped.await) }).await.unwrap();
        }));
    }

    /// Stops the service; its state stays.
    pub(crate) async fn stop(&mut self) {
        self.stop.take();
        timeout(PATIENCE, self.served.take().unwrap()).await.unwrap().unwrap();
    }

    /// Joins the first node, an admin.
    pub(crate) async fn admin(&self) -> Node {
        Node::join(&self.line, "admin").await.unwrap()
    }

    /// Joins a node that is no admin.
    pub(crate) async fn node(&self, admin: &Node, name: &str) -> Node {
        Node::join(&admin.token(v1::CreateTokenRequest::default()).await, name).await.unwrap()
    }
}

/// A joined node.
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) cluster: String,
    pub(crate) key: KeyPair,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) ca: CertificateDer<'static>,
    pub(crate) client: ControlClient<Channel>,
}

/// Makes a certificate request for a key.
pub(crate) fn csr(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

/// Asks to join with a key.
pub(crate) async fn ask_to_join(
    line: &JoinLine,
    name: &str,
    key: &KeyPair,
) -> Result<v1::JoinResponse, Refusal> {
    let tls = Arc::new(tls::pinned_client(line.pin).unwrap());
    let channel = channel::control(&line.addresses, tls).await.unwrap().channel;
    let request = v1::JoinRequest {
        token_id: line.token_id.clone(),
        token_secret: line.secret.expose().to_owned(),
        name: name.to_owned(),
        csr: csr(key),
    };

    Ok(EnrollmentClient::new(channel).join(request).await?.into_inner())
}

/// Connects with a certificate.
pub(crate) async fn connect(
    address: SocketAddr,
    ca: &CertificateDer<'static>,
    certificate: &CertificateDer<'static>,
    key: &KeyPair,
) -> Result<ControlClient<Channel>, channel::DialError> {
    let channel = open_channel(address, ca, certificate, key).await?;

    Ok(ControlClient::new(channel).max_decoding_message_size(channel::MAX_MESSAGE))
}

async fn open_channel(
    address: SocketAddr,
    ca: &CertificateDer<'static>,
    certificate: &CertificateDer<'static>,
    key: &KeyPair,
) -> Result<Channel, channel::DialError> {
    let der = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let tls = Arc::new(tls::node_client(ca.clone(), certificate.clone(), der).unwrap());

    Ok(channel::control(&[address.to_string()], tls).await?.channel)
}

impl Node {
    pub(crate) async fn join(line: &JoinLine, name: &str) -> Result<Self, Refusal> {
        let key = KeyPair::generate().unwrap();
        let joined = ask_to_join(line, name, &key).await?;
        let (certificate, ca) =
            (CertificateDer::from(joined.certificate), CertificateDer::from(joined.ca_certificate));
        let client =
            connect(line.addresses[0].parse().unwrap(), &ca, &certificate, &key).await.unwrap();

        Ok(Self { id: joined.node, cluster: joined.cluster, key, certificate, ca, client })
    }

    /// Connects again, for instance after control was restarted.
    pub(crate) async fn reconnect(&mut self, address: SocketAddr) {
        self.client = connect(address, &self.ca, &self.certificate, &self.key).await.unwrap();
    }

    /// Opens another connection, for calls that no client would make.
    pub(crate) async fn channel(&self, address: SocketAddr) -> Channel {
        open_channel(address, &self.ca, &self.certificate, &self.key).await.unwrap()
    }

    pub(crate) async fn token(&self, request: v1::CreateTokenRequest) -> JoinLine {
        self.client
            .clone()
            .create_token(request)
            .await
            .unwrap()
            .into_inner()
            .join_line
            .parse()
            .unwrap()
    }

    pub(crate) async fn create_network(
        &self,
        name: &str,
        prefix: &str,
    ) -> Result<v1::Network, Refusal> {
        let request = v1::CreateNetworkRequest {
            name: name.to_owned(),
            prefix: prefix.to_owned(),
            mode: v1::NetworkMode::L3.into(),
            ..Default::default()
        };

        Ok(self.client.clone().create_network(request).await?.into_inner().network.unwrap())
    }

    pub(crate) async fn enter(&self, network: &v1::Network) -> Result<v1::Member, Refusal> {
        let key = ring::digest::digest(
            &ring::digest::SHA256,
            format!("{}{}", self.id, network.id).as_bytes(),
        );
        let request = v1::EnterNetworkRequest {
            network: network.id.clone(),
            lane_keys: vec![key.as_ref().to_vec()],
            blocks: 1,
        };

        Ok(self.client.clone().enter_network(request).await?.into_inner().member.unwrap())
    }

    /// Makes an endpoint row of this node.
    pub(crate) fn endpoint(
        &self,
        network: &v1::Network,
        id: u64,
        name: &str,
        address: &str,
    ) -> v1::Endpoint {
        v1::Endpoint {
            id: format!("{id:012x}"),
            network: network.id.clone(),
            node: self.id.clone(),
            name: name.to_owned(),
            addresses: vec![address.to_owned()],
            runtime: v1::Runtime::Run.into(),
            ..Default::default()
        }
    }

    pub(crate) async fn put(&self, endpoints: Vec<v1::Endpoint>) -> Result<u64, Refusal> {
        Ok(self
            .client
            .clone()
            .put_endpoints(v1::PutEndpointsRequest { endpoints })
            .await?
            .into_inner()
            .revision)
    }

    /// Watches from the revision of a view.
    pub(crate) async fn watch(&self, view: View) -> Result<Watcher, Refusal> {
        self.watch_as("", view).await
    }

    /// Watches as a certain process of this node.
    pub(crate) async fn watch_as(&self, instance: &str, view: View) -> Result<Watcher, Refusal> {
        let (lineage, mark) = convert::stamp_fields(view.stamp);
        let request = v1::WatchRequest {
            revision: view.revision.0,
            cluster: self.cluster.clone(),
            instance: instance.to_owned(),
            takes_revocations: true,
            revoked: Vec::new(),
            lineage,
            mark,
            chunks: true,
            reports: true,
        };
        let stream = self.client.clone().watch(request).await?.into_inner();

        Ok(Watcher {
            view,
            stream,
            snapshots: 0,
            deltas: 0,
            chunks: 0,
            parts: Vec::new(),
            alive: v1::Alive::default(),
            revocations: Vec::new(),
        })
    }
}

/// A view that a watch keeps up to date.
pub(crate) struct Watcher {
    pub(crate) view: View,
    pub(crate) stream: Streaming<v1::WatchResponse>,
    pub(crate) snapshots: usize,
    pub(crate) deltas: usize,
    /// The parts of what came in parts.
    pub(crate) chunks: usize,
    parts: Vec<v1::Chunk>,
    /// The last message besides the membership.
    pub(crate) alive: v1::Alive,
    /// What was told of removed nodes.
    pub(crate) revocations: Vec<v1::Revocations>,
}

impl Watcher {
    /// Accepts the next event; returns whether there was one.
    pub(crate) async fn step(&mut self) -> Result<bool, Refusal> {
        let Some(message) =
            timeout(PATIENCE, self.stream.message()).await.expect("an event in time")?
        else {
            return Ok(false);
        };
        match message.event.unwrap() {
            Event::Snapshot(snapshot) => {
                self.view = snapshot.try_into()?;
                self.snapshots += 1;
            }
            Event::Delta(delta) => {
                self.view.apply_delta(delta.try_into()?).expect("deltas follow each other");
                self.deltas += 1;
            }
            Event::Chunk(chunk) => self.take(chunk)?,
            Event::Alive(alive) => self.alive = alive,
            Event::Revocations(news) => self.revocations.push(news),
        }

        Ok(true)
    }

    fn take(&mut self, chunk: v1::Chunk) -> Result<(), Refusal> {
        self.chunks += 1;
        if chunk.first {
            self.parts.clear();
        }
        let last = chunk.last;
        self.parts.push(chunk);
        if !last {
            return Ok(());
        }
        let parts = std::mem::take(&mut self.parts);
        let (first, end) = (&parts[0], &parts[parts.len() - 1]);
        assert!(first.first);
        let (from, to, stamp) =
            (first.from, Revision(end.to), convert::stamp(&end.lineage, &end.mark)?);
        let changes = parts.into_iter().flat_map(|part| part.changes);
        let changes: Vec<Change> = changes.map(TryInto::try_into).collect::<Result<_, _>>()?;
        match from {
            None => {
                self.view = View { stamp, ..View::from_rows(to, changes) };
                self.snapshots += 1;
            }
            Some(from) => {
                let from = Revision(from);
                let delta = Delta { from, to, changes, put_out: Vec::new(), stamp };
                assert_eq!(self.view.apply_delta(delta), Ok(()));
                self.deltas += 1;
            }
        }

        Ok(())
    }

    /// Follows until the view stands at a revision or beyond.
    pub(crate) async fn reach(&mut self, revision: u64) {
        while self.view.revision < Revision(revision) {
            assert!(self.step().await.unwrap(), "the stream ended");
        }
    }

    /// Follows until the stream ends, and returns why.
    pub(crate) async fn end(&mut self) -> Option<Refusal> {
        loop {
            match self.step().await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(refusal) => return Some(refusal),
            }
        }
    }
}
