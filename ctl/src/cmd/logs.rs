//! `overlayctl logs`: the journal where systemd runs the services, else their log files.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use clap::{Args, ValueEnum};
use overlay_core::instant::rfc3339;
use overlay_proto::{Code, Refusal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::Context;
use crate::failure::{Failure, Outcome, storage};
use crate::output::{Output, now};
use crate::spawn;
use crate::state::{DEFAULT_STATE, Service, StateDir};
use crate::time;
use crate::values::number;

/// How often a followed file is looked at.
const LOOK: Duration = Duration::from_millis(200);

const EXAMPLE: &str = "\
`OVERLAY_LOG=debug` in a program's environment makes it tell more.

Examples:
  overlayctl logs
  overlayctl logs -f -n 20
  overlayctl logs control --since 10m";

/// Show what the agent or control has logged
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct LogsArgs {
    /// Whose; without it, the agent's where there is one
    program: Option<Which>,
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Only the last lines
    #[arg(long, short = 'n', visible_alias = "tail", value_name = "N", value_parser = |text: &str| number(text, 0, 1_000_000))]
    lines: Option<u32>,
    /// Only what is not older: 90s, 15m, 24h or 7d
    #[arg(long, value_name = "AGO", value_parser = time::parse)]
    since: Option<Duration>,
    /// Where init or join put the state; without it, where the running agent has it
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// Which service's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Agent,
    Control,
}

impl LogsArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let state = self.state_dir(context).await?;
        state.check_readable()?;
        let service = self.service(&state)?;
        if spawn::is_unit(service, &state) {
            return self.journal(service).await;
        }
        let log = state.log(service);
        match log.try_exists() {
            Ok(true) => self.file(&log, &context.output).await,
            Ok(false) => {
                let text = format!(
                    "{} has no log at {}: it writes to where it was started",
                    service.program(),
                    log.display()
                );
                Err(Refusal::new(Code::NotFound, text).into())
            }
            Err(error) => Err(storage(log.display(), &error).into()),
        }
    }

    async fn state_dir(&self, context: &Context) -> Outcome<StateDir> {
        if let Some(dir) = &self.state {
            return StateDir::new(dir);
        }
        let running = context
            .status()
            .await
            .ok()
            .and_then(|status| StateDir::of_agent(status.state_dir.as_ref()));

        running.map_or_else(|| StateDir::new(Path::new(DEFAULT_STATE)), Ok)
    }

    fn service(&self, state: &StateDir) -> Outcome<Service> {
        let wanted = match self.program {
            Some(Which::Agent) => Some(Service::Agent),
            Some(Which::Control) => Some(Service::Control),
            None => None,
        };
        let service = wanted.or_else(|| {
            [Service::Agent, Service::Control].into_iter().find(|service| state.has(*service))
        });

        service.filter(|service| state.has(*service)).ok_or_else(|| {
            let what = wanted
                .map_or("nothing is".to_owned(), |service| format!("{} is not", service.program()));
            let text = format!(
                "{what} set up in {}: use `init` or `join`, or give another --state",
                state.root().display()
            );
            Refusal::new(Code::NotFound, text).into()
        })
    }

    /// Lets journalctl write.
    async fn journal(&self, service: Service) -> Outcome {
        let mut command = tokio::process::Command::new("journalctl");
        command.args(["--no-pager", "--unit", service.program()]).stdin(Stdio::null());
        if let Some(lines) = self.lines {
            command.args(["--lines", &lines.to_string()]);
        } else if self.follow {
            command.args(["--lines", "all"]);
        }
        if let Some(since) = self.since {
            command.args(["--since", &format!("@{}", now().saturating_sub(since.as_secs()))]);
        }
        if self.follow {
            command.arg("--follow");
        }
        let status = command.status().await.map_err(|error| storage("journalctl", &error))?;

        ended(status)
    }

    async fn file(&self, log: &Path, output: &Output) -> Outcome {
        let failed = |error: std::io::Error| Failure::from(storage(log.display(), &error));
        // Whoever has seen the first line may press Ctrl-C.
        let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut reader = Follower::open(log).map_err(failed)?;
        let text = reader.read().map_err(failed)?;
        let begin = self.since.map(|since| rfc3339(now().saturating_sub(since.as_secs())));
        for line in chosen(&text, begin.as_deref(), self.lines) {
            output.line(line)?;
        }
        if !self.follow {
            return Ok(());
        }
        loop {
            tokio::select! {
                () = sleep(LOOK) => {}
                _ = interrupted.recv() => return Ok(()),
            }
            let text = reader.read().map_err(failed)?;
            if !text.is_empty() {
                output.line(text.trim_end_matches('\n'))?;
            }
        }
    }
}

