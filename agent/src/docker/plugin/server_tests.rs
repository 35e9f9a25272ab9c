use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::*;
use crate::docker::plugin::{ContainerIfname, Joined, NewInterface, PoolGranted};

/// A driver that remembers what it was asked and holds endpoints as a set.
#[derive(Debug, Default)]
struct Fake {
    endpoints: Mutex<BTreeSet<String>>,
}

impl Fake {
    fn count(&self) -> usize {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Driver for Fake {
    async fn request_pool(&self, request: PoolRequest) -> Result<PoolGranted, Refusal> {
        let prefix =
            request.prefix.ok_or_else(|| Refusal::new(Code::Exhausted, "no prefix is left"))?;
        Ok(PoolGranted { id: "p1".to_owned(), prefix })
    }

    async fn release_pool(&self, _: String) -> Result<(), Refusal> {
        Ok(())
    }

    async fn request_address(&self, _: AddressRequest) -> Result<IpNet, Refusal> {
        Ok(IpNet::from(IpAddr::from([10, 5, 0, 2])))
    }

    async fn release_address(&self, _: String, _: IpAddr) -> Result<(), Refusal> {
        Ok(())
    }

    async fn create_network(&self, _: NetworkRequest) -> Result<(), Refusal> {
        Err(Refusal::new(Code::AddressTaken, "10.5.0.0/16 overlaps something"))
    }

    async fn delete_network(&self, _: String) -> Result<(), Refusal> {
        Ok(())
    }

    async fn create_endpoint(&self, request: EndpointRequest) -> Result<NewInterface, Refusal> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).insert(request.endpoint);
        Ok(NewInterface { mac: Some([2, 0, 0, 0, 0, 1]) })
    }

    async fn delete_endpoint(&self, endpoint: String) -> Result<(), Refusal> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).remove(&endpoint);
        Ok(())
    }

    async fn join(&self, _: JoinRequest) -> Result<Joined, Refusal> {
        Ok(Joined {
            ifname: "ovc000000000001".to_owned(),
            container_ifname: ContainerIfname { prefix: "eth".to_owned(), whole: None },
            routes: Vec::new(),
        })
    }
}

const NETWORK_CALLS: [&str; 9] = [
    "NetworkDriver.CreateNetwork",
    "NetworkDriver.DeleteNetwork",
    "NetworkDriver.CreateEndpoint",
    "NetworkDriver.DeleteEndpoint",
    "NetworkDriver.Join",
    "NetworkDriver.Leave",
    "NetworkDriver.EndpointOperInfo",
    "NetworkDriver.ProgramExternalConnectivity",
    "NetworkDriver.RevokeExternalConnectivity",
];
const ADDRESS_CALLS: [&str; 4] = [
    "IpamDriver.RequestPool",
    "IpamDriver.ReleasePool",
    "IpamDriver.RequestAddress",
    "IpamDriver.ReleaseAddress",
];

async fn call(driver: &Fake, name: &str, body: &str) -> (u16, Value) {
    let (status, value) = answer(driver, &format!("/{name}"), body.as_bytes()).await;

    (status.as_u16(), value)
}

#[tokio::test]
async fn calls_without_arguments_take_any_body_and_say_what_we_are() {
    let fake = Fake::default();

    for body in ["", "{}", "null", "nonsense"] {
        let (status, reply) = call(&fake, "Plugin.Activate", body).await;
        assert_eq!((status, reply["Implements"][1].as_str()), (200, Some("IpamDriver")), "{body}");
        let (_, reply) = call(&fake, "NetworkDriver.GetCapabilities", body).await;
        assert_eq!(reply["Scope"], "local");
    }
}

