//! Policy documents out of files, and what is there of networks and endpoints for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use overlay_core::Name;
use overlay_core::policy::{InvalidPolicy, MAX_POLICY, Policy, PolicyEndpoint};
use overlay_proto::{Code, Refusal, v1};

use crate::client::Agent;
use crate::failure::storage;

/// Reads a file as text, or a little more of it than a policy may have.
pub(crate) fn read(path: &Path) -> Result<String, Refusal> {
    let most = u64::try_from(MAX_POLICY).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(|error| storage(path.display(), &error))?;

    String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        let name = path.display();
        let text = format!("{name}: line {line} is not UTF-8: write the file as UTF-8");
        Refusal::new(Code::InvalidInput, text)
    })
}

/// Reads a file that must be a policy; of several mistakes the first is told.
pub(crate) fn sound(path: &Path) -> Result<Policy, Refusal> {
    parsed(path, &read(path)?)
}

/// Parses what was read of a file that must be a policy.
pub(crate) fn parsed(path: &Path, text: &str) -> Result<Policy, Refusal> {
    let refused = |invalid: InvalidPolicy| {
        let name = path.display();
        let others = invalid.mistakes.len() + invalid.more;
        let first = invalid.mistakes.first().map(ToString::to_string).unwrap_or_default();
        let text = if others > 1 {
            format!("{name}: {first} (`overlayctl policy test {name}` lists all {others} mistakes)")
        } else {
            format!("{name}: {first}")
        };
        Refusal::new(Code::InvalidInput, text)
    };

    Policy::parse_file(text).map_err(refused)
}

/// The networks and endpoints that this node may see.
#[derive(Debug, Default)]
pub(crate) struct Present {
    pub(crate) networks: BTreeSet<Name>,
    pub(crate) endpoints: Vec<PolicyEndpoint>,
}

impl Present {
    /// Asks the agent.
    pub(crate) async fn ask(agent: &mut Agent) -> Result<Self, Refusal> {
        let networks = agent.list_networks(v1::ListNetworksRequest {}).await?;
        let nodes = agent.list_nodes(v1::ListNodesRequest {}).await?;
        let request = v1::ListEndpointsRequest { network: String::new() };
        let endpoints = agent.list_endpoints(request).await?;
        let names = networks.networks.into_iter().filter_map(|state| state.network);
        let nodes = nodes.nodes.into_iter().filter_map(|state| state.node);
        let labels: BTreeMap<_, _> = nodes.map(|node| (node.id, node.labels)).collect();
        let endpoint = |state| endpoint(state, &labels);

        Ok(Self {
            networks: names.filter_map(|network| network.name.parse().ok()).collect(),
            endpoints: endpoints.endpoints.into_iter().filter_map(endpoint).collect(),
        })
    }
}

fn endpoint(
    state: v1::EndpointState,
    labels: &BTreeMap<String, BTreeMap<String, String>>,
) -> Option<PolicyEndpoint> {
    let endpoint = state.endpoint?;

    Some(PolicyEndpoint {
        network: state.network_name.parse().ok(),
        name: endpoint.name.parse().ok(),
        labels: endpoint.labels.into_iter().collect(),
        node_labels: labels.get(&endpoint.node).cloned().unwrap_or_default(),
        addresses: endpoint.addresses.iter().filter_map(|text| text.parse().ok()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("written");

        file
    }

    #[test]
    fn what_is_no_text_is_told_with_its_line() {
        let error = read(file(b"# a\n\xff").path()).expect_err("no text");

        assert!(error.message.ends_with("line 2 is not UTF-8: write the file as UTF-8"), "{error}");
    }

    #[test]
    fn a_file_without_end_is_read_only_so_far() {
        let error = sound(Path::new("/dev/zero")).expect_err("too long");

        assert!(error.message.contains("more than 1048576"), "{error}");
    }

    #[test]
    fn the_first_mistake_is_told_and_how_to_see_the_others() {
        let (one, two) = (file(b"x = 1"), file(b"x = 1\ny = 1"));

        let error = sound(one.path()).expect_err("a mistake");
        let errors = sound(two.path()).expect_err("two mistakes");

        assert!(error.message.contains(": line 1, column 1: x: there is no such key"), "{error}");
        assert!(errors.message.ends_with("lists all 2 mistakes)"), "{errors}");
    }
}
