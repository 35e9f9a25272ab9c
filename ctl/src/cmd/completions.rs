//! `overlayctl completions`.

use clap::{Args, Command, ValueEnum};
use clap_complete::{Shell, generate};
use overlay_proto::{Code, Refusal};

use super::Context;
use crate::failure::Outcome;

const EXAMPLE: &str = "\
Examples:
  overlayctl completions bash > /etc/bash_completion.d/overlayctl
  overlayctl completions zsh > /usr/local/share/zsh/site-functions/_overlayctl
  overlayctl completions fish > ~/.config/fish/completions/overlayctl.fish
  source <(overlayctl completions bash)               for this shell alone";

/// Write the completion of commands and options for a shell
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: ShellArg,
}

/// A shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ShellArg {
    Bash,
    Zsh,
    Fish,
}

impl CompletionsArgs {
    /// Writes the completion of `cli`, the whole command line.
    pub(crate) fn run(&self, context: &Context, mut cli: Command) -> Outcome {
        let shell = match self.shell {
            ShellArg::Bash => Shell::Bash,
            ShellArg::Zsh => Shell::Zsh,
            ShellArg::Fish => Shell::Fish,
        };
        let mut script = Vec::new();
        generate(shell, &mut cli, "overlayctl", &mut script);
        let script = String::from_utf8(script).map_err(|error| Refusal::new(Code::Fault, error))?;

        context.output.line(script.trim_end())
    }
}
