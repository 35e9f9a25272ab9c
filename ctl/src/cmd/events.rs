//! `overlayctl events`.

use clap::Args;
use overlay_core::instant::rfc3339;
use overlay_proto::v1;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use crate::client::refusal;
use crate::failure::{Outcome, storage};
use crate::output::{Page, Report, ShowArgs};

const EXAMPLE: &str = "\
Nodes that join and leave, networks and endpoints that come and go, policies, and problems of this node, as the agent \
hears of them; until Ctrl-C. What was before, and who did it, `overlayctl audit` tells.

Examples:
  overlayctl events
  overlayctl events --json | jq -r 'select(.kind == \"node-joined\") | .name'
  overlayctl events --format '{{.Kind}} {{.Name}}'";

/// Tell what changes, as it happens
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct EventsArgs {
    /// Taken for those who are used to it: changes are always followed
    #[arg(long, short, hide = true)]
    follow: bool,
    #[command(flatten)]
    show: ShowArgs,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct EventView {
    time: String,
    kind: &'static str,
    name: String,
    network: Option<String>,
    node: Option<String>,
    text: Option<String>,
}

impl From<v1::Event> for EventView {
    fn from(event: v1::Event) -> Self {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());

        Self {
            time: rfc3339(event.unix_ms / 1_000),
            kind: kind(event.kind()),
            name: event.name,
            network: some(event.network),
            node: some(event.node),
            text: some(event.text),
        }
    }
}

fn kind(kind: v1::EventKind) -> &'static str {
    match kind {
        v1::EventKind::NodeJoined => "node-joined",
        v1::EventKind::NodeLeft => "node-left",
        v1::EventKind::NetworkCreated => "network-created",
        v1::EventKind::NetworkRemoved => "network-removed",
        v1::EventKind::MemberAdded => "member-added",
        v1::EventKind::MemberRemoved => "member-removed",
        v1::EventKind::EndpointAttached => "endpoint-attached",
        v1::EventKind::EndpointDetached => "endpoint-detached",
        v1::EventKind::EndpointChanged => "endpoint-changed",
        v1::EventKind::ProblemRaised => "problem-raised",
        v1::EventKind::ProblemCleared => "problem-cleared",
        v1::EventKind::PolicyReplaced => "policy-replaced",
        v1::EventKind::Unspecified => "unknown",
    }
}

impl Report for EventView {
    fn text(&self, _: Page) -> String {
        let mut line = format!("{}  {:17}  {}", self.time, self.kind, self.name);
        if let Some(network) = self.network.as_ref().filter(|network| **network != self.name) {
            line.push_str(&format!(" on {network}"));
        }
        if let Some(node) = self.node.as_ref().filter(|node| **node != self.name) {
            line.push_str(&format!(" at {node}"));
        }
        if let Some(text) = &self.text {
            line.push_str(&format!(": {}", text.replace(char::is_control, " ")));
        }

        line
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(vec![self.name.clone()])
    }
}

impl EventsArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let output = context.output.formatted(self.show.format)?;
        let mut interrupted = signal(SignalKind::interrupt())
            .map_err(|error| storage("signals cannot be awaited", &error))?;
        let mut events = context.agent().await?.events(v1::EventsRequest {}).await?;
        output.step("Waiting for changes; Ctrl-C ends");
        loop {
            let event = tokio::select! {
                event = events.message() => event.map_err(refusal)?,
                _ = interrupted.recv() => return Ok(()),
            };
            // This machine has left its cluster.
            let Some(event) = event else { return Ok(()) };
            output.line(output.render(&EventView::from(event))?)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_line() {
        let event = v1::Event {
            unix_ms: 1_700_000_000_123,
            kind: v1::EventKind::EndpointAttached.into(),
            name: "service2".into(),
            network: "web".into(),
            node: "host-b".into(),
            text: "10.9.0.2".into(),
        };

        let view = EventView::from(event);

        assert_eq!(
            view.text(Page { now: 0, width: None, wide: false }),
            "2023-11-14T22:13:20Z  endpoint-attached  service2 on web at host-b: 10.9.0.2"
        );
    }
}
