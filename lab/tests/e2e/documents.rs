//! Types what the documents tell people to type.

use std::path::Path;
use std::time::Duration;

use overlay_lab::{FIRST_HOUR, Lab, Running, wait_until};

use super::{lab, skip};

const JOIN: &str = "overlayctl join ";
/// How long a server may take until it is reachable.
const PATIENCE: Duration = Duration::from_secs(15);

/// Reads a document of this repository.
fn document(path: &str) -> String {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("lab is a folder of the repository");

    std::fs::read_to_string(root.join(path)).expect("the document is there")
}

/// Returns the lines that begin with a prompt `hostN# `: the host, and what is typed there.
fn typed(text: &str) -> Vec<(usize, String)> {
    let line = |line: &str| {
        let (host, command) = line.strip_prefix("host")?.split_once("# ")?;
        Some((host.parse::<usize>().ok()? - 1, command.to_owned()))
    };

    text.lines().filter_map(line).collect()
}

/// Returns the commands of all `sh` blocks.
fn shell(text: &str) -> Vec<String> {
    let mut inside = false;
    let mut commands = Vec::new();
    for line in text.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => {
                commands.push(line.split("  #").next().unwrap_or(line).trim().to_owned())
            }
            _ => {}
        }
    }

    commands
}

fn type_in(lab: &Lab, host: usize, command: &str) -> String {
    let typed = lab.host(host).command("sh").args(["-c", command]).deadline(PATIENCE * 2);

    typed.run().unwrap_or_else(|error| panic!("{command}: {error:#}")).stdout
}

#[test]
fn the_first_hour_of_the_readme_works_as_it_is_written() {
    if ["python3", "curl"].iter().any(|tool| !Path::new("/usr/bin").join(tool).exists()) {
        return skip("the README's example needs python3 and curl");
    }
    let Some(lab) = lab(2) else { return };
    let lines = typed(&document("README.md"));
    assert_eq!(lines.len(), 5, "{lines:?}");

    let mut join = String::new();
    let mut servers: Vec<Running> = Vec::new();
    for (host, command) in &lines {
        if command.starts_with(JOIN) {
            type_in(&lab, *host, &join);
        } else if command.contains("http.server") {
            servers.push(lab.host(*host).command("sh").args(["-c", command]).spawn().unwrap());
        } else if command.contains("curl") {
            // The server has just been started.
            let fetch = || lab.host(*host).command("sh").args(["-c", command]).output();
            let fetched =
                || fetch().is_ok_and(|output| output.stdout.contains("Directory listing"));
            wait_until(PATIENCE, command, fetched).unwrap();
        } else {
            let printed = type_in(&lab, *host, command);
            join = printed
                .lines()
                .find_map(|line| line.trim().strip_prefix(JOIN))
                .map_or(join, |l| format!("{JOIN}{l}"));
        }
    }

    drop(servers);
    for host in [1, 0] {
        type_in(&lab, host, "overlayctl leave");
    }
}

#[test]
fn the_docker_commands_of_the_readme_are_those_that_the_check_types() {
    let text = document("README.md");
    let line = |line: &str| {
        let (host, command) = line.strip_prefix("host")?.split_once("$ ")?;
        Some((host.parse::<usize>().ok()? - 1, command.to_owned()))
    };

    let lines: Vec<_> = text.lines().filter_map(line).collect();

    assert_eq!(lines, FIRST_HOUR.map(|(host, command)| (host, command.to_owned())));
}

#[test]
fn the_commands_for_operators_work_as_they_are_written() {
    let Some(lab) = lab(1) else { return };
    type_in(&lab, 0, "overlayctl init");
    type_in(&lab, 0, "overlayctl network create net");
    type_in(&lab, 0, "overlayctl attach --host --network net --name host");
    let commands = shell(&document("docs/OPERATIONS.md"));
    assert!(commands.len() >= 3, "{commands:?}");

    for command in &commands {
        let program = "$(dirname $(command -v overlayctl))/overlayd";
        type_in(&lab, 0, &command.replace("NAME", "host").replace("/opt/new/overlayd", program));
    }

    type_in(&lab, 0, "overlayctl leave");
}

#[test]
fn the_lab_of_the_readme_comes_up_and_goes_down() {
    let Some(machine) = lab(1) else { return };
    let run = "cargo run --release -p overlay-lab -- ";
    let commands: Vec<_> = shell(&document("README.md"))
        .iter()
        .filter_map(|c| c.strip_prefix(run).map(str::to_owned))
        .collect();
    assert!(commands.contains(&"demo".to_owned()), "{commands:?}");

    // Those two have tests of their own.
    for command in
        commands.iter().filter(|command| !["demo", "check docker"].contains(&command.as_str()))
    {
        type_in(&machine, 0, &format!("overlay-lab {command}"));
    }
}
