//! Configuration files: each key is the name of a command line option, and its value that of the
//! option.
//!
//! The command line takes precedence over the environment, and that over the file. A file is always
//! checked as a whole, even where it is overridden: every mistake is reported, with its line and
//! key.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, Parser};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The exit code of programs whose configuration is invalid (`EX_USAGE` of sysexits.h).
pub const EXIT_CODE: u8 = 64;

/// The option that names the file; commands with this option read one.
const CONFIG: &str = "config";
/// Options that make no sense in a file.
const ELSEWHERE: [&str; 6] = [CONFIG, "check-config", "json", "help", "take-over", "version"];

/// One mistake in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line number, from 1.
    pub line: usize,
    /// The key, if the mistake concerns one.
    pub key: Option<String>,
    /// What is wrong, and what to write instead.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "line {}, {key}: {}", self.line, self.what),
            None => write!(f, "line {}: {}", self.line, self.what),
        }
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidFile {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The path of the file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file has mistakes.
    #[error("{}: {}", path.display(), listed(mistakes))]
    Mistaken {
        /// The path of the file.
        path: PathBuf,
        /// The mistakes, by line.
        mistakes: Vec<Mistake>,
    },
}

fn listed(mistakes: &[Mistake]) -> String {
    match mistakes {
        [one] => one.to_string(),
        many => {
            let lines: String = many.iter().map(|mistake| format!("\n  {mistake}")).collect();
            format!("{} mistakes{lines}", many.len())
        }
    }
}

/// Parses a command line, and takes missing options from the file that it names, or from `default`
/// if that exists. As with [`Parser::parse`], the process exits for `--help` and for an invalid
/// command line.
///
/// # Errors
///
/// [`InvalidFile`] if the file cannot be read or has mistakes.
pub fn parse<T: Parser>(
    default: &Path,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<T, InvalidFile> {
    let mut arguments: Vec<_> = arguments.into_iter().collect();
    let mut command = T::command();
    command.build();
    let matches =
        command.clone().try_get_matches_from(&arguments).unwrap_or_else(|error| error.exit());
    let (active, given, place) = match matches.subcommand() {
        Some((name, given)) => {
            let place = arguments
                .iter()
                .position(|word| word == name)
                .map_or(arguments.len(), |place| place + 1);
            (command.find_subcommand(name).unwrap_or(&command), given, place)
        }
        None => (&command, &matches, 1),
    };
    if takes_file(active)
        && let Some((path, text)) = read(given, default)?
    {
        let from_file = options(&command, active, given, &text)
            .map_err(|mistakes| InvalidFile::Mistaken { path, mistakes })?;
        arguments.splice(place..place, from_file);
    }

    Ok(T::try_parse_from(arguments).unwrap_or_else(|error| error.exit()))
}

fn takes_file(command: &Command) -> bool {
    command.get_arguments().any(|argument| argument.get_long() == Some(CONFIG))
}

fn read(given: &ArgMatches, default: &Path) -> Result<Option<(PathBuf, String)>, InvalidFile> {
    let named = given.get_one::<PathBuf>(CONFIG).cloned();
    let path = named.clone().unwrap_or_else(|| default.to_owned());
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => Ok(None),
        Err(source) => Err(InvalidFile::Unreadable { path, source }),
    }
}

/// Converts a file to command line arguments: those that `active` takes and that were not given
/// otherwise.
fn options(
    root: &Command,
    active: &Command,
    given: &ArgMatches,
    text: &str,
) -> Result<Vec<OsString>, Vec<Mistake>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let line = |offset: usize| {
        1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
    };
    let mut mistakes: Vec<_> = errors
        .iter()
        .map(|error| Mistake {
            line: line(error.span().map_or(0, |span| span.start)),
            key: None,
            what: error.message().to_owned(),
        })
        .collect();
    let known = known(root);
    let mut words = Vec::new();
    for (key, value) in table.get_ref() {
        let name = key.get_ref().as_ref();
        match check(&known, name, value) {
            Ok(option) => {
                if is_wanted(active, given, name) {
                    words.extend(option);
                }
            }
            Err(what) => {
                mistakes.push(Mistake {
                    line: line(key.span().start),
                    key: Some(name.to_owned()),
                    what,
                });
            }
        }
    }
    mistakes.sort_by_key(|mistake| mistake.line);

    if mistakes.is_empty() { Ok(words) } else { Err(mistakes) }
}

