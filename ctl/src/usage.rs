//! Command lines that cannot be read, and words that are kept for what is to come.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::output::{Form, Output, wants_json};

/// The exit code of wrong usage.
const WRONG_USAGE: u8 = 2;

/// Words of the contract that no version has yet, and what each will do.
const RESERVED: [(&str, &str); 12] = [
    ("bench", "measure what a path carries"),
    ("bundle", "collect what a report of a fault needs"),
    ("ca", "rotate the certificate authority"),
    ("capture", "record packets inside a network"),
    ("client", "admit clients that are no nodes"),
    ("doctor", "look for what is wrong on this host"),
    ("flows", "show who talks to whom"),
    ("rotate", "exchange keys"),
    ("stats", "show figures over time"),
    ("top", "show the busiest endpoints"),
    ("why", "tell why one endpoint reaches another, or not"),
    ("netcheck", "tell how this host is reached"),
];

/// Answers a command line that clap could not read, or that asked for help.
pub(crate) fn answer(error: &clap::Error) -> ExitCode {
    let output =
        Output::plain(if wants_json(std::env::args_os()) { Form::Json } else { Form::Table });
    if !error.use_stderr() {
        // Nobody is left to be helped when standard output is closed.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    match reserved(error) {
        Some(text) => {
            output.error("unsupported", &text, &format!("overlayctl: {text} [unsupported]"))
        }
        None if output.is_json() => output.error("usage", &first_paragraph(error), ""),
        None => {
            let _ = error.print();
        }
    }

    ExitCode::from(WRONG_USAGE)
}

/// Finds the word that is kept for later, if that is what is wrong.
fn reserved(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else {
        return None;
    };
    let (_, will) = RESERVED.iter().find(|(reserved, _)| reserved == word)?;

    Some(format!("this version does not have `{word}` yet: the word is reserved, it will {will}"))
}

/// Returns what is wrong in one line: what follows in clap's text is usage and advice.
fn first_paragraph(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
    let line = lines.collect::<Vec<_>>().join(" ");

    line.strip_prefix("error: ").map_or_else(|| line.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn error(line: &str) -> clap::Error {
        Cli::try_parse_from(line.split(' ')).expect_err("wrong")
    }

    #[test]
    fn words_that_are_kept_for_later_are_said_to_be() {
        for line in [
            "overlayctl why a b tcp/8080",
            "overlayctl network capture a b",
            "overlayctl why --help",
        ] {
            let text = reserved(&error(line)).unwrap_or_default();
            assert!(text.contains("the word is reserved"), "{line}: {text}");
        }
        assert_eq!(reserved(&error("overlayctl frobnicate")), None);
        assert_eq!(reserved(&error("overlayctl run")), None);
    }

    #[test]
    fn no_reserved_word_is_a_command() {
        use clap::CommandFactory;

        let cli = Cli::command();
        let taken: Vec<_> =
            RESERVED.iter().filter(|(word, _)| cli.find_subcommand(word).is_some()).collect();

        assert!(taken.is_empty(), "{taken:?}");
    }

    #[test]
    fn what_is_wrong_is_one_line() {
        assert_eq!(first_paragraph(&error("overlayctl statu")), "unrecognized subcommand 'statu'");
        assert_eq!(
            first_paragraph(&error("overlayctl attach --host")),
            "the following required arguments were not provided: --network <NETWORK> --name <NAME>"
        );
    }
}
