//! The command line as a whole: what every command shares, and the list of commands, each of which
//! has its words in its file.

#[cfg(test)]
mod coverage;

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::cmd::{self, Context};
use crate::failure::Outcome;
use crate::output::FormArgs;

/// Where the agent listens unless told otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/run/overlay/agent.sock";

const ABOUT: &str = "One network for containers and processes on many hosts, over WireGuard";
const EXAMPLE: &str = "\
The first hour:
  a# overlayctl init                          prints a join line
  b# overlayctl join ovl1-…@192.0.2.1:7443    on every other host
  a# overlayctl network create shop           on any of them
  b# overlayctl run --network shop --name web -- python3 -m http.server 8080
  a# overlayctl run --network shop -- curl http://web:8080/

What is there, and whether it works:
  overlayctl status    what works on this node, and what does not
  overlayctl ps        endpoints on all hosts
  overlayctl net       networks; `node`, `token` and `peers` alike
  overlayctl ps --format 'table {{.Name}}\\t{{.Addresses}}\\t{{.Node}}'

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the agent or control \
cannot be reached.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "overlayctl", version, about = ABOUT, after_help = EXAMPLE, max_term_width = 120)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The agent's socket; without it, the one that OVERLAY_SOCKET names, else
    /// /run/overlay/agent.sock
    #[arg(long, global = true, help_heading = "Global options", value_name = "PATH",
          default_value_os_t = socket(), hide_default_value = true)]
    pub(crate) socket: PathBuf,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// Returns where the agent listens; a default and no `env` of clap's, which would show in the usage
/// of every mistake.
fn socket() -> PathBuf {
    std::env::var_os("OVERLAY_SOCKET")
        .filter(|path| !path.is_empty())
        .map_or(DEFAULT_SOCKET.into(), PathBuf::from)
}

/// Every command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(cmd::init::InitArgs),
    Join(cmd::join::JoinArgs),
    Start(cmd::start::StartArgs),
    Stop(cmd::stop::StopArgs),
    Leave(cmd::leave::LeaveArgs),
    Token(cmd::token::TokenArgs),
    Node(cmd::node::NodeArgs),
    Control(cmd::control::ControlArgs),
    Network(cmd::network::NetworkArgs),
    Endpoint(cmd::endpoint::EndpointArgs),
    Ps(cmd::endpoint::PsArgs),
    Policy(cmd::policy::PolicyArgs),
    Run(cmd::run::RunArgs),
    Attach(cmd::attach::AttachArgs),
    Detach(cmd::detach::DetachArgs),
    Status(cmd::status::StatusArgs),
    Peers(cmd::peers::PeersArgs),
    Ping(cmd::ping::PingArgs),
    Events(cmd::events::EventsArgs),
    Audit(cmd::audit::AuditArgs),
    Logs(cmd::logs::LogsArgs),
    Upgrade(cmd::upgrade::UpgradeArgs),
    Version(cmd::version::VersionArgs),
    Completions(cmd::completions::CompletionsArgs),
    #[command(hide = true)]
    Man(cmd::man::ManArgs),
}