/// Lists the options that a file may contain, each with a command that takes it.
fn known(root: &Command) -> BTreeMap<&str, (&Command, &Arg)> {
    let commands =
        std::iter::once(root).chain(root.get_subcommands()).filter(|command| takes_file(command));
    let options = commands
        .flat_map(|command| command.get_arguments().map(move |argument| (command, argument)));

    options
        .filter_map(|(command, argument)| Some((argument.get_long()?, (command, argument))))
        .filter(|(name, _)| !ELSEWHERE.contains(name))
        .collect()
}

/// Checks one entry and returns it as command line arguments.
fn check(
    known: &BTreeMap<&str, (&Command, &Arg)>,
    name: &str,
    value: &Spanned<DeValue<'_>>,
) -> Result<Vec<OsString>, String> {
    let Some((command, argument)) = known.get(name) else {
        let names: Vec<_> = known.keys().copied().collect();
        return Err(format!("there is no such option; there are {}", names.join(", ")));
    };
    let words = words(argument, name, value.get_ref())?;
    let alone = (*command).clone().no_binary_name(true).try_get_matches_from(&words);
    let Err(error) = alone else { return Ok(words) };
    let said = error.to_string();
    let first = said.lines().next().unwrap_or_default();

    Err(first.strip_prefix("error: ").unwrap_or(first).to_owned())
}

fn words(argument: &Arg, name: &str, value: &DeValue<'_>) -> Result<Vec<OsString>, String> {
    let is_switch = matches!(argument.get_action(), ArgAction::SetTrue);
    match (value, argument.get_action()) {
        (DeValue::Boolean(on), ArgAction::SetTrue) => {
            Ok(on.then(|| format!("--{name}").into()).into_iter().collect())
        }
        (DeValue::Array(values), ArgAction::Append) => {
            values.iter().map(|value| word(name, value.get_ref())).collect()
        }
        _ if is_switch => Err("write true or false".to_owned()),
        (value, _) => Ok(vec![word(name, value)?]),
    }
}

fn word(name: &str, value: &DeValue<'_>) -> Result<OsString, String> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
        DeValue::Integer(_) => return Err("write it as a decimal number".to_owned()),
        DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => {
            return Err(format!(
                "write a quoted string or a number, not a value of type {}",
                value.type_str()
            ));
        }
    };

    Ok(format!("--{name}={text}").into())
}

/// Returns whether the running command takes the option and was not given it otherwise.
fn is_wanted(active: &Command, given: &ArgMatches, name: &str) -> bool {
    let argument = active.get_arguments().find(|argument| argument.get_long() == Some(name));

    argument.is_some_and(|argument| match given.value_source(argument.get_id().as_str()) {
        Some(ValueSource::CommandLine | ValueSource::EnvVariable) => false,
        Some(_) | None => true,
    })
}

