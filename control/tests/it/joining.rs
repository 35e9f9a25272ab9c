//! Join tokens, and how they can be misused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use overlay_control::{InitConfig, StartError, create_token, init};
use overlay_core::Role;
use overlay_proto::channel::{self, DialError};
use overlay_proto::join_line::TokenSecret;
use overlay_proto::{Code, JoinLine, tls, v1};
use rcgen::KeyPair;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Control, Node, ask_to_join, connect};

fn with_secret(line: &JoinLine, byte: u8) -> JoinLine {
    JoinLine { secret: TokenSecret::from_bytes(&[byte; 16]), ..line.clone() }
}

#[tokio::test]
async fn bad_tokens_are_refused_alike() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let good = admin.token(v1::CreateTokenRequest { ttl_seconds: 1, ..Default::default() }).await;
    let revoked = admin.token(v1::CreateTokenRequest::default()).await;
    let id = revoked.token_id.clone();
    admin.client.clone().revoke_token(v1::RevokeTokenRequest { id }).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let unknown = JoinLine { token_id: "0".repeat(16), ..good.clone() };
    let case = JoinLine { token_id: good.token_id.to_uppercase(), ..good.clone() };

    let mut answers = Vec::new();
    for line in [&control.line, &good, &revoked, &unknown, &case, &with_secret(&control.line, 7)] {
        let refusal = ask_to_join(line, "host2", &KeyPair::generate().unwrap()).await.unwrap_err();
        answers.push(refusal);
    }

    assert_eq!(answers[0].code, Code::TokenRefused);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert!(!answers[0].message.contains(control.line.secret.expose()));
}

#[tokio::test]
async fn joining_again_with_the_same_key_gives_the_same_node() {
    let control = Control::start().await;
    let key = KeyPair::generate().unwrap();

    let first = ask_to_join(&control.line, "admin", &key).await.unwrap();
    let second = ask_to_join(&control.line, "admin", &key).await.unwrap();
    let renamed = ask_to_join(&control.line, "other", &key).await.unwrap_err();

    assert_eq!(first.node, second.node);
    assert_eq!(renamed.code, Code::WrongState);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_joins_at_once_with_one_use_exactly_one_succeeds() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let line = admin.token(v1::CreateTokenRequest::default()).await;
    let mut joins = JoinSet::new();
    for i in 0..100 {
        let line = line.clone();
        joins.spawn(async move {
            Node::join(&line, &format!("host{i}")).await.map(drop).map_err(|r| r.code)
        });
    }

    let answers = joins.join_all().await;

    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert!(
        answers.iter().all(|answer| matches!(answer, Ok(()) | Err(Code::TokenRefused))),
        "{answers:?}"
    );
    let nodes =
        admin.client.clone().list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    assert_eq!(nodes.len(), 2);
}

#[tokio::test]
async fn another_nodes_name_and_bad_requests_cost_the_token_nothing() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let line = admin.token(v1::CreateTokenRequest::default()).await;
    let key = KeyPair::generate().unwrap();

    let taken = ask_to_join(&line, "ADMIN", &key).await.unwrap_err();
    assert_eq!(taken.code, Code::NameTaken);
    for name in ["", "a.b", "../x", "a\n", "\u{1F600}", &"x".repeat(254)] {
        assert_eq!(
            ask_to_join(&line, name, &key).await.unwrap_err().code,
            Code::InvalidInput,
            "{name:?}"
        );
    }
    let weird = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert_eq!(ask_to_join(&line, "host2", &weird).await.unwrap_err().code, Code::InvalidInput);

    assert!(ask_to_join(&line, "host2", &key).await.is_ok());
}

/// Starts a server with another authority that records what it receives.
async fn impostor() -> (String, tokio::task::JoinHandle<Vec<u8>>) {
    let directory = tempfile::tempdir().unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap().der().clone();
    let issuer = rcgen::Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let name = overlay_proto::identity::CONTROL_NAME.to_owned();
    let leaf =
        rcgen::CertificateParams::new(vec![name]).unwrap().signed_by(&leaf_key, &issuer).unwrap();
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from(leaf_key.serialize_der()).into();
    let mut config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone(), ca], der)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    drop(directory);
    let listener = TcpListener::bind::<std::net::SocketAddr>(listen).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        if let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(tcp).await {
            // However the stream ends, what was received counts.
            let _ = stream.read_to_end(&mut heard).await;
        }
        heard
    });

    (address, heard)
}

#[tokio::test]
async fn a_server_with_another_authority_hears_nothing() {
    let control = Control::start().await;
    let (address, heard) = impostor().await;

    let tls = Arc::new(tls::pinned_client(control.line.pin).unwrap());
    let error = channel::control(&[address], tls).await.expect_err("the pin is wrong");

    assert!(matches!(error, DialError::WrongPin { .. }), "{error}");
    assert_eq!(heard.await.unwrap(), b"", "nothing was sent");
}

/// Returns an address that accepts connections and never sends anything.
async fn silence() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();

    (listener, address)
}

