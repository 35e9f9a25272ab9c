//! What the pretended agent knows.

use overlay_proto::{Code, Refusal, v1};
use tonic::Status;

use super::{CONTROL, Script, crowd};

/// What the agent says of a network that it does not know.
pub(super) fn known(network: &str) -> Result<(), Status> {
    if network == "nope" {
        return Err(Refusal::new(
            Code::NotFound,
            format!("there is no network {network:?}: `overlayctl network ls` lists them"),
        )
        .into());
    }

    Ok(())
}

/// The status of the node, once it has joined.
pub(super) fn status(script: &Script) -> v1::StatusResponse {
    v1::StatusResponse {
        version: "0.1.0".into(),
        phase: v1::NodePhase::Joined.into(),
        cluster: "c0ffee".into(),
        node: "0a".into(),
        node_name: "a".into(),
        role: v1::Role::Admin.into(),
        pid: 4242,
        started_unix: crowd::ago(90_005),
        state_dir: script.state_dir.clone(),
        control: Some(v1::ControlStatus {
            connected: true,
            address: CONTROL.into(),
            since_unix: crowd::ago(3_665),
            ..v1::ControlStatus::default()
        }),
        problems: script.problems.clone(),
        ..v1::StatusResponse::default()
    }
}

/// The only peer.
pub(super) fn peer() -> v1::PeerStatus {
    v1::PeerStatus {
        node_name: "b".into(),
        network: "my-network".into(),
        state: v1::PeerState::Up.into(),
        handshake_age_seconds: 3,
        ..v1::PeerStatus::default()
    }
}

/// The only network.
pub(super) fn network() -> v1::Network {
    v1::Network {
        id: "0123".into(),
        name: "my-network".into(),
        prefix: "10.64.0.0/24".into(),
        mode: v1::NetworkMode::L3.into(),
        ..v1::Network::default()
    }
}

/// An endpoint of a name.
pub(super) fn endpoint(name: &str) -> v1::Endpoint {
    v1::Endpoint {
        id: format!("id-of-{name}"),
        network: "0123".into(),
        node: "0a".into(),
        name: name.into(),
        addresses: vec!["10.64.0.2".into()],
        runtime: v1::Runtime::Run.into(),
        ..v1::Endpoint::default()
    }
}

/// The only token.
pub(super) fn token() -> v1::Token {
    v1::Token {
        id: "f00d".into(),
        expires_unix: 4_102_444_800,
        uses: 2,
        role: v1::Role::Node.into(),
        ..v1::Token::default()
    }
}
