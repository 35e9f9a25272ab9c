//! Policies out of files: what is wrong with one is told with its line, and what is live stays.

use std::path::PathBuf;

use overlay_lab::{Cluster, CommandOutput, wait_until};

use super::policy::{PATIENCE, POLICY, addresses, apply, fetch, shop};

/// The longest file, in bytes.
const LONGEST: usize = 1 << 20;

/// Files in a folder that goes with this value.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).expect("written");

        path
    }
}

/// Runs `overlayctl policy` with a file on the first host.
fn policy(cluster: &Cluster, verb: &str, file: &PathBuf) -> CommandOutput {
    let command = cluster.host(0).command("overlayctl").args(["policy", verb]).arg(file);

    command.output().expect("it runs")
}

/// Returns the revision of the live policy.
fn revision(cluster: &Cluster) -> u64 {
    let shown = cluster.ctl_json(0, &["policy", "show"]).expect("a policy");

    shown["policy"]["revision"].as_u64().expect("a revision")
}

/// Returns whether a container of a role reaches the database, from the other host.
fn reaches(cluster: &Cluster, role: &str, patience: &str) -> bool {
    let [v4, _] = addresses(cluster, "db");

    fetch(cluster, 1, role, &format!("{v4}:5432"), patience).status.success()
}

/// Waits until one role reaches the database, and says that the other does not.
fn wait_for(cluster: &Cluster, allowed: &str, refused: &str) {
    wait_until(PATIENCE, allowed, || reaches(cluster, allowed, "2")).expect("it passes");
    wait_until(PATIENCE, refused, || !reaches(cluster, refused, "0.5")).expect("it is refused");
    assert!(reaches(cluster, allowed, "10"), "{allowed} after {refused} was refused");
}

#[test]
fn a_test_that_fails_holds_up_a_file_and_a_rollback_brings_the_earlier_one_back() {
    let Some((cluster, db)) = shop(2) else { return };
    let files = Files::new();
    let test = |role: &str, verdict: &str| {
        format!(
            "\n[[test]]\nfrom = {{ role = \"{role}\" }}\nto = \"db\"\n{verdict} = [\"tcp/5432\"]\n"
        )
    };
    let good = format!("{POLICY}{}{}", test("web", "allow"), test("other", "deny"));
    let failing = files.write("failing.toml", format!("{good}{}", test("web", "deny")).as_bytes());
    let other = good.replace("from = { role = \"web\" }", "from = { role = \"other\" }");
    let swapped = other.replacen(
        "role = \"other\" }\nto = \"db\"\ndeny",
        "role = \"web\" }\nto = \"db\"\ndeny",
        1,
    );
    let swapped = files.write("swapped.toml", swapped.as_bytes());
    apply(&cluster, &good);
    wait_for(&cluster, "web", "other");

    let line = 1 + good.lines().count() + 1;
    let tested = policy(&cluster, "test", &failing);
    assert_eq!(tested.status.code(), Some(1), "{}", tested.stdout);
    assert!(tested.stdout.contains("test 3: tcp/5432 from { role = \"web\" } to db"), "{tested:?}");
    for verb in ["apply", "shadow"] {
        let refused = policy(&cluster, verb, &failing);
        let told = format!("failing.toml: line {line}: test 3: tcp/5432 from");
        assert_eq!(refused.status.code(), Some(1), "{verb}: {}", refused.stdout);
        assert!(refused.stderr.contains(&told), "{verb}: {}", refused.stderr);
        assert!(refused.stderr.contains("nothing is changed"), "{verb}: {}", refused.stderr);
        assert_eq!(revision(&cluster), 1);
    }
    wait_for(&cluster, "web", "other");

    let differs = policy(&cluster, "diff", &swapped).stdout;
    assert_eq!(policy(&cluster, "test", &swapped).status.code(), Some(0));
    assert!(differs.starts_with("rule web-to-db "), "{differs}");
    assert_eq!(revision(&cluster), 1, "nothing is changed by looking");
    assert_eq!(policy(&cluster, "apply", &swapped).status.code(), Some(0));
    wait_for(&cluster, "other", "web");

    cluster.ctl(0, &["policy", "rollback", "1"]).unwrap();
    assert_eq!(revision(&cluster), 3);
    wait_for(&cluster, "web", "other");
    let same = cluster.ctl(0, &["policy", "diff", swapped.to_str().unwrap()]).unwrap().stdout;
    assert_eq!(same, differs, "it differs from the live one as before");
    drop(db);
    cluster.finish().unwrap();
}

