//! `docker_gwbridge`, Docker's way out for containers of networks like ours: made beforehand, in a
//! range that the engine's own address management never gives to a network. Docker would put it
//! onto 172.18.0.0/16, which is also the first prefix that a plain `docker network create` gets on
//! another host: containers on such a network could not start here.

use std::collections::BTreeMap;

use overlay_core::network::first_host;
use overlay_core::pool::GWBRIDGE;

use super::client::{DockerClient, EngineError};
use super::engine::{EngineNetwork, NewNetwork, NewPrefix};

const NAME: &str = "docker_gwbridge";
/// Says that we made it.
const LABEL: &str = "overlay.made-by";
const MAKER: &str = "overlayd";

/// Makes it where there is none. One that is there stays as it is.
pub(super) async fn ensure(
    engine: &DockerClient,
    listed: &[EngineNetwork],
) -> Result<(), EngineError> {
    if listed.iter().any(|network| network.name == NAME) {
        return Ok(());
    }
    let option =
        |key: &str, value: &str| (format!("com.docker.network.bridge.{key}"), value.to_owned());
    let new = NewNetwork {
        name: NAME.to_owned(),
        driver: "bridge".to_owned(),
        ipam: None,
        ipam_options: BTreeMap::new(),
        prefixes: vec![NewPrefix::v4(GWBRIDGE, None, first_host(GWBRIDGE))],
        internal: false,
        options: BTreeMap::from([
            option("name", NAME),
            option("enable_icc", "false"),
            option("enable_ip_masquerade", "true"),
        ]),
        labels: BTreeMap::from([(LABEL.to_owned(), MAKER.to_owned())]),
    };
    match engine.create_network(new).await {
        Ok(_) => tracing::info!(prefix = %GWBRIDGE, "Made docker_gwbridge"),
        // Somebody else was faster.
        Err(EngineError::Refused { status: 409, .. }) => {}
        Err(error) => return Err(error),
    }

    Ok(())
}

/// Removes it where we made it. While containers use it the engine refuses, and it stays.
pub(super) async fn remove(engine: &DockerClient) -> Result<(), EngineError> {
    let networks = engine.networks().await?;
    let ours = networks
        .iter()
        .find(|n| n.name == NAME && n.labels.get(LABEL).is_some_and(|maker| maker == MAKER));
    match ours {
        Some(network) => engine.remove_network(&network.id).await,
        None => Ok(()),
    }
}
