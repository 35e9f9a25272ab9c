//! The command line against an agent that only pretends: texts, JSON and exit codes.

mod support;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use overlay_proto::{Code, v1};
use support::{CONTROL, FakeAgent, Ran, join_line, overlayctl};

#[test]
fn listings_are_tables_or_json() {
    let agent = FakeAgent::start();

    let text = agent.run(&["network", "ls"]);
    let json = agent.run(&["network", "ls", "--json"]);

    assert_eq!(text.code, 0, "{text:?}");
    assert_eq!(
        text.stdout,
        "NAME        PREFIX        MODE  MEMBERS  ENDPOINTS  LABELS\nmy-network  10.64.0.0/24  l3    a                1  -"
    );
    assert_eq!(json.json()[0]["name"], "my-network");
    for (words, field) in
        [(["endpoint", "ls"], "addresses"), (["node", "ls"], "online"), (["token", "ls"], "uses")]
    {
        let ran = agent.run(&[&words[..], &["--json"]].concat());
        assert!(!ran.json()[0][field].is_null(), "{words:?}: {ran:?}");
    }
    assert_eq!(agent.run(&["peers", "--json"]).json()[0]["state"], "up");
    assert_eq!(agent.run(&["status", "--json"]).json()["control"]["address"], CONTROL);
    assert_eq!(agent.run(&["control", "ls", "--json"]).json()[0]["address"], CONTROL);
    assert_eq!(agent.run(&["node", "show", "a", "--json"]).json()["role"], "admin");
    assert_eq!(
        agent.run(&["network", "inspect", "my-network", "--json"]).json()["endpoint_list"][0]["name"],
        "service2"
    );
}

#[test]
fn examples_of_policies_are_sound_and_their_tests_hold() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/policies");
    let files = fs::read_dir(folder).expect("examples").map(|file| file.expect("one").path());
    let mut count = 0;
    for file in files {
        let file = file.to_str().expect("a path");
        let ran: Ran = overlayctl(&["policy", "test", "--offline", "--json", file])
            .output()
            .expect("it ran")
            .into();

        assert_eq!(ran.code, 0, "{file}: {ran:?}");
        assert_eq!(ran.json()["warnings"], serde_json::json!([]), "{file}: {ran:?}");
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn status_exits_with_1_for_a_problem_only_when_it_is_to_check() {
    let agent = FakeAgent::start();
    let healthy = agent.run(&["status", "--check", "--json"]);
    let text = "control is away".to_owned();
    agent.script().problems.push(v1::Problem { code: "control-away".into(), text, since_unix: 1 });

    let (plain, checked) = (agent.run(&["status"]), agent.run(&["status", "--check"]));
    let json = agent.run(&["status", "--check", "--json"]);

    assert_eq!((healthy.code, &healthy.json()["healthy"]), (0, &true.into()));
    assert_eq!((plain.code, checked.code), (0, 1));
    assert_eq!(checked.stdout, plain.stdout);
    assert_eq!((json.code, &json.json()["healthy"]), (1, &false.into()));
}

#[test]
fn changes_are_asked_for_as_they_were_said() {
    let agent = FakeAgent::start();

    let runs = [
        agent.run(&[
            "network",
            "create",
            "my-network",
            "--subnet",
            "fd00::/64",
            "--subnet",
            "10.64.0.0/24",
        ]),
        agent.run(&["network", "rm", "my-network"]),
        agent.run(&["node", "rm", "b"]),
        agent.run(&["control", "set", "192.0.2.9", "c.example:1", "--force"]),
        agent.run(&["token", "create", "--ttl", "2h", "--uses", "3", "--role", "admin"]),
        agent.run(&["token", "rm", "f00d"]),
        agent.run(&["detach", "--network", "my-network", "--name", "web"]),
    ];

    assert!(runs.iter().all(|ran| ran.code == 0), "{runs:?}");
    assert_eq!(runs[0].stdout, "my-network  10.64.0.0/24");
    assert_eq!(runs[3].stdout, "set; control answers at 192.0.2.9, c.example:1");
    assert_eq!(runs[4].stdout, join_line(CONTROL), "only the line, for scripts");
    let asked = agent.script().asked.clone();
    assert_eq!(
        asked,
        [
            "create my-network 10.64.0.0/24 fd00::/64",
            "remove network my-network",
            "status",
            "nodes",
            "remove node b",
            "set control 192.0.2.9,c.example:1 true",
            "token 7200 s 3 uses Admin",
            "token f00d",
            "detach web",
        ]
    );
}

#[test]
fn a_refusal_is_one_line_with_its_code_and_exit_code_1() {
    let agent = FakeAgent::start();
    agent.refuse(Code::NameTaken, "network my-network exists");

    let ran = agent.run(&["network", "create", "my-network"]);

    assert_eq!(ran.code, 1);
    assert_eq!(ran.stderr, "overlayctl: network my-network exists [name-taken]");
    assert_eq!(ran.stdout, "");
}

#[test]
fn what_cannot_be_reached_is_exit_code_3() {
    let agent = FakeAgent::start();
    agent.refuse(Code::ControlAway, "control is away since 3 s");

    let control = agent.run(&["network", "create", "my-network"]);
    let socket: Ran =
        overlayctl(&["status", "--socket", "/nonexistent/a.sock"]).output().expect("it ran").into();

    assert_eq!((control.code, socket.code), (3, 3));
    assert_eq!(control.stderr, "overlayctl: control is away since 3 s [control-away]");
    assert!(
        socket.stderr.starts_with("overlayctl: no agent runs at /nonexistent/a.sock: "),
        "{socket:?}"
    );
    assert!(socket.stderr.ends_with("[agent-away]"), "{socket:?}");
    assert_eq!(socket.stderr.lines().count(), 1);
}

#[test]
fn wrong_usage_is_exit_code_2_and_changes_nothing() {
    let agent = FakeAgent::start();

    for words in [
        &["frobnicate"][..],
        &["network", "create"],
        &["network", "create", "a.b"],
        &["network", "create", "n", "--subnet", "10.0.0.0/8", "--subnet", "10.1.0.0/16"],
        &["run", "--network", "a,b", "--ip", "10.0.0.1", "--", "true"],
        &["attach", "--network", "n", "--name", "w"],
    ] {
        let ran = agent.run(words);
        assert_eq!(ran.code, 2, "{words:?}: {ran:?}");
    }
    assert_eq!(agent.script().asked, Vec::<String>::new());
}

#[test]
fn a_ping_that_nothing_answers_fails() {
    let agent = FakeAgent::start();
    let answered = agent.run(&["ping", "service2", "--count", "2"]);
    agent.script().lost_probes = true;

    let lost = agent.run(&["ping", "service2", "--count", "2"]);
    let json = agent.run(&["ping", "service2", "--count", "2", "--json"]);

    assert_eq!((answered.code, lost.code, json.code), (0, 1, 1));
    assert!(
        answered.stdout.starts_with("service2 (10.64.0.2 on b): seq=1 time=0.420 ms\n"),
        "{answered:?}"
    );
    assert!(lost.stdout.ends_with("2 sent, 0 answered, 100 % lost"), "{lost:?}");
    assert_eq!(json.json()["answered"], 0);
}

#[test]
fn a_join_line_is_checked_before_anybody_is_asked() {
    let agent = FakeAgent::start();
    agent.script().joined = false;

    let ran = agent.run(&["join", "ovl1-nonsense@a:1"]);

    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.starts_with("overlayctl: not a join line: ")
            && ran.stderr.ends_with("[invalid-input]"),
        "{ran:?}"
    );
    assert_eq!(agent.script().asked, Vec::<String>::new());
}