#[tokio::test]
async fn a_body_that_is_empty_broken_or_of_another_kind_is_refused_in_words() {
    let fake = Fake::default();

    for name in NETWORK_CALLS.into_iter().chain(ADDRESS_CALLS) {
        for body in [
            "",
            "{",
            "[]",
            "7",
            "null",
            r#"{"NetworkID": 7}"#,
            r#"{"NetworkID": "../../x", "EndpointID": "a"}"#,
        ] {
            let (status, reply) = call(&fake, name, body).await;
            // A pool may be asked for with nothing said; it is the driver who has none.
            let refused =
                status == 400 || name == "IpamDriver.RequestPool" && reply["Err"].is_string();
            assert!(refused, "{name} {body}: {status} {reply}");
            let text = reply["Err"].as_str().unwrap_or_default();
            assert!(
                !text.is_empty() && !text.contains('\n') && reply["Error"] == reply["Err"],
                "{name} {body}: {reply}"
            );
        }
    }
    assert_eq!(fake.count(), 0, "nothing half done");
}

#[tokio::test]
async fn repeated_and_unordered_calls_are_answered_as_the_first_time() {
    let fake = Fake::default();
    let body = r#"{"NetworkID": "ab", "EndpointID": "cd", "Interface": {"Address": "10.5.0.2/16"}, "Options": null}"#;

    // Removed before it was made, made twice, removed twice.
    for name in [
        "DeleteEndpoint",
        "Leave",
        "CreateEndpoint",
        "CreateEndpoint",
        "Join",
        "Join",
        "DeleteEndpoint",
        "DeleteEndpoint",
    ] {
        let (status, reply) = call(&fake, &format!("NetworkDriver.{name}"), body).await;
        assert!(status == 200 && reply["Err"].is_null(), "{name}: {reply}");
    }
    assert_eq!(fake.count(), 0);
}

#[tokio::test]
async fn unknown_calls_are_not_found_and_refusals_come_as_the_engine_reads_them() {
    let fake = Fake::default();
    let network = r#"{"NetworkID": "ab", "IPv4Data": [{"Pool": "10.5.0.0/16"}]}"#;

    assert_eq!(call(&fake, "NetworkDriver.Whatever", "{}").await.0, 404);
    assert_eq!(call(&fake, "", "").await.0, 404);
    let (status, reply) = call(&fake, "NetworkDriver.CreateNetwork", network).await;
    assert_eq!((status, reply["Err"].as_str()), (200, Some("10.5.0.0/16 overlaps something")));
    let (_, reply) = call(&fake, "NetworkDriver.AllocateNetwork", "{}").await;
    assert!(reply["Err"].as_str().is_some_and(|text| text.contains("Swarm")), "{reply}");
}

#[tokio::test]
async fn an_engine_of_any_age_is_understood_over_the_socket() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("plugin.sock");
    let socket = PluginSocket::open(&path).await.expect("opened");
    let server = tokio::spawn(serve(socket, Arc::new(Fake::default()), Arc::default()));
    let mut stream = UnixStream::connect(&path).await.expect("connected");

    // Engine 20.10 sends an empty Host and no Content-Type, and keeps the connection.
    for _ in 0..2 {
        let body = r#"{"Pool": "10.5.0.0/16", "Options": null, "V6": false}"#;
        let head = format!(
            "POST /IpamDriver.RequestPool HTTP/1.1\r\nHost: \r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.expect("written");
        stream.write_all(body.as_bytes()).await.expect("written");
        let mut buffer = vec![0; 4096];
        let len = stream.read(&mut buffer).await.expect("an answer");
        let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("\"PoolID\":\"p1\""), "{text}");
        assert!(text.to_lowercase().contains(MEDIA_TYPE), "{text}");
    }
    let big = format!(
        "POST /Plugin.Activate HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        MAX_BODY + 1
    );
    stream.write_all(big.as_bytes()).await.expect("written");
    let mut buffer = vec![0; 4096];
    let len = stream.read(&mut buffer).await.expect("an answer");
    assert!(
        String::from_utf8_lossy(&buffer[..len]).starts_with("HTTP/1.1 400"),
        "too large a body"
    );
    server.abort();
}