/// Does what was asked.
pub(crate) async fn dispatch(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Init(init) => init.run(context).await,
        Command::Join(join) => join.run(context).await,
        Command::Start(start) => start.run(context).await,
        Command::Stop(stop) => stop.run(context).await,
        Command::Leave(leave) => leave.run(context).await,
        Command::Token(token) => token.run(context).await,
        Command::Node(node) => node.run(context).await,
        Command::Control(control) => control.run(context).await,
        Command::Network(network) => network.run(context).await,
        Command::Endpoint(endpoint) => endpoint.run(context).await,
        Command::Ps(ps) => ps.run(context).await,
        Command::Policy(policy) => policy.run(context).await,
        Command::Run(run) => run.run(context).await,
        Command::Attach(attach) => attach.run(context).await,
        Command::Detach(detach) => detach.run(context).await,
        Command::Status(status) => status.run(context).await,
        Command::Peers(peers) => peers.run(context).await,
        Command::Ping(ping) => ping.run(context).await,
        Command::Events(events) => events.run(context).await,
        Command::Audit(audit) => audit.run(context).await,
        Command::Logs(logs) => logs.run(context).await,
        Command::Upgrade(upgrade) => upgrade.run(context).await,
        Command::Version(version) => version.run(context).await,
        Command::Completions(completions) => completions.run(context, Cli::command()),
        Command::Man(man) => man.run(Cli::command()),
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn parse(words: &[&str]) -> Result<Cli, ErrorKind> {
        Cli::try_parse_from(std::iter::once(&"overlayctl").chain(words))
            .map_err(|error| error.kind())
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_contract_parses() {
        let lines = [
            "init --listen 192.0.2.1:7443 --state /tmp/x --pool 10.64.0.0/10 --no-join",
            "init --foreground --json",
            "join ovl1-x --state /tmp/x --advertise 192.0.2.2 --foreground",
            "join -",
            "start --state /tmp/x",
            "leave",
            "token create --ttl 1h --uses 3 --label rack=1 --role admin",
            "token ls --json",
            "token rm 0123456789abcdef",
            "node ls",
            "node show b",
            "node rm b",
            "control ls --json",
            "control set 192.0.2.1 control.example:7443 [2001:db8::1]:7443 --force",
            "network create n --subnet 10.9.0.0/16 --subnet fd00::/64 --mode l3 --label a=b",
            "network ls",
            "network inspect n",
            "network rm n",
            "run --network n,m --name s --label k=v --alias t -- sh -c true",
            "run --network n --ip 10.9.0.9 -- true",
            "attach --netns /run/netns/x --network n --name s --ip 10.9.0.9 --alias t --ifname eth0",
            "attach --host --network n --name s",
            "detach --network n --name s",
            "endpoint ls --network n",
            "status --socket /tmp/s",
            "status --check",
            "peers",
            "ping s --count 3 --network n",
            "policy test /tmp/x --offline",
            "policy diff /tmp/x --from /tmp/y",
            "stop --state /tmp/x",
            "events --json",
            "events --follow",
            "audit --since 1h --node b --network n --follow",
            "audit ls -n 5 --since 2026-01-31T12:00:00Z",
            "audit show 1 2 --json",
            "audit verify --head /tmp/x",
            "logs",
            "logs control -f -n 5 --since 10m",
            "upgrade --binary /opt/overlayd --json",
            "version --format {{.Client.Version}}",
            "completions zsh",
            "man /tmp/x",
            "network",
            "net -q",
            "network -o wide",
            "node",
            "token -o name",
            "endpoint --network n --watch",
            "ps --watch=5s --network n",
            "endpoint show a b",
            "network inspect n m --format {{.Name}}",
            "node show a b -o json",
        ];
        for line in lines {
            let words: Vec<_> = line.split(' ').collect();
            assert!(parse(&words).is_ok(), "{line}: {:?}", parse(&words).err());
        }
    }

    #[test]
    fn words_that_do_not_go_together_are_refused() {
        let lines = [
            "run --network n",
            "run --network a.b -- true",
            "run -- true",
            "attach --network n --name s",
            "attach --host --netns /x --network n --name s",
            "network create n --subnet 10.0.0.0",
            "network create n --mode l2",
            "network ls --format {{Name}}",
            "network ls --watch 5s",
            "-o yaml status",
            "completions tcsh",
            "logs docker",
            "logs -n many",
            "logs --since yesterday",
            "audit --since yesterday",
            "audit verify --from-hash 12",
            "network create -x",
            "token create --ttl 1",
            "init --listen 7443",
            "control set",
            "join x --advertise 0.0.0.0",
            "ping s --count 0",
            "policy",
            "policy diff /tmp/x --offline",
        ];
        for line in lines {
            let words: Vec<_> = line.split(' ').collect();
            assert!(parse(&words).is_err(), "{line}");
        }
    }

    #[test]
    fn every_command_teaches_with_an_example() {
        const COLUMNS: usize = 80;
        fn check(command: &clap::Command) {
            command.get_subcommands().for_each(check);
            if command.get_name() != "overlayctl" && command.get_name() != "help" {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("overlayctl "), "{} has no example", command.get_name());
                assert!(
                    command.get_about().is_some(),
                    "{} says nothing of itself",
                    command.get_name()
                );
            }
            // What is aligned cannot be wrapped; prose is wrapped by clap, and only where no line
            // is broken by hand.
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(!help.contains('\t'), "{}: a template has \\t, and no tab", command.get_name());
            let is_aligned = |line: &&str| line.starts_with("  ");
            for line in help.lines().filter(is_aligned) {
                assert!(
                    line.chars().count() <= COLUMNS,
                    "{}: too wide for a terminal: {line}",
                    command.get_name()
                );
            }
            for (line, next) in
                help.lines().zip(help.lines().skip(1)).filter(|(line, _)| !is_aligned(line))
            {
                let ends = line.is_empty() || line.ends_with(['.', ':']) || next.is_empty();
                assert!(ends, "{}: broken by hand: {line}", command.get_name());
            }
        }

        check(&Cli::command());
    }
}
