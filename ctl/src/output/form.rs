//! The flags by which people and scripts choose how results are written.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::Template;
use crate::failure::{Failure, Outcome};
use crate::time;

const HEADING: &str = "Output options";

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// columns that fit the terminal
    Table,
    /// every column, on lines as long as they become
    Wide,
    /// JSON, with stable field names
    Json,
    /// names alone, one a line
    Name,
}

/// What every command takes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FormArgs {
    /// How results are written
    #[arg(long, short, global = true, help_heading = HEADING, value_enum, value_name = "FORM")]
    output: Option<Form>,
    /// The same as --output json; errors are JSON too, on standard error
    #[arg(long, global = true, help_heading = HEADING)]
    json: bool,
    /// Only ids, one a line; no word beside results
    #[arg(long, short, global = true, help_heading = HEADING)]
    pub(super) quiet: bool,
}

impl FormArgs {
    /// Returns the form that is asked for.
    ///
    /// # Errors
    ///
    /// When two are.
    pub(super) fn form(&self) -> Outcome<Form> {
        match (self.output, self.json) {
            (None | Some(Form::Json), true) => Ok(Form::Json),
            (Some(_), true) => {
                Err(Failure::Usage("--json is --output json: leave one of them out".to_owned()))
            }
            (form, false) => Ok(form.unwrap_or(Form::Table)),
        }
    }
}

/// What commands that show something take.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ShowArgs {
    /// Write each by a template: '{{.Name}}', 'table {{.Name}}\t{{.ID}}' or json
    #[arg(long, value_name = "TEMPLATE", help_heading = HEADING)]
    pub(crate) format: Option<Template>,
}

/// What commands that list something take.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) show: ShowArgs,
    /// Look again and again, and write what has changed; every 2 s unless a time is given, as
    /// --watch=10s
    #[arg(long, short, value_name = "EVERY", value_parser = time::parse, num_args = 0..=1, require_equals = true,
          default_missing_value = "2s", help_heading = HEADING)]
    pub(crate) watch: Option<Duration>,
}

/// Tells whether a command line that cannot be read asks for JSON.
pub(crate) fn wants_json(words: impl IntoIterator<Item = OsString>) -> bool {
    let words: Vec<_> = words.into_iter().take_while(|word| word != "--").collect();
    let said = |word: &OsString| {
        ["--json", "-ojson", "-o=json", "--output=json"].iter().any(|json| word == json)
    };
    let after = |pair: &[OsString]| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json";

    words.iter().any(said) || words.windows(2).any(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_heard_in_a_line_that_cannot_be_read() {
        let wants = |line: &str| wants_json(line.split(' ').map(OsString::from));

        for line in
            ["frobnicate --json", "-o json x", "x -ojson", "--output=json", "--output json y"]
        {
            assert!(wants(line), "{line}");
        }
        for line in ["run -- jq --json", "-o wide json", "--output name"] {
            assert!(!wants(line), "{line}");
        }
    }
}
