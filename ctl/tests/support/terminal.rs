//! Types command lines on a terminal of 80 columns, and writes down what is seen.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Ran;

pub(crate) const COLUMNS: u16 = 80;

/// The word at the end of a line after which Ctrl-C is pressed, once something is seen.
pub(crate) const CTRL_C: &str = "^C";

/// How often Ctrl-C is pressed until the command ends: one that is about to listen may miss the
/// first.
const AGAIN: Duration = Duration::from_millis(200);

/// Runs a command whose standard output is a terminal; presses Ctrl-C if asked to.
pub(crate) fn on_a_terminal(mut command: Command, interrupt: bool) -> Ran {
    let size = Winsize { ws_row: 60, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(&size, None).expect("a terminal");
    let mut screen = fs::File::from(terminal.master);
    command.env("NO_COLOR", "1").stdout(Stdio::from(terminal.slave)).stderr(Stdio::piped());
    let child = command.spawn().expect("it runs");
    // Its copy of the terminal would keep the screen open.
    drop(command);
    let (sender, seen) = channel();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        // A terminal that is closed ends with an error.
        while let Ok(length @ 1..) = screen.read(&mut piece) {
            bytes.extend_from_slice(&piece[..length]);
            let _ = sender.send(());
        }
        bytes
    });
    if interrupt && seen.recv().is_ok() {
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        kill(pid, Signal::SIGINT).expect("sent");
        while let Ok(()) | Err(RecvTimeoutError::Timeout) = seen.recv_timeout(AGAIN) {
            kill(pid, Signal::SIGINT).expect("sent");
        }
    }
    let mut output = child.wait_with_output().expect("it ran");
    output.stdout = reader.join().expect("read");
    output.stdout.retain(|byte| *byte != b'\r');

    output.into()
}

/// Splits a command line as a shell does, so far as quotes go; Ctrl-C is none of its words.
pub(crate) fn words(line: &str) -> (Vec<String>, bool) {
    let typed = line.strip_suffix(CTRL_C);
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in typed.unwrap_or(line).trim().chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("a word").push(c),
        }
    }

    (words, typed.is_some())
}

/// Types a line; `prepare` makes a command of its words.
pub(crate) fn typed(line: &str, prepare: impl FnOnce(&[&str]) -> Command) -> Ran {
    let (words, interrupt) = words(line);

    on_a_terminal(prepare(&words.iter().map(String::as_str).collect::<Vec<_>>()), interrupt)
}

/// Writes down a line and what came of it.
pub(crate) fn seen(line: &str, ran: &Ran) -> String {
    let errors: String = ran.stderr.lines().map(|line| format!("! {line}\n")).collect();
    let stdout = if ran.stdout.is_empty() { String::new() } else { format!("{}\n", ran.stdout) };
    let stdout = stdout.replace("\x1b[H\x1b[2J", "<cleared>\n");

    masked(&format!("$ overlayctl {line}\n{stdout}{errors}[{}]\n\n", ran.code))
}

/// Replaces instants, which are another one at each run.
fn masked(text: &str) -> String {
    const INSTANTS: [&str; 2] = ["0000-00-00T00:00:00Z", "0000-00-00T00:00:00.000000Z"];
    let is_like = |pattern: &str, text: &[u8]| {
        pattern.len() <= text.len()
            && pattern
                .bytes()
                .zip(text)
                .all(|(p, t)| if p == b'0' { t.is_ascii_digit() } else { p == *t })
    };
    let mut masked = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let instant = INSTANTS.iter().find(|instant| is_like(instant, rest.as_bytes()));
        masked.push_str(instant.map_or(&rest[..c.len_utf8()], |_| "<instant>"));
        rest = &rest[instant.map_or(c.len_utf8(), |instant| instant.len())..];
    }

    masked
}
