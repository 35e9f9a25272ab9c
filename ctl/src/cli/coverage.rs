//! Every command and every flag stands in the snapshots, right and wrong: those of
//! `tests/snapshots`, read mechanically.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};

use super::Cli;

/// A command line of the snapshots and what came of it.
struct Line {
    words: Vec<String>,
    /// What was written to standard error.
    errors: String,
    code: i32,
    without_rights: bool,
}

/// What a line has of a command: which one, and which of its arguments.
struct Used<'a> {
    path: String,
    arguments: Vec<&'a Arg>,
}

/// Reads the snapshots.
fn lines() -> Vec<Line> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let files = fs::read_dir(dir).expect("snapshots").map(|entry| entry.expect("an entry").path());

    files.flat_map(|path| parse(&fs::read_to_string(&path).expect("a snapshot"), &path)).collect()
}

fn parse(text: &str, path: &Path) -> Vec<Line> {
    let without_rights = path.to_string_lossy().contains("without_rights");
    let mut lines: Vec<Line> = Vec::new();
    for shown in text.lines() {
        let code = shown.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')?.parse().ok());
        if let Some(typed) = shown.strip_prefix("$ overlayctl ") {
            lines.push(Line {
                words: words(typed),
                errors: String::new(),
                code: 0,
                without_rights,
            });
        } else if let Some(line) = lines.last_mut() {
            line.code = code.unwrap_or(line.code);
            line.errors.push_str(shown.strip_prefix("! ").unwrap_or_default());
        }
    }

    lines
}

fn words(line: &str) -> Vec<String> {
    let mut quoted = false;
    let is_blank = |c: char| {
        quoted ^= c == '\'';
        c == ' ' && !quoted
    };

    line.split(is_blank)
        .map(|word| word.trim_matches('\'').to_owned())
        .filter(|word| word != "^C")
        .collect()
}

/// Finds which command a line is of, and which arguments it gives; none that it does not
/// understand.
fn used<'a>(root: &'a Command, line: &Line) -> Used<'a> {
    let mut words = line.words.iter().map(String::as_str).peekable();
    let mut command = root;
    let mut path = Vec::new();
    while let Some(next) = words.peek().and_then(|word| command.find_subcommand(word)) {
        path.push(next.get_name());
        command = next;
        words.next();
    }
    let arguments = |wanted: &dyn Fn(&Arg) -> bool| {
        command.get_arguments().chain(root.get_arguments()).find(|argument| wanted(argument))
    };
    let mut positionals = command.get_positionals();
    let mut last = None;
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let flag = if let Some(rest) = word.strip_prefix("--") {
            let name = rest.split('=').next().unwrap_or_default();
            let is_it =
                |a: &Arg| a.get_long_and_visible_aliases().is_some_and(|all| all.contains(&name));
            if name.is_empty() {
                command.get_positionals().find(|a| a.is_last_set())
            } else {
                arguments(&is_it)
            }
        } else if let Some(short) = word.strip_prefix('-').and_then(|rest| rest.chars().next()) {
            arguments(&|a: &Arg| a.get_short() == Some(short))
        } else {
            last = positionals.next().or(last);
            found.extend(last);
            continue;
        };
        found.extend(flag);
        if word == "--" {
            break;
        }
        if flag.is_some_and(|a| a.get_action().takes_values() && !a.is_require_equals_set())
            && !word.contains('=')
        {
            words.next();
        }
    }

    Used { path: path.join(" "), arguments: found }
}

/// Every command that can be typed, with its path.
fn commands<'a>(command: &'a Command, path: &str, found: &mut Vec<(String, &'a Command)>) {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let path = format!("{path} {}", sub.get_name()).trim_start().to_owned();
        commands(sub, &path, found);
        found.push((path, sub));
    }
}

/// How an argument is called in a list of what is missing, and by clap.
fn name(argument: &Arg) -> String {
    argument
        .get_long()
        .map_or_else(|| format!("<{}>", argument.get_id()), |long| format!("--{long}"))
}

