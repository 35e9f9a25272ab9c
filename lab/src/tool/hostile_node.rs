//! `overlay-lab hostile-node`: a node that was admitted, and turns against control and all others.
//!
//! It joins with a token, and then does all at once what its certificate lets it ask for, up to
//! each limit and beyond, as fast as it may; and it opens connections without a certificate. It
//! stops by itself, and reports what it got. It has no agent and carries no packet.

mod attacker;
mod attacks;
mod requests;
mod strangers;
mod tally;
mod unread;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use overlay_core::Name;
use overlay_proto::JoinLine;
use overlay_traffic::announcement::announce;
use overlay_traffic::signal::stop_on_signal;

use self::attacker::Attacker;
use self::strangers::Strangers;
pub(crate) use self::tally::Tally;
use super::enrolled_node::EnrolledNode;
use super::raise_descriptor_limit;

/// The output once the attack goes on.
pub(crate) const ATTACKING: &str = "attacking";
/// The prefix of the names of the networks that it makes.
pub(crate) const BAIT: &str = "bait-";

/// Options of `hostile-node`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Join line with a token that admits it
    #[arg(long)]
    join: JoinLine,
    /// Its name as a node
    #[arg(long, default_value = "hostile")]
    name: Name,
    /// Network of others that it enters
    #[arg(long)]
    network: Name,
    /// Endpoint there whose name it wants
    #[arg(long)]
    steal: Name,
    /// Seconds that it goes on
    #[arg(long)]
    seconds: u32,
    /// Connections without a certificate that it makes meanwhile
    #[arg(long)]
    strangers: u32,
}

/// Joins, attacks until the time is up or it is stopped, and prints a [`Tally`] as JSON.
///
/// # Errors
///
/// If it is not admitted.
#[expect(clippy::print_stdout, reason = "this is a command line")]
pub(crate) fn run(options: &Options) -> Result<()> {
    stop_on_signal()?;
    raise_descriptor_limit()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tally = Arc::new(Tally::default());
    let attacker = runtime.block_on(async {
        let identity = EnrolledNode::join(&options.join, &options.name).await?;
        let ends = Instant::now() + Duration::from_secs(options.seconds.into());

        Attacker::enter(identity, options, ends, Arc::clone(&tally)).await
    })?;
    let strangers = Strangers {
        line: options.join.clone(),
        count: options.strangers,
        seconds: options.seconds,
        ends: attacker.ends,
        tally: Arc::clone(&tally),
    };
    let strangers = std::thread::spawn(move || strangers.run());
    announce(ATTACKING)?;
    runtime.block_on(attacks::all(&attacker));
    // Connections that nobody reads need not be closed one by one.
    runtime.shutdown_background();
    strangers.join().ok().context("the thread of the strangers panicked")??;
    println!("{}", serde_json::to_string(&*tally)?);

    Ok(())
}