#[test]
fn a_join_line_comes_from_an_argument_a_file_or_standard_input() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), join_line(CONTROL) + "\n").expect("written");

    for (argument, input) in
        [(join_line(CONTROL), ""), (file.path().display().to_string(), ""), ("-".into(), "x")]
    {
        let agent = FakeAgent::start();
        agent.script().joined = false;
        let mut command = agent.command(&["join", &argument, "--name", "host-b", "--json"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
        if !input.is_empty() {
            let mut stdin = child.stdin.take().expect("a pipe");
            stdin.write_all(join_line(CONTROL).as_bytes()).expect("written");
        }

        let ran = Ran::from(child.wait_with_output().expect("it ran"));

        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.json()["already"], false);
        assert!(agent.script().asked.contains(&"join as \"host-b\"".to_owned()));
    }
}

#[test]
fn joining_twice_is_no_error_and_joining_another_cluster_is() {
    let agent = FakeAgent::start();

    let same = agent.run(&["join", &join_line(CONTROL)]);
    let other = agent.run(&["join", &join_line("198.51.100.1:7443")]);

    assert_eq!((same.code, other.code), (0, 1));
    assert!(same.stdout.contains("already; nothing is changed"), "{same:?}");
    assert!(other.stderr.contains("use `overlayctl leave` first [wrong-state]"), "{other:?}");
}

#[test]
fn leaving_is_gone_on_with_when_the_agent_goes_away_in_the_middle() {
    for has_left in [false, true] {
        let agent = FakeAgent::start();
        agent.script().breaking_leaves = 1;
        agent.script().leaves_unheard = has_left;

        let ran = agent.run(&["leave", "--json"]);

        assert_eq!((ran.code, &ran.json()["told_control"]), (0, &true.into()), "{ran:?}");
        let calls = agent.script().asked.iter().filter(|what| what.starts_with("leave")).count();
        assert_eq!(calls, if has_left { 1 } else { 2 });
    }
}

