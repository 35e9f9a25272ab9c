//! The first join line of a cluster: control prints it once, so it is kept until this machine has joined with it.

use std::fs;
use std::io;
use std::process::{Command, Stdio};

use overlay_proto::{Code, JoinLine, Refusal};
use serde::Deserialize;

use super::Init;
use crate::cmd::Context;
use crate::failure::{Outcome, storage};
use crate::spawn::find_program;
use crate::state::{Service, StateDir, truncate};

#[derive(Deserialize)]
struct Printed {
    join: String,
}

/// Reads the line that is kept, or sets control up, which makes one.
pub(super) fn take(init: &Init, state: &StateDir, context: &Context) -> Outcome<JoinLine> {
    if let Some(line) = kept(state) {
        return Ok(line);
    }
    if state.has(Service::Control) && !is_empty(state) {
        let text = format!(
            "control is set up in {} but its first join line has been used: to make this machine a node, use a line of \
             `overlayctl token create` from an admin node; to begin anew, run `overlayctl leave` first",
            state.root().display()
        );
        return Err(Refusal::new(Code::WrongState, text).into());
    }
    context.output.step("Setting up control");
    set_up(init, state)?;

    kept(state).ok_or_else(|| Refusal::new(Code::Fault, "overlay-control printed no join line").into())
}

/// Removes the line after it was used.
pub(super) fn forget(state: &StateDir) -> Outcome {
    match fs::remove_file(state.first_line()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(storage(state.first_line().display(), &error).into())
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn kept(state: &StateDir) -> Option<JoinLine> {
    let printed: Printed = serde_json::from_slice(&fs::read(state.first_line()).ok()?).ok()?;

    printed.join.parse().ok()
}

fn is_empty(state: &StateDir) -> bool {
    fs::read_dir(state.of(Service::Control)).is_ok_and(|mut entries| entries.next().is_none())
}

/// Control writes the line straight into the file: nothing is lost when we are killed meanwhile.
fn set_up(init: &Init, state: &StateDir) -> Outcome {
    let path = state.first_line();
    let file = truncate(&path).map_err(|error| storage(path.display(), &error))?;
    let mut command = Command::new(find_program(Service::Control)?);
    command.arg("init").arg("--state").arg(state.of(Service::Control)).arg("--json");
    if let Some(listen) = init.listen {
        command.arg("--listen").arg(listen.to_string());
    }
    if let Some(pool) = init.pool {
        command.arg("--pool").arg(pool.to_string());
    }
    for address in &init.advertise {
        command.arg("--advertise").arg(address.to_string());
    }
    let output = command.stdin(Stdio::null()).stdout(file).stderr(Stdio::piped()).output();
    let output = output.map_err(|error| storage("overlay-control", &error))?;
    if output.status.success() {
        return Ok(());
    }
    forget(state)?;

    Err(refusal(&String::from_utf8_lossy(&output.stderr)).into())
}

/// Reads `overlay-control: <message> [<code>]` back.
fn refusal(said: &str) -> Refusal {
    let line = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("overlay-control failed without a word");
    let line = line.strip_prefix("overlay-control: ").unwrap_or(line);
    let coded = line.strip_suffix(']').and_then(|line| line.rsplit_once(" ["));
    let coded = coded.and_then(|(message, word)| Some((message, Code::from_word(word)?)));

    match coded {
        Some((message, code)) => Refusal::new(code, message),
        None => Refusal::new(Code::Fault, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_control_refuses_keeps_its_code() {
        assert_eq!(
            refusal("overlay-control: --pool 10.0.0.0/30: use at least a /24 [invalid-input]\n"),
            Refusal::new(Code::InvalidInput, "--pool 10.0.0.0/30: use at least a /24")
        );
        assert_eq!(refusal("Error: x").code, Code::Fault);
        assert_eq!(refusal("").code, Code::Fault);
    }
}
