//! `overlayctl run`.

use std::ffi::OsString;
use std::fs;

use clap::Args;
use overlay_core::Name;
use overlay_proto::{Code, Refusal, v1};
use serde_json::json;

use super::Context;
use super::naming::NamingArgs;
use crate::client::Agent;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, list};
use crate::sandbox::{self, Files, Sandbox};
use crate::view::EndpointView;

const EXAMPLE: &str = "\
The command sees the overlay and nothing else of the network: its own interfaces, host name and resolver. Files, \
users and processes are the host's. It ends when overlayctl ends; its exit code is passed on. Its name and addresses \
are told on standard error, unless --quiet.

Examples:
  overlayctl run --network shop --name web -- python3 -m http.server 8080
  overlayctl run --network shop -- curl http://web:8080/
  overlayctl run --network shop --name web --replica -- nginx -g 'daemon off;'
  overlayctl run --network front,back --name proxy --alias www -- haproxy -f cfg";

/// Run a command in a network namespace of its own on the overlay
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct RunArgs {
    /// The networks it is on, the first one first asked for names
    #[arg(long = "network", required = true, value_delimiter = ',', value_name = "NETWORK")]
    networks: Vec<Name>,
    /// The name others find it by; without it, its id on each network
    #[arg(long)]
    name: Option<Name>,
    /// It shares its name with others that are replicas; without this, a name is its first holder's
    #[arg(long, requires = "name")]
    replica: bool,
    #[command(flatten)]
    identity: NamingArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl RunArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        if self.identity.ip.is_some() && self.networks.len() > 1 {
            return Err(Failure::Usage(
                "--ip goes with one --network: say which one has the address".to_owned(),
            ));
        }
        if let Some(twice) = twice(&self.networks) {
            return Err(Failure::Usage(format!(
                "--network names {twice} twice: a command is on a network once"
            )));
        }
        let mut agent = context.agent().await?;
        let sandbox = Sandbox::enter()?;
        let mut attached = Vec::new();
        let outcome = self.attach_and_run(&mut agent, &sandbox, &mut attached, context).await;
        drop(agent);
        detach(&attached, context).await;

        outcome
    }

    async fn attach_and_run(
        &self,
        agent: &mut Agent,
        sandbox: &Sandbox,
        attached: &mut Vec<v1::AttachResponse>,
        context: &Context,
    ) -> Outcome {
        for network in &self.networks {
            attached.push(agent.attach(self.request(network, sandbox)?).await?);
        }
        let nsswitch = fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
        for warning in sandbox.furnish(&Files::new(attached, &nsswitch))? {
            context.output.warn(format_args!("overlayctl: {warning}"));
        }

        tell(attached, &context.output);

        match sandbox::run(&self.command) {
            Ok(0) => Ok(()),
            Ok(code) => Err(Failure::Exit(code)),
            Err((code, refusal)) => {
                context.output.refuse(&refusal);
                Err(Failure::Exit(code))
            }
        }
    }

    fn request(&self, network: &Name, sandbox: &Sandbox) -> Outcome<v1::AttachRequest> {
        let netns = sandbox
            .netns()
            .to_str()
            .ok_or_else(|| Refusal::new(Code::Fault, "a path of /proc is not UTF-8"))?;

        Ok(v1::AttachRequest {
            network: network.to_string(),
            // Without one it is its id on each network, and no id is the name of another.
            name: self.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            aliases: self.identity.aliases.iter().map(ToString::to_string).collect(),
            labels: self.identity.labels.iter().cloned().collect(),
            address: self.identity.ip.map(|ip| ip.to_string()).unwrap_or_default(),
            ifname: String::new(),
            runtime: v1::Runtime::Run.into(),
            netns: netns.to_owned(),
            owner_pid: std::process::id(),
            replica: self.replica,
        })
    }
}

fn twice(networks: &[Name]) -> Option<&Name> {
    networks
        .iter()
        .enumerate()
        .find(|(i, network)| networks[..*i].contains(network))
        .map(|(_, network)| network)
}

/// Says, beside what the command writes, how it is known and reached.
fn tell(attached: &[v1::AttachResponse], output: &Output) {
    if output.is_quiet() {
        return;
    }
    let of = |response: &v1::AttachResponse| {
        let endpoint = response.endpoint.clone()?;
        Some(EndpointView::new(endpoint, response.network_name.clone(), String::new()))
    };
    let endpoints: Vec<_> = attached.iter().filter_map(of).collect();
    if output.is_json() {
        let endpoint = |e: &EndpointView| json!({ "id": e.id, "network": e.network, "addresses": e.addresses });
        let name = endpoints.first().map(|endpoint| endpoint.name.as_str());
        output.note(json!({ "name": name, "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>() }));
        return;
    }
    for endpoint in endpoints {
        output.note(format_args!(
            "overlayctl: {} is on {}: {}",
            endpoint.name,
            endpoint.network,
            list(&endpoint.addresses)
        ));
    }
}

/// Takes the endpoints back, over a new connection: the agent may have been restarted while the
/// command ran.
async fn detach(attached: &[v1::AttachResponse], context: &Context) {
    for endpoint in attached.iter().filter_map(|a| a.endpoint.as_ref()) {
        let request =
            v1::DetachRequest { endpoint: endpoint.id.clone(), ..v1::DetachRequest::default() };
        let done = match context.agent().await {
            Ok(mut agent) => agent.detach(request).await.map(drop),
            Err(refusal) => Err(refusal),
        };
        match done {
            // An agent that is away takes the endpoint back when it returns and finds its owner
            // gone.
            Err(refusal) if refusal.code != Code::AgentAway => {
                context
                    .output
                    .warn(format_args!("overlayctl: {} is not detached: {refusal}", endpoint.name));
            }
            Ok(()) | Err(_) => {}
        }
    }
}