/// Tells whether a refusal is about an argument: clap and our own texts name it, or quote what was
/// given.
fn is_blamed(argument: &Arg, line: &Line) -> bool {
    let id = argument.get_id().as_str();
    let value_name =
        argument.get_value_names().and_then(|names| names.first()).map_or(id, |name| name.as_str());
    let names = [
        format!("--{}", argument.get_long().unwrap_or("\0")),
        format!("<{}", value_name.to_uppercase()),
    ];
    let quoted =
        line.words.iter().rev().any(|word| word.len() > 2 && line.errors.contains(word.as_str()));

    names.iter().any(|name| line.errors.contains(name.as_str())) || quoted
}

fn is_about_itself(argument: &Arg) -> bool {
    ["help", "version"].contains(&argument.get_id().as_str())
}

#[test]
fn every_command_and_every_flag_is_in_the_snapshots_right_and_wrong() {
    let root = Cli::command();
    let lines = lines();
    let mut seen = BTreeSet::new();
    for line in &lines {
        let used = used(&root, line);
        let of = |what: &str| (used.path.clone(), what.to_owned());
        if line.without_rights {
            seen.insert(of("without rights"));
            continue;
        }
        seen.insert(of(if line.code == 0 { "right" } else { "wrong" }));
        for argument in used.arguments {
            let owner = if argument.is_global_set() { String::new() } else { used.path.clone() };
            if line.code == 0 {
                seen.insert((owner, format!("{} right", name(argument))));
            } else if is_blamed(argument, line) {
                seen.insert((owner, format!("{} wrong", name(argument))));
            }
            seen.extend((name(argument) == "--json").then(|| of("as JSON")));
        }
        // What is missing is a wrong line, too.
        for argument in
            root.find_subcommand(&used.path).into_iter().flat_map(Command::get_arguments)
        {
            if line.errors.contains("required arguments were not provided")
                && is_blamed(argument, line)
            {
                seen.insert(of(&format!("{} wrong", name(argument))));
            }
        }
    }

    let mut all = vec![(String::new(), &root)];
    commands(&root, "", &mut all);
    let mut wanted = Vec::new();
    for (path, command) in &all {
        let arguments = command.get_arguments().filter(|a| !is_about_itself(a) && !a.is_hide_set());
        for argument in arguments {
            wanted.push((path.clone(), format!("{} right", name(argument))));
            // A switch has no value that could be wrong.
            if argument.get_action().takes_values() {
                wanted.push((path.clone(), format!("{} wrong", name(argument))));
            }
        }
        let forms = ["right", "wrong", "as JSON", "without rights"]
            .into_iter()
            .filter(|_| !path.is_empty());
        wanted.extend(forms.map(|form| (path.clone(), form.to_owned())));
    }
    let missing: Vec<_> = wanted.into_iter().filter(|what| !seen.contains(what)).collect();

    assert!(lines.len() > 300, "the snapshots are read: {}", lines.len());
    let listed: Vec<_> = missing.iter().map(|(path, what)| format!("{path}: {what}")).collect();
    assert!(
        missing.is_empty(),
        "add lines to tests/snapshots.rs or tests/setup_snapshots.rs for:\n{}",
        listed.join("\n")
    );
}

#[test]
fn lines_are_understood() {
    let root = Cli::command();
    let line = |text: &str| parse(text, Path::new("x.snap")).remove(0);
    let names = |text: &str| {
        let used = used(&root, &line(text));
        (used.path, used.arguments.into_iter().map(name).collect::<Vec<_>>())
    };

    assert_eq!(
        names("$ overlayctl net ls --format '{{.A b}}' ^C"),
        ("network ls".into(), vec!["--format".into()])
    );
    assert_eq!(names("$ overlayctl ping x -c 2 -ojson").1, ["<name>", "--count", "--output"]);
    assert_eq!(names("$ overlayctl run --network=a -- ls -q").1, ["--network", "<command>"]);
    assert_eq!(names("$ overlayctl ps --watch x --nope").1, ["--watch"]);
    assert_eq!(line("$ overlayctl ps\nout\n! error: no\n[2]\n").code, 2);
}