/// Files that are no policies, with what is told of each.
fn wrong() -> Vec<(&'static str, Vec<u8>, String)> {
    let own = |name, text: &str, told: &str| (name, text.as_bytes().to_vec(), told.to_owned());
    let with = |name, line: &str, told: &str| own(name, &format!("{POLICY}{line}\n"), told);
    let end = POLICY.lines().count();
    let again = &POLICY[POLICY.find("[[rule]]").expect("a rule")..];
    let cut = |name, before: &str, line: usize| {
        let at = POLICY.find(before).expect("it is in the policy");
        own(name, &POLICY[..at], &format!("line {line}, "))
    };
    let line_of =
        |text: &str| POLICY.lines().position(|line| line.contains(text)).expect("it is there") + 1;
    let binary: Vec<u8> = POLICY.bytes().take(40).chain(0..=255).collect();
    let text = binary.iter().take(40 + 128);
    let binary_at = 1 + text.filter(|byte| **byte == b'\n').count();

    vec![
        with("wrong key", "alow = [\"icmp\"]", &format!("line {}, column 1: rule.alow: ", end + 1)),
        with(
            "wrong port",
            "[[rule]]\nname = \"x\"\nfrom = \"any\"\nto = \"any\"\nallow = [\"tcp/99999\"]",
            &format!("line {}, column 10: rule.allow: \"tcp/99999\"", end + 5),
        ),
        with(
            "a label of a number",
            "[[rule]]\nname = \"x\"\nfrom = { role = 7 }\nto = \"any\"\nallow = \"any\"",
            &format!("line {}, column 17: rule.from.role: ", end + 3),
        ),
        with(
            "allow and deny",
            "deny = [\"tcp/5432\"]",
            &format!("line {}, column 8: rule.deny: the rule allows and denies", end + 1),
        ),
        own(
            "a rule twice",
            &format!("{POLICY}\n{again}"),
            &format!("line {}, column 1: rule.name: the rule of line ", end + 2),
        ),
        with("two defaults", "[network.shop]\ndefault = \"allow\"", &format!("line {}, ", end + 1)),
        with(
            "a test of nobody",
            "[[test]]\nfrom = \"nobody\"\nto = \"db\"\nallow = \"any\"",
            &format!("line {}: test 1: there is no endpoint nobody", end + 1),
        ),
        with(
            "tests that contradict",
            "[[test]]\nfrom = { role = \"web\" }\nto = \"db\"\n\
              allow = [\"tcp/5432\"]\ndeny = [\"tcp/5432\"]",
            &format!("line {}: test 1: ", end + 1),
        ),
        cut("cut within a word", "ny\"", line_of("default")),
        cut("cut after a key", "\"web-to-db\"", line_of("web-to-db")),
        cut("cut before a key", "to = {", line_of("[[rule]]")),
        cut("cut within a table", "\"db\" }", line_of("to = {")),
        cut("cut within a list", "\"tcp/5432\"]", line_of("allow")),
        own("empty", "", "line 1, column 1: there is no rule and no default"),
        own("yaml", "network:\n  shop:\n    default: deny\n", "line 1, column 8: "),
        own("json", "{\"network\": {\"shop\": {\"default\": \"deny\"}}}", "line 1, column 1: "),
        own("huge", &"#".repeat(LONGEST + 1), "line 1, column 1: the document has 1048577 bytes"),
        own(
            "much more than huge",
            &"#\n".repeat(4 * LONGEST),
            "line 1, column 1: the document has",
        ),
        ("binary", binary, format!("line {binary_at} is not UTF-8")),
        ("another encoding", [0xFF, 0xFE, b'[', 0].to_vec(), "line 1 is not UTF-8".to_owned()),
    ]
}

#[test]
fn a_file_that_is_no_policy_is_refused_with_its_line_and_what_is_live_stays() {
    let Some((cluster, db)) = shop(2) else { return };
    let files = Files::new();
    apply(&cluster, POLICY);
    wait_for(&cluster, "web", "other");

    for (name, bytes, told) in wrong() {
        let file = files.write(&format!("{}.toml", name.replace(' ', "-")), &bytes);
        for verb in ["apply", "shadow", "test"] {
            let refused = policy(&cluster, verb, &file);
            // `test` prints what it finds, each mistake on a line.
            let said = format!("{}{}", refused.stdout, refused.stderr);
            let told = if verb == "test" { told.split(": test").last().unwrap() } else { &told };
            assert_eq!(refused.status.code(), Some(1), "{verb} {name}: {said}");
            assert!(said.contains(told), "{verb} {name}: {said}, and not {told}");
            let lines = said.lines().count();
            assert!(verb == "test" || lines <= 2, "{verb} {name}: {said}");
        }
        assert_eq!(revision(&cluster), 1, "{name}");
    }
    let mut missing = files.write("x", b"");
    missing.pop();
    assert_eq!(policy(&cluster, "apply", &missing).status.code(), Some(1), "a folder");

    // Labels, names and networks that nothing has yet are no mistakes: endpoints come and go.
    let unknown = POLICY.replace("role = \"web\"", "rule = \"web\"");
    let unknown =
        unknown.replace("[network.shop]", "[network.shop]\ndefault = \"deny\"\n[network.shpo]");
    let unknown = unknown.replace("[[rule]]\n", "[[rule]]\nnetwork = \"shop\"\n");
    let line = 1 + unknown.lines().position(|line| line == "[network.shpo]").expect("it has one");
    let unknown = files.write("unknown.toml", unknown.as_bytes());
    let warned = policy(&cluster, "test", &unknown);
    assert_eq!(warned.status.code(), Some(0), "{}{}", warned.stdout, warned.stderr);
    for warning in ["rule web-to-db: no endpoint matches its from", "there is no network shpo"] {
        assert!(warned.stdout.contains(warning), "{}", warned.stdout);
    }
    // Whoever asks for it has them refused.
    for verb in ["apply", "shadow", "test"] {
        let strict = cluster.host(0).command("overlayctl").args(["policy", verb, "--strict"]);
        let refused = strict.arg(&unknown).output().expect("it runs");
        assert_eq!(refused.status.code(), Some(1), "{verb}: {}", refused.stdout);
        let told = format!("line {line}: there is no network shpo");
        assert!(verb == "test" || refused.stderr.contains(&told), "{verb}: {}", refused.stderr);
    }
    assert_eq!(revision(&cluster), 1);
    wait_for(&cluster, "web", "other");
    drop(db);
    cluster.finish().unwrap();
}