fn ended(status: ExitStatus) -> Outcome {
    match status.code() {
        Some(0) => Ok(()),
        // Ctrl-C reached journalctl too.
        None => Ok(()),
        Some(code) => Err(Failure::Exit(u8::try_from(code).unwrap_or(1))),
    }
}

/// Reads whole lines of a file that grows, is cut, or is replaced.
#[derive(Debug)]
struct Follower {
    path: PathBuf,
    file: File,
    at: u64,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Follower {
    fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: File::open(path)?, at: 0, rest: Vec::new() })
    }

    /// Returns the lines that were written since the last time.
    fn read(&mut self) -> std::io::Result<String> {
        let replaced = match fs::metadata(&self.path) {
            Ok(there) => !same_file(&there, &self.file.metadata()?),
            Err(_) => false,
        };
        let mut text = self.read_on()?;
        if replaced {
            *self = Self::open(&self.path)?;
            text.push_str(&self.read_on()?);
        }

        Ok(text)
    }

    fn read_on(&mut self) -> std::io::Result<String> {
        if self.file.metadata()?.len() < self.at {
            self.at = self.file.seek(SeekFrom::Start(0))?;
            self.rest.clear();
        }
        let mut bytes = std::mem::take(&mut self.rest);
        let begun = bytes.len();
        self.file.read_to_end(&mut bytes)?;
        self.at += u64::try_from(bytes.len() - begun).unwrap_or(u64::MAX);
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        self.rest = bytes.split_off(whole);

        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn same_file(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;

    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Chooses the lines that are not older, and of those the last ones; a line without a time belongs
/// to the one before.
fn chosen<'a>(text: &'a str, begin: Option<&str>, last: Option<u32>) -> Vec<&'a str> {
    let is_time = |line: &str| {
        line.len() > 19
            && line.as_bytes()[10] == b'T'
            && line.as_bytes()[..4].iter().all(u8::is_ascii_digit)
    };
    let mut young = begin.is_none();
    let lines = text.lines().filter(|line| {
        if let (Some(begin), true) = (begin, is_time(line)) {
            young = line.get(..19) >= begin.get(..19);
        }
        young
    });
    let lines: Vec<_> = lines.collect();
    let skipped = last
        .map_or(0, |last| lines.len().saturating_sub(usize::try_from(last).unwrap_or(usize::MAX)));

    lines[skipped..].to_vec()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LOG: &str = "\
2026-11-29T10:00:00.000001Z  INFO one
2026-11-29T10:05:00.000001Z  INFO two
  and more of two
2026-11-29T10:10:00.000001Z  INFO three
";

    #[test]
    fn lines_are_chosen_by_age_and_number() {
        assert_eq!(chosen(LOG, None, None).len(), 4);
        assert_eq!(chosen(LOG, None, Some(1)), ["2026-11-29T10:10:00.000001Z  INFO three"]);
        assert_eq!(chosen(LOG, Some("2026-11-29T10:05:00Z"), None).len(), 3);
        assert_eq!(chosen(LOG, Some("2026-11-29T11:00:00Z"), None), Vec::<&str>::new());
        assert_eq!(chosen(LOG, Some("2026-11-29T10:05:00Z"), Some(0)), Vec::<&str>::new());
    }

    #[test]
    fn a_followed_file_may_grow_be_cut_and_be_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        fs::write(&path, "one\ntw").expect("written");
        let mut follower = Follower::open(&path).expect("open");

        assert_eq!(follower.read().expect("read"), "one\n");
        fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(b"o\n"))
            .expect("written");
        assert_eq!(follower.read().expect("read"), "two\n");
        fs::write(&path, "3\n").expect("cut");
        assert_eq!(follower.read().expect("read"), "3\n");
        fs::write(dir.path().join("new"), "four\n")
            .and_then(|()| fs::rename(dir.path().join("new"), &path))
            .expect("replaced");
        assert_eq!(follower.read().expect("read"), "four\n");
    }
}
