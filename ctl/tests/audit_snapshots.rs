//! What `overlayctl audit` says, on a terminal of 80 columns; see `snapshots.rs`.

mod support;

use std::fs;

use support::FakeAgent;
use support::fake_audit::noted;
use support::terminal::typed;
use support::transcript::transcribed;

/// Types lines in a directory with heads that were noted.
fn transcript(agent: &FakeAgent, lines: &str) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
    write("head", &format!("{}\n", noted(5)));
    write("early", &noted(1));
    write("other", &noted(5).replacen("5:", "4:", 1));
    write("later", &noted(8).replacen("8:", "9:", 1));
    write("junk", "12");
    let prepare = |words: &[&str]| {
        let mut command = agent.command(words);
        command.current_dir(dir.path());
        command
    };

    transcribed(lines, |line| typed(line, prepare))
}

/// Records, in every form.
#[test]
fn audit_records() {
    let agent = FakeAgent::start();

    let text = transcript(
        &agent,
        "audit --help
         audit
         audit --json
         audit -q
         audit -o wide
         audit -n 2
         audit -n many
         audit --since 2023-11-14T22:18:00Z
         audit --since yesterday
         audit --since 1h
         audit --node host-b
         audit --node a.b
         audit --network shop -o wide
         audit --network a.b
         audit --format '{{.Number}} {{.Who}} {{.What}}'
         audit --format '{{.Nme}}'
         audit -n 2 -o wide --follow ^C
         audit ls --help
         audit ls
         audit ls --json
         audit ls -n 1
         audit ls -n many
         audit ls --since 2023-11-14T22:18:00Z
         audit ls --since yesterday
         audit ls --node host-b
         audit ls --node a.b
         audit ls --network shop
         audit ls --network a.b
         audit ls --format '{{.Number}} {{.Which}}'
         audit ls --format '{{.Nme}}'
         audit ls --json --follow ^C
         audit show --help
         audit show 5
         audit show 3 7
         audit show 6 --json
         audit show 9
         audit show 0
         audit show --format '{{.Certificate}}' 4
         audit show --format '{{.Nme}}' 4
         audit show",
    );

    insta::assert_snapshot!("audit_records", text);
}

/// Whether they are what was written.
#[test]
fn audit_verification() {
    let agent = FakeAgent::start();

    let mut text = transcript(
        &agent,
        &format!(
            "audit verify --help
             audit verify
             audit verify --json
             audit verify -q
             audit verify --format '{{{{.Head}}}}'
             audit verify --format '{{{{.Nme}}}}'
             audit verify --head head
             audit verify --head head --json
             audit verify --head other
             audit verify --head later
             audit verify --head junk
             audit verify --head missing
             audit verify --from-hash {}
             audit verify --from-hash 12
             audit verify --head head --from-hash {}",
            noted(2),
            noted(2)
        ),
    );
    agent.script().forgets_audit = true;
    text += &transcript(
        &agent,
        "audit verify
         audit verify --head head
         audit verify --head early
         audit show 1",
    );
    agent.script().alters_audit = true;
    text += &transcript(
        &agent,
        "audit verify
         audit verify --json",
    );

    insta::assert_snapshot!("audit_verification", text);
}
