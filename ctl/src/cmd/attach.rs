//! `overlayctl attach`.

use std::path::{Path, PathBuf};

use clap::Args;
use overlay_core::Name;
use overlay_proto::{Code, Refusal, v1};
use serde::Serialize;

use super::Context;
use super::naming::NamingArgs;
use crate::failure::{Outcome, storage};
use crate::output::{Page, Report, list};
use crate::view::EndpointView;

const EXAMPLE: &str = "\
The namespace stays attached until `overlayctl detach`, also over restarts of the agent. Names are resolved by the \
network's gateway, which is printed: put `nameserver GATEWAY` where the namespace's processes look (`ip netns exec` \
looks in /etc/netns/NAME/resolv.conf).

Examples:
  overlayctl attach --netns /run/netns/web --network my-network --name web
  overlayctl attach --netns web --network shop --name web --ip 10.64.0.20
  overlayctl attach --host --network my-network --name gateway";

/// Put an existing network namespace, or this host itself, onto a network
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct AttachArgs {
    #[command(flatten)]
    sandbox: SandboxArg,
    /// The network (name or id)
    #[arg(long)]
    network: String,
    /// The name others find it by
    #[arg(long)]
    name: Name,
    #[command(flatten)]
    identity: NamingArgs,
    /// What the interface is called inside; without it, the next free ethN
    #[arg(long, value_name = "NAME")]
    ifname: Option<String>,
}

/// What is attached.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct SandboxArg {
    /// A network namespace: its path, or its name under /run/netns
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// This host itself
    #[arg(long)]
    host: bool,
}

/// What an attachment got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Attached {
    #[serde(flatten)]
    endpoint: EndpointView,
    ifname: String,
    nameservers: Vec<String>,
    mtu: u32,
}

impl TryFrom<v1::AttachResponse> for Attached {
    type Error = Refusal;

    fn try_from(response: v1::AttachResponse) -> Result<Self, Refusal> {
        let endpoint = response
            .endpoint
            .ok_or_else(|| Refusal::new(Code::Fault, "the answer holds no endpoint"))?;

        Ok(Self {
            endpoint: EndpointView::new(endpoint, response.network_name, String::new()),
            ifname: response.ifname,
            nameservers: response.nameservers,
            mtu: response.mtu,
        })
    }
}

impl Report for Attached {
    fn text(&self, _: Page) -> String {
        let EndpointView { name, network, addresses, .. } = &self.endpoint;

        format!(
            "{name} is on {network}: {} ({}, MTU {}, nameserver {})",
            list(addresses),
            self.ifname,
            self.mtu,
            list(&self.nameservers)
        )
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(vec![self.endpoint.name.clone()])
    }

    fn ids(&self) -> Option<Vec<String>> {
        Some(vec![self.endpoint.id.clone()])
    }
}

impl AttachArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let request = self.request()?;
        let mut agent = context.agent().await?;
        let response = agent.attach(request).await?;
        let mut attached = Attached::try_from(response)?;
        attached.endpoint.node = agent.status(v1::StatusRequest {}).await?.node_name;

        context.output.show(&attached)
    }

    fn request(self) -> Outcome<v1::AttachRequest> {
        let (runtime, netns) = match &self.sandbox.netns {
            Some(netns) => (v1::Runtime::Attach, netns_path(netns)?),
            None => (v1::Runtime::Host, String::new()),
        };

        Ok(v1::AttachRequest {
            network: self.network,
            name: self.name.into(),
            aliases: self.identity.aliases.into_iter().map(Into::into).collect(),
            labels: self.identity.labels.into_iter().collect(),
            address: self.identity.ip.map(|ip| ip.to_string()).unwrap_or_default(),
            ifname: self.ifname.unwrap_or_default(),
            runtime: runtime.into(),
            netns,
            owner_pid: 0,
            replica: false,
        })
    }
}

/// Makes the path one that means the same to the agent, which works elsewhere.
fn netns_path(netns: &Path) -> Outcome<String> {
    let named = netns.components().count() == 1 && !netns.exists();
    let path = if named { Path::new("/run/netns").join(netns) } else { netns.to_owned() };
    let path = std::path::absolute(&path).map_err(|error| storage(path.display(), &error))?;
    if !path.exists() {
        return Err(Refusal::new(
            Code::NotFound,
            format!("there is no network namespace {}", path.display()),
        )
        .into());
    }

    path.into_os_string()
        .into_string()
        .map_err(|_| Refusal::new(Code::InvalidInput, "the namespace's path is not UTF-8").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_is_not_there_is_refused_here() {
        let failure = netns_path(Path::new("no-such-namespace")).expect_err("not there");

        assert!(format!("{failure:?}").contains("/run/netns/no-such-namespace"), "{failure:?}");
        assert_eq!(
            netns_path(Path::new("/proc/self/ns/net")).expect("it is there"),
            "/proc/self/ns/net"
        );
    }
}
