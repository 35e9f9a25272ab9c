//! Invalid input of every kind: one clear line, and nothing changes.

use std::time::Duration;

use overlay_lab::{Cluster, CommandOutput, Host};

use super::{cluster, lab};

/// Checks that there is one line that complains about `what`, and that the exit code is `code`.
fn assert_refused(output: &CommandOutput, code: i32, what: &str) {
    assert_eq!(output.status.code(), Some(code), "{what}: {}{}", output.stdout, output.stderr);
    let lines: Vec<_> = output.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    assert!(!lines.is_empty() && lines.len() <= 3, "{what}: {}", output.stderr);
    assert!(
        !output.stderr.contains("panicked") && !output.stderr.contains("Backtrace"),
        "{what}: {}",
        output.stderr
    );
}

fn join(host: &Host, line: &str) -> CommandOutput {
    host.command("overlayctl")
        .args(["join", line])
        .deadline(Duration::from_secs(60))
        .output()
        .expect("overlayctl runs")
}

/// Returns a join line with its part number `part` (counted between `-` and `@`) replaced.
fn with_other(line: &str, part: usize) -> String {
    let (token, addresses) = line.split_once('@').expect("a join line has addresses");
    let mut parts: Vec<String> = token.split('-').map(str::to_owned).collect();
    parts[part] = parts[part].chars().map(|c| if c == '0' { '1' } else { '0' }).collect();

    format!("{}@{addresses}", parts.join("-"))
}

#[test]
fn a_wrong_join_line_changes_nothing() {
    let Some(lab) = lab(2) else { return };
    let folders = ["/run", "/etc", "/var/lib"];
    lab.host(0).command("overlayctl").args(["init", "--json"]).run().unwrap();
    let line = lab
        .host(0)
        .command("overlayctl")
        .args(["token", "create"])
        .run()
        .unwrap()
        .stdout
        .trim()
        .to_owned();
    let before = lab.host(1).snapshot_at_rest(&folders).unwrap();

    for (what, wrong, code) in [
        ("nonsense", "nonsense".to_owned(), 2),
        ("an empty line", String::new(), 2),
        ("a truncated line", line[..line.len() / 2].to_owned(), 2),
        ("another token", with_other(&line, 1), 1),
        ("another secret", with_other(&line, 2), 1),
        ("another authority", with_other(&line, 3), 1),
    ] {
        let output = join(lab.host(1), &wrong);
        assert!(matches!(output.status.code(), Some(1..=3)), "{what}: {}", output.stderr);
        assert_refused(&output, output.status.code().unwrap_or(code), what);
        before
            .assert_unchanged(|| lab.host(1).snapshot(&folders))
            .unwrap_or_else(|error| panic!("{what}: {error:#}"));
    }

    assert!(join(lab.host(1), &line).status.success(), "the right line still works");
}

#[test]
fn a_token_admits_as_many_as_it_says_and_not_after_it_was_revoked() {
    let Some(lab) = lab(4) else { return };
    lab.host(0).command("overlayctl").args(["init", "--json"]).run().unwrap();
    let create = |args: &[&str]| {
        let output =
            lab.host(0).command("overlayctl").args(["token", "create"]).args(args).run().unwrap();
        output.stdout.trim().to_owned()
    };

    let once = create(&["--uses", "1"]);
    assert!(join(lab.host(1), &once).status.success());
    assert_refused(&join(lab.host(2), &once), 1, "a used token");

    let revoked = create(&["--uses", "5"]);
    let id = revoked.split('-').nth(1).unwrap();
    lab.host(0).command("overlayctl").args(["token", "rm", id]).run().unwrap();
    assert_refused(&join(lab.host(2), &revoked), 1, "a revoked token");

    let short = create(&["--ttl", "1s"]);
    std::thread::park_timeout(Duration::from_millis(2500));
    assert_refused(&join(lab.host(3), &short), 1, "an expired token");
}

#[test]
fn commands_without_an_agent_say_what_to_do() {
    let Some(lab) = lab(1) else { return };
    let host = lab.host(0);

    for args in [
        &["status"][..],
        &["network", "ls"],
        &["node", "ls"],
        &["run", "--network", "x", "--", "true"],
    ] {
        assert_refused(
            &host.command("overlayctl").args(args).output().unwrap(),
            3,
            &args.join(" "),
        );
    }
}

