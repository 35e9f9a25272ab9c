//! The join line by which this machine becomes the first admin: control prints one when it is set
//! up, and another one when setting up was interrupted afterwards.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use ipnet::Ipv4Net;
use overlay_proto::{Code, JoinLine, Refusal};
use serde::Deserialize;

use crate::cmd::Context;
use crate::failure::{Outcome, storage};
use crate::spawn::{self, find_program};
use crate::state::{Service, StateDir};

/// How control is to be set up, where it is not.
#[derive(Debug)]
pub(super) struct ControlSetup<'a> {
    /// Where it listens.
    pub(super) listen: Option<SocketAddr>,
    /// Where the prefixes of networks come from.
    pub(super) pool: Option<Ipv4Net>,
    /// The addresses that join lines carry.
    pub(super) advertise: &'a [IpAddr],
    /// Its options.
    pub(super) config: Option<&'a Path>,
}

#[derive(Deserialize)]
struct Printed {
    join: String,
}

/// Sets control up unless that is done, and returns a line that admits an admin.
pub(super) async fn take(
    setup: &ControlSetup<'_>,
    state: &StateDir,
    context: &Context,
) -> Outcome<JoinLine> {
    let control = state.of(Service::Control);
    if !is_empty(&control) {
        // Control holds its store while it runs.
        spawn::stop(Service::Control, state).await?;
        // What was interrupted early is set up anew; what is damaged is told as control tells it.
        return match ask(&mut token(&control)?) {
            Ok(line) => Ok(line),
            Err(damage) => ask(&mut set_up(setup, &control)?).map_err(|_| damage.into()),
        };
    }
    context.output.step("Setting up control");

    Ok(ask(&mut set_up(setup, &control)?)?)
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

fn set_up(setup: &ControlSetup<'_>, control: &Path) -> Result<Command, Refusal> {
    let mut command = Command::new(find_program(Service::Control)?);
    command.arg("init").arg("--state").arg(control).arg("--json");
    if let Some(listen) = setup.listen {
        command.arg("--listen").arg(listen.to_string());
    }
    if let Some(pool) = setup.pool {
        command.arg("--pool").arg(pool.to_string());
    }
    for address in setup.advertise {
        command.arg("--advertise").arg(address.to_string());
    }
    if let Some(path) = setup.config {
        command.arg("--config").arg(path);
    }

    Ok(command)
}

fn token(control: &Path) -> Result<Command, Refusal> {
    let mut command = Command::new(find_program(Service::Control)?);
    command.arg("token").arg("--state").arg(control).args(["--role", "admin", "--json"]);

    Ok(command)
}

fn ask(command: &mut Command) -> Result<JoinLine, Refusal> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| storage("overlay-control", &error))?;
    if !output.status.success() {
        return Err(refusal(&String::from_utf8_lossy(&output.stderr)));
    }
    let printed = serde_json::from_slice::<Printed>(&output.stdout).ok();

    printed
        .and_then(|printed| printed.join.parse().ok())
        .ok_or_else(|| Refusal::new(Code::Fault, "overlay-control printed no join line"))
}

/// Reads `overlay-control: <message>` or `overlay-control: <message> [<code>]` back.
fn refusal(said: &str) -> Refusal {
    let line = said
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("overlay-control failed without a word");
    let line = line.strip_prefix("overlay-control: ").unwrap_or(line);
    let coded = line.strip_suffix(']').and_then(|line| line.rsplit_once(" ["));
    let coded = coded.and_then(|(message, word)| Some((message, Code::from_word(word)?)));

    match coded {
        Some((message, code)) => Refusal::new(code, message),
        None => Refusal::new(Code::InvalidInput, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_control_refuses_keeps_its_words() {
        let text = "--pool 10.0.0.0/30: use at least a /24";

        assert_eq!(refusal(&format!("overlay-control: {text}\n")).message, text);
        assert_eq!(
            refusal(&format!("a log line\noverlay-control: {text} [in-use]\n")),
            Refusal::new(Code::InUse, text)
        );
        assert!(!refusal("").message.is_empty());
    }
}