#[tokio::test]
async fn control_is_found_behind_addresses_that_are_dead_or_somebody_elses() {
    let (control, other) = (Control::start().await, Control::start().await);
    let (_silent, silence) = silence().await;
    let here = control.address.to_string();
    let addresses = [silence, "127.0.0.1:1".to_owned(), other.address.to_string(), here.clone()];

    let begun = Instant::now();
    let tls = Arc::new(tls::pinned_client(control.line.pin).unwrap());
    let dialled = channel::control(&addresses, tls).await.unwrap();

    assert_eq!((dialled.address, dialled.local.to_string().as_str()), (here, "127.0.0.1"));
    assert!(begun.elapsed() < channel::CONNECT_TIMEOUT, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn of_several_failures_the_wrong_authority_is_told() {
    let (control, other) = (Control::start().await, Control::start().await);
    let tls = Arc::new(tls::pinned_client(control.line.pin).unwrap());

    let addresses = ["127.0.0.1:1".to_owned(), other.address.to_string()];
    let error = channel::control(&addresses, tls).await.expect_err("it is not there");

    assert!(matches!(error, DialError::WrongPin { .. }), "{error}");
}

#[tokio::test]
async fn a_certificate_of_another_cluster_is_no_certificate() {
    let (control, other) = (Control::start().await, Control::start().await);
    let admin = control.admin().await;
    let foreign = other.admin().await;

    // With TLS 1.3, the client finishes before it learns of the refusal.
    let listed = match connect(control.address, &admin.ca, &foreign.certificate, &foreign.key).await
    {
        Ok(mut client) => client.list_nodes(v1::ListNodesRequest {}).await.is_ok(),
        Err(_) => false,
    };

    assert!(!listed);
}

/// Invariant 11.
#[tokio::test]
async fn without_a_certificate_only_joining_is_answered() {
    let control = Control::start().await;
    let tls = Arc::new(tls::pinned_client(control.line.pin).unwrap());
    let channel = channel::control(&control.line.addresses, tls).await.unwrap().channel;
    let mut client = v1::control_client::ControlClient::new(channel);

    for refused in [
        client.list_nodes(v1::ListNodesRequest {}).await.err(),
        client.watch(v1::WatchRequest::default()).await.err(),
        client.renew(v1::RenewRequest::default()).await.err(),
        client.create_token(v1::CreateTokenRequest::default()).await.err(),
    ] {
        assert_eq!(overlay_proto::Refusal::from(refused.unwrap()).code, Code::NotAuthenticated);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_join_is_quick_while_others_guess() {
    const GUESSERS: usize = 16;
    // How many guesses each of them has in progress, so that a long queue waits for answers.
    const EACH: usize = 64;
    let control = Control::start().await;
    let admin = control.admin().await;
    let line = admin.token(v1::CreateTokenRequest { uses: 20, ..Default::default() }).await;
    let mut guessers = JoinSet::new();
    let refused = Arc::new(AtomicUsize::new(0));
    for number in 0..GUESSERS {
        let guess = with_secret(&line, u8::try_from(number).unwrap());
        let refused = Arc::clone(&refused);
        guessers.spawn(async move {
            let tls = Arc::new(tls::pinned_client(guess.pin).unwrap());
            let channel = channel::control(&guess.addresses, tls).await.unwrap().channel;
            let client = v1::enrollment_client::EnrollmentClient::new(channel);
            loop {
                let tries = (0..EACH).map(|_| {
                    let mut client = client.clone();
                    let request = v1::JoinRequest {
                        token_id: guess.token_id.clone(),
                        token_secret: guess.secret.expose().to_owned(),
                        name: "guesser".to_owned(),
                        csr: vec![0; 300],
                    };
                    let refused = Arc::clone(&refused);
                    async move {
                        assert!(client.join(request).await.is_err());
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                });
                futures_util::future::join_all(tries).await;
            }
        });
    }

    // From then on the queue of guesses is never empty.
    while refused.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let mut most = 0;
    for i in 0..20 {
        let before = refused.load(Ordering::Relaxed);
        Node::join(&line, &format!("host{i}")).await.unwrap();
        most = most.max(refused.load(Ordering::Relaxed) - before);
    }

    guessers.abort_all();
    assert!(most < GUESSERS * EACH, "a join waited for the whole queue of guesses: {most}");
}

#[test]
fn a_state_directory_is_initialised_once() {
    let directory = tempfile::tempdir().unwrap();
    let listen = "127.0.0.1:7443".parse().unwrap();
    let config = InitConfig {
        listen,
        advertise: vec!["192.0.2.1".to_owned()],
        ..InitConfig::new(directory.path())
    };
    let made = init(config.clone()).unwrap();

    assert_eq!(made.join.addresses, ["192.0.2.1:7443"]);
    assert!(matches!(init(config), Err(StartError::Initialised(_))));
    let line = create_token(directory.path(), 60, 1, Role::Admin).unwrap();
    assert_eq!(line.pin, made.join.pin);
    assert_ne!(line.token_id, made.join.token_id);
}
