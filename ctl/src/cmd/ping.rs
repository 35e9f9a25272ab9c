//! `overlayctl ping`.

use std::fmt::Write;

use clap::Args;
use overlay_proto::v1;
use serde::Serialize;

use super::Context;
use crate::client::refusal;
use crate::failure::{Failure, Outcome, storage};
use crate::output::{Page, Report};
use crate::values::number;

const EXAMPLE: &str = "\
Exit code 1 when nothing answers.

Examples:
  overlayctl ping service2
  overlayctl ping service2.my-network --count 10
  overlayctl ping host-b --json";

/// Send probes over the overlay to an endpoint or a node
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct PingArgs {
    /// An endpoint's name, NAME.NETWORK, a node's name, or an address
    name: String,
    /// How many probes
    #[arg(long, short, default_value = "4", value_parser = |text: &str| number(text, 1, 1_000_000))]
    count: u32,
    /// Only there; without it, wherever the name is found
    #[arg(long)]
    network: Option<String>,
    /// Milliseconds between probes
    #[arg(long, default_value = "1000", value_name = "MS", value_parser = |text: &str| number(text, 1, 3_600_000))]
    interval: u32,
    /// Milliseconds that an answer may take
    #[arg(long, default_value = "1000", value_name = "MS", value_parser = |text: &str| number(text, 1, 3_600_000))]
    timeout: u32,
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Probe {
    sequence: u32,
    address: String,
    node: String,
    /// None: no answer.
    rtt_ms: Option<f64>,
    error: Option<String>,
}

impl From<v1::PingResponse> for Probe {
    fn from(response: v1::PingResponse) -> Self {
        let answered = response.rtt_micros > 0 && response.error.is_empty();
        let micros = u32::try_from(response.rtt_micros).unwrap_or(u32::MAX);

        Self {
            sequence: response.sequence,
            address: response.address,
            node: response.node_name,
            rtt_ms: answered.then(|| f64::from(micros) / 1_000.0),
            error: Some(response.error).filter(|error| !error.is_empty()),
        }
    }
}

impl Probe {
    fn line(&self, name: &str) -> String {
        let mut line = name.to_owned();
        let about: Vec<_> = [&self.address, &self.node]
            .into_iter()
            .filter(|w| !w.is_empty() && *w != name)
            .collect();
        if let [first, rest @ ..] = about.as_slice() {
            let _ = write!(
                line,
                " ({first}{})",
                rest.iter().map(|w| format!(" on {w}")).collect::<String>()
            );
        }
        let _ = write!(line, ": seq={}", self.sequence);
        let _ = match (&self.rtt_ms, &self.error) {
            (Some(rtt), _) => write!(line, " time={rtt:.3} ms"),
            (None, Some(error)) => write!(line, " {error}"),
            (None, None) => write!(line, " no answer"),
        };

        line
    }
}

/// The results of all probes.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Summary {
    target: String,
    sent: usize,
    answered: usize,
    loss_percent: f64,
    rtt_ms: Option<Rtt>,
    probes: Vec<Probe>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Rtt {
    min: f64,
    avg: f64,
    max: f64,
}

impl Summary {
    fn new(target: String, probes: Vec<Probe>) -> Self {
        let rtts: Vec<f64> = probes.iter().filter_map(|probe| probe.rtt_ms).collect();
        let count = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
        let (sent, answered) = (probes.len(), rtts.len());
        let rtt_ms = (answered > 0).then(|| Rtt {
            min: rtts.iter().copied().fold(f64::INFINITY, f64::min),
            avg: rtts.iter().sum::<f64>() / count(answered),
            max: rtts.iter().copied().fold(0.0, f64::max),
        });
        let loss_percent =
            if sent == 0 { 100.0 } else { 100.0 * count(sent - answered) / count(sent) };

        Self { target, sent, answered, loss_percent, rtt_ms, probes }
    }
}

impl Report for Summary {
    fn text(&self, _: Page) -> String {
        let mut text = format!(
            "--- {} ---\n{} sent, {} answered, {:.0} % lost",
            self.target, self.sent, self.answered, self.loss_percent
        );
        if let Some(Rtt { min, avg, max }) = self.rtt_ms {
            let _ = write!(text, "\nrtt min/avg/max {min:.3}/{avg:.3}/{max:.3} ms");
        }

        text
    }
}

impl PingArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let request = v1::PingRequest {
            target: self.name.clone(),
            network: self.network.clone().unwrap_or_default(),
            count: self.count,
            interval_ms: self.interval,
            timeout_ms: self.timeout,
        };
        let mut answers = context.agent().await?.ping(request).await?;
        let mut probes = Vec::new();
        let mut interrupt =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
                .map_err(|error| storage("signals cannot be awaited", &error))?;
        loop {
            let answer = tokio::select! {
                answer = answers.message() => answer.map_err(refusal)?,
                _ = interrupt.recv() => None,
            };
            let Some(answer) = answer else { break };
            let probe = Probe::from(answer);
            if !context.output.is_json() && !context.output.is_quiet() {
                context.output.line(probe.line(&self.name))?;
            }
            probes.push(probe);
        }
        if !probes.is_empty() && !context.output.is_json() && !context.output.is_quiet() {
            context.output.line("")?;
        }
        let summary = Summary::new(self.name, probes);
        context.output.show(&summary)?;

        if summary.answered > 0 { Ok(()) } else { Err(Failure::Exit(1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(sequence: u32, rtt_micros: u64, error: &str) -> Probe {
        let (address, node_name) = ("10.9.0.2".to_owned(), "b".to_owned());

        v1::PingResponse { address, node_name, sequence, rtt_micros, error: error.into() }.into()
    }

    #[test]
    fn probes_read_like_ping() {
        assert_eq!(
            probe(1, 420, "").line("service2"),
            "service2 (10.9.0.2 on b): seq=1 time=0.420 ms"
        );
        assert_eq!(probe(2, 0, "").line("b"), "b (10.9.0.2): seq=2 no answer");
        assert_eq!(probe(3, 0, "no session").line("x"), "x (10.9.0.2 on b): seq=3 no session");
    }

    #[test]
    fn a_summary_counts_what_was_lost() {
        let summary = Summary::new(
            "x".into(),
            vec![probe(1, 1_000, ""), probe(2, 0, ""), probe(3, 3_000, "")],
        );

        assert_eq!(
            summary.text(Page { now: 0, width: None, wide: false }),
            "--- x ---\n3 sent, 2 answered, 33 % lost\nrtt min/avg/max 1.000/2.000/3.000 ms"
        );
        assert_eq!(Summary::new("x".into(), vec![probe(1, 0, "")]).loss_percent, 100.0);
        assert_eq!(Summary::new("x".into(), Vec::new()).loss_percent, 100.0);
    }
}