#[test]
fn what_cannot_be_is_refused_and_leaves_no_trace() {
    let Some(cluster) = cluster(1) else { return };
    let run = |args: &[&str]| cluster.host(0).command("overlayctl").args(args).output().unwrap();
    cluster.ctl(0, &["network", "create", "net", "--subnet", "10.70.0.0/24"]).unwrap();
    let anchor = cluster.serve_http(0, "net", "anchor").unwrap();
    let before = cluster.host(0).snapshot_at_rest(&[]).unwrap();

    for (args, code) in [
        (&["network", "create", "net"][..], 1),
        (&["network", "create", "n2", "--subnet", "10.70.0.0/33"], 2),
        (&["network", "create", "n2", "--subnet", "127.0.0.0/8"], 1),
        (&["network", "create", "UPPER case"], 2),
        (&["network", "rm", "nothing"], 1),
        (&["network", "inspect", "nothing"], 1),
        (&["node", "rm", "nothing"], 1),
        (&["token", "rm", "nothing"], 1),
        (&["run", "--network", "nothing", "--", "true"], 1),
        (&["run", "--network", "net", "--ip", "10.71.0.9", "--", "true"], 1),
        (&["attach", "--netns", "/does/not/exist", "--network", "net", "--name", "x"], 1),
        (&["detach", "--network", "net", "--name", "nothing"], 1),
        (&["ping", "nothing"], 1),
        (&["frobnicate"], 2),
    ] {
        let output = run(args);
        let given = output.status.code().unwrap_or(-1);
        // It does not matter whether a name is rejected by the parser or by control.
        assert!(
            given == code || (given, code) == (1, 2) || (given, code) == (2, 1),
            "{args:?} gave {given}: {}",
            output.stderr
        );
        assert!(
            !output.stderr.is_empty() && !output.stderr.contains("panicked"),
            "{args:?}: {}",
            output.stderr
        );
    }
    before.assert_unchanged(|| cluster.host(0).snapshot(&[])).unwrap();
    drop(anchor);
    cluster.finish().unwrap();
}

#[test]
fn exit_codes_of_containers_pass_through() {
    let Some(cluster) = cluster(1) else { return };
    cluster.ctl(0, &["network", "create", "net"]).unwrap();
    let run = |args: &[&str]| {
        let output = cluster
            .host(0)
            .command("overlayctl")
            .args(["run", "--network", "net", "--"])
            .args(args)
            .output();
        output.unwrap().status.code()
    };

    assert_eq!(run(&["sh", "-c", "exit 7"]), Some(7));
    assert_eq!(run(&["/does/not/exist"]), Some(127));
    Cluster::finish(cluster).unwrap();
}

#[test]
fn what_a_node_may_not_see_is_not_told_as_nothing() {
    let Some(cluster) = cluster(2) else { return };
    let run = |host: usize, args: &[&str]| {
        cluster.host(host).command("overlayctl").args(args).output().unwrap()
    };
    let host = ["attach", "--host", "--network", "net", "--name", "gateway"];
    for name in ["net", "one", "two"] {
        cluster.ctl(1, &["network", "create", name]).unwrap();
    }
    cluster.ctl(0, &host).unwrap();

    let list = cluster.ctl_json(1, &["network", "ls"]).unwrap();
    let hidden = run(1, &["network", "ls", "--format", "{{.Name}} {{.Endpoints}}"]);
    let removed = run(1, &["network", "rm", "one", "nothing", "two"]);
    let refused = run(1, &["network", "rm", "net", "--json"]);
    let again = run(0, &[&host[..], &["--ip", "10.64.0.77"]].concat());

    assert!(list[0]["endpoints"].is_null() && list[0]["members"].is_null(), "{list}");
    assert!(hidden.stdout.starts_with("net -\n"), "{}", hidden.stdout);
    assert_eq!(
        (removed.stdout.as_str(), removed.status.code()),
        ("one\ntwo\n", Some(1)),
        "{}",
        removed.stderr
    );
    assert!(removed.stderr.contains("nothing"), "{}", removed.stderr);
    let error: serde_json::Value = serde_json::from_str(&refused.stderr).unwrap();
    assert_eq!(
        (&error["error"]["code"], refused.status.code()),
        (&"in-use".into(), Some(1)),
        "{error}"
    );
    assert_refused(&again, 1, "another address for what is attached");
    let versions = cluster.ctl_json(1, &["version"]).unwrap();
    assert!(
        ["client", "agent", "control"]
            .iter()
            .all(|program| versions[program]["version"].is_string()),
        "{versions}"
    );
    cluster.ctl(0, &["detach", "--network", "net", "--name", "gateway"]).unwrap();
    cluster.finish().unwrap();
}