#[test]
fn an_agent_that_goes_away_again_and_again_is_told() {
    let agent = FakeAgent::start();
    agent.script().breaking_leaves = 2;

    let ran = agent.run(&["leave"]);

    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("the agent went away during the call"), "{ran:?}");
}

#[test]
fn leaving_is_idempotent_and_leaves_an_agent_that_others_started() {
    let agent = FakeAgent::start();

    let first = agent.run(&["leave", "--json"]);
    let second = agent.run(&["leave"]);

    assert_eq!((first.code, second.code), (0, 0), "{first:?} {second:?}");
    assert_eq!(first.json()["told_control"], true);
    assert_eq!(first.json()["stopped"], serde_json::json!([]));
    assert!(second.stdout.starts_with("nothing to leave"), "{second:?}");
    assert!(agent.socket().exists());
}

#[test]
fn leaving_with_the_state_of_another_agent_is_refused() {
    let agent = FakeAgent::start();

    let ran = agent.run(&["leave", "--state", "/nonexistent/overlay"]);

    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("keeps its state in /somewhere/else")
            || ran.stderr.contains("needs root"),
        "{ran:?}"
    );
    assert!(!agent.script().asked.iter().any(|what| what.starts_with("leave")));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let agent = FakeAgent::start();
    let mut child =
        agent.command(&["network", "ls"]).stdout(Stdio::piped()).spawn().expect("it runs");
    drop(child.stdout.take());

    let status = child.wait().expect("it ran");

    assert_eq!(status.code(), Some(0));
}

#[test]
fn starting_what_was_never_set_up_is_refused() {
    let agent = FakeAgent::start();
    let dir = tempfile::tempdir().expect("a directory");

    let ran = agent.run(&["start", "--state", dir.path().to_str().expect("a path")]);

    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("nothing is set up in") || ran.stderr.contains("needs root"),
        "{ran:?}"
    );
}

#[test]
fn the_last_admin_is_not_removed_without_a_question_that_somebody_can_answer() {
    let agent = FakeAgent::start();

    let refused = agent.run(&["node", "rm", "a"]);
    let before = agent.script().asked.clone();
    let forced = agent.run(&["node", "rm", "a", "--force"]);

    assert_eq!((refused.code, forced.code), (1, 0), "{refused:?} {forced:?}");
    assert!(
        refused.stderr.contains("a is the last admin") && refused.stderr.contains("add --force"),
        "{refused:?}"
    );
    assert!(!before.contains(&"remove node a".to_owned()), "{before:?}");
    assert!(agent.script().asked.contains(&"remove node a".to_owned()));
}

#[test]
fn completions_are_scripts_that_the_shells_take() {
    for (shell, begin) in [
        ("bash", "_overlayctl() {"),
        ("zsh", "#compdef overlayctl"),
        ("fish", "# Print an optspec"),
    ] {
        let ran = Ran::from(overlayctl(&["completions", shell]).output().expect("it ran"));
        assert_eq!(ran.code, 0, "{shell}: {}", ran.stderr);
        assert!(
            ran.stdout.starts_with(begin),
            "{shell}: {}",
            ran.stdout.lines().next().unwrap_or_default()
        );
        assert!(ran.stdout.contains("inspect"), "{shell}");
    }
    let script = Ran::from(overlayctl(&["completions", "bash"]).output().expect("it ran")).stdout;
    // It is longer than an argument may be.
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("overlayctl.bash");
    fs::write(&file, script).expect("written");
    let checked = Command::new("bash").arg("-n").arg(&file).output().expect("bash ran");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn every_command_has_a_manual_page_without_a_fault() {
    let dir = tempfile::tempdir().expect("a directory");
    let pages = dir.path().join("man1");

    let ran =
        Ran::from(overlayctl(&["man", pages.to_str().expect("a path")]).output().expect("it ran"));

    assert_eq!(ran.code, 0, "{ran:?}");
    for name in
        ["overlayctl", "overlayctl-run", "overlayctl-network-create", "overlayctl-endpoint-show"]
    {
        assert!(pages.join(format!("{name}.1")).exists(), "{name}");
    }
    assert!(!pages.join("overlayctl-man.1").exists(), "for packagers");
    let files = fs::read_dir(&pages).expect("pages").map(|entry| entry.expect("an entry").path());
    match Command::new("mandoc").args(["-T", "lint", "-W", "error"]).args(files).output() {
        Ok(checked) => {
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
        }
        Err(_) => eprintln!("SKIPPED: there is no mandoc"),
    }
}