/// Lists the keys that a file for these commands may contain, to test that examples are complete.
pub fn keys<T: Parser>() -> Vec<String> {
    let mut command = T::command();
    command.build();

    known(&command).into_keys().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    #[derive(Debug, clap::Parser, PartialEq)]
    struct Program {
        #[command(subcommand)]
        command: Verb,
    }

    #[derive(Debug, clap::Subcommand, PartialEq)]
    enum Verb {
        Serve(Serve),
        Init {
            #[arg(long)]
            config: Option<PathBuf>,
            #[arg(long)]
            pool: Option<String>,
        },
        Other,
    }

    #[derive(Debug, clap::Args, PartialEq)]
    struct Serve {
        #[arg(long)]
        config: Option<PathBuf>,
        #[arg(long, default_value = "7443")]
        port: NonZeroU16,
        #[arg(long, env = "OVERLAY_HOST_TEST_NAME")]
        name: Option<String>,
        #[arg(long)]
        address: Vec<String>,
        #[arg(long)]
        quick: bool,
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("written");

        file
    }

    fn parse_with(text: &str, arguments: &[&str]) -> Result<Verb, InvalidFile> {
        let words = std::iter::once("program").chain(arguments.iter().copied());

        parse::<Program>(file(text).path(), words.map(OsString::from))
            .map(|program| program.command)
    }

    fn serve(text: &str, arguments: &[&str]) -> Serve {
        match parse_with(text, arguments).expect("a configuration") {
            Verb::Serve(serve) => serve,
            other @ (Verb::Init { .. } | Verb::Other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_goes_before_the_file_and_the_file_before_defaults() {
        let text = "port = 7\nname = 'x'\naddress = ['a', 'b']\nquick = true\npool = 'p'\n";

        let of_file = serve(text, &["serve"]);
        let of_line = serve(text, &["serve", "--port", "8", "--address", "c"]);

        assert_eq!(
            (of_file.port.get(), of_file.name.as_deref(), of_file.quick),
            (7, Some("x"), true)
        );
        assert_eq!(of_file.address, ["a", "b"]);
        assert_eq!((of_line.port.get(), of_line.address), (8, vec!["c".to_owned()]));
        assert_eq!(parse_with(text, &["init"]).expect("init").clone_pool(), Some("p".to_owned()));
        assert_eq!(parse_with("nonsense", &["other"]).expect("takes no file"), Verb::Other);
        assert_eq!(serve("", &["serve"]).port.get(), 7443);
    }

    impl Verb {
        fn clone_pool(&self) -> Option<String> {
            match self {
                Self::Init { pool, .. } => pool.clone(),
                Self::Serve(_) | Self::Other => None,
            }
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_line_and_key() {
        let text = "port = 0\n\n# a comment\nprot = 7\nquick = 'yes'\nname = [1]\nport = 5\npool = 1.5\nconfig = 'x'\n";

        let error = parse_with(text, &["serve"]).expect_err("mistakes");

        let InvalidFile::Mistaken { mistakes, .. } = &error else { panic!("{error}") };
        let found: Vec<_> =
            mistakes.iter().map(|mistake| (mistake.line, mistake.key.as_deref())).collect();
        let expected = [
            (1, Some("port")),
            (4, Some("prot")),
            (5, Some("quick")),
            (6, Some("name")),
            (7, None),
            (8, Some("pool")),
            (9, Some("config")),
        ];
        assert_eq!(found, expected, "{error}");
        assert!(mistakes[0].what.starts_with("invalid value '0' for '--port"), "{error}");
        assert!(mistakes[1].what.contains("there are address, name, pool, port, quick"), "{error}");
        assert!(error.to_string().contains("7 mistakes\n  line 1, port: "), "{error}");
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let missing =
            ["program", "serve", "--config", "/nonexistent/program.toml"].map(OsString::from);

        let error = parse::<Program>(Path::new("/nonexistent/other.toml"), missing)
            .expect_err("no such file");

        assert!(error.to_string().starts_with("/nonexistent/program.toml: "), "{error}");
        let unnamed = ["program", "serve"].map(OsString::from);
        assert!(parse::<Program>(Path::new("/nonexistent/other.toml"), unnamed).is_ok());
    }

    #[test]
    fn no_text_makes_the_reader_fail_otherwise() {
        for text in [
            "=",
            "[",
            "port",
            "port = ",
            "[port]\nx = 1",
            "port.x = 1",
            "\u{feff}port = 7",
            "name = \"a\n",
            "\0",
        ] {
            let _ = parse_with(text, &["serve"])
                .map_err(|error| assert!(!error.to_string().is_empty()));
        }
    }
}
