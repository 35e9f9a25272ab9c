//! What `overlayctl policy` says, on a terminal of 80 columns; see `snapshots.rs`.

mod support;

use std::fs;
use std::path::Path;

use overlay_proto::Code;
use support::FakeAgent;
use support::crowd::crowd;
use support::fake_policies::LIVE;
use support::terminal::typed;
use support::transcript::transcribed;

/// Types lines in a directory with policies, where an agent runs that lists much.
fn transcript(agent: &FakeAgent, lines: &str) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    write_policies(dir.path());
    let prepare = |words: &[&str]| {
        let mut command = agent.command(words);
        command.current_dir(dir.path());
        command
    };
    let ask = |line: &str| {
        agent.script().crowd = Some(crowd());
        typed(line, prepare)
    };

    transcribed(lines, ask)
}

/// Policies that are good, bad, and compared.
#[test]
fn policies() {
    let agent = FakeAgent::start();

    let text = transcript(
        &agent,
        "policy --help
         policy
         policy --json
         policy test good.toml
         policy test good.toml --json
         policy test good.toml --offline
         policy test open.toml --offline --strict
         policy test sound.toml --offline --strict
         policy test open.toml --offline
         policy test sound.toml --offline
         policy test /dev/null --offline
         policy test bad.toml
         policy test bad.toml --json
         policy test missing.toml
         policy test
         policy diff good.toml --from open.toml
         policy diff good.toml --from open.toml --json
         policy diff good.toml --from open.toml --offline
         policy diff good.toml --from good.toml
         policy diff bad.toml --from good.toml
         policy diff good.toml --from bad.toml
         policy diff good.toml --from bad.toml --json
         policy diff good.toml
         policy diff good.toml --json
         policy diff live.toml
         policy diff bad.toml
         policy diff good.toml --from missing.toml
         policy diff good.toml --offline
         policy diff",
    );

    insta::assert_snapshot!("policies", text);
}

/// Policies that replace the live one, and what was live.
#[test]
fn live_policies() {
    let agent = FakeAgent::start();

    let text = transcript(
        &agent,
        "policy apply --help
         policy apply good.toml
         policy apply good.toml --json
         policy apply good.toml -q
         policy apply good.toml --expect 4
         policy apply good.toml --expect 3
         policy apply good.toml --expect three
         policy apply live.toml --expect 3
         policy apply good.toml --strict
         policy apply sound.toml --strict
         policy apply bad.toml
         policy apply bad.toml --json
         policy apply failing.toml
         policy apply failing.toml --json
         policy apply missing.toml
         policy apply
         policy shadow good.toml
         policy shadow good.toml --json
         policy shadow good.toml --expect 4
         policy shadow good.toml --expect 3
         policy shadow good.toml --strict
         policy shadow sound.toml --strict
         policy shadow failing.toml
         policy shadow
         policy show
         policy show --json
         policy show --canonical
         policy show -q
         policy show --revision 2
         policy show --revision 3
         policy show --revision 9
         policy show --revision 9 --json
         policy show --revision last
         policy show shop
         policy counts
         policy counts --json
         policy counts -q
         policy counts --help
         policy counts --format '{{.Rule}} {{.Packets}}'
         policy counts --format '{{.Nme}}'
         policy counts 3
         policy history
         policy history --json
         policy history -q
         policy history -o wide
         policy history --format '{{.Revision}} {{.What}} by {{.By}}'
         policy history --format '{{.Nme}}'
         policy history 3
         policy rollback 1
         policy rollback 1 --json
         policy rollback 2
         policy rollback 4
         policy rollback 0
         policy rollback 1 --expect 4
         policy rollback 1 --expect 3
         policy rollback 9
         policy rollback last
         policy rollback",
    );

    insta::assert_snapshot!("live_policies", text);
}

/// On a node that is no admin.
#[test]
fn policies_of_others() {
    let agent = FakeAgent::start();
    agent.script().sees_part = true;
    let part = transcript(
        &agent,
        "policy show
         policy show --json
         policy diff good.toml
         policy diff live.toml --json",
    );
    agent.refuse(
        Code::NotAllowed,
        "node b has the role node, and this needs the role admin; do it on an admin node",
    );

    let text = transcript(
        &agent,
        "policy apply good.toml
         policy shadow good.toml --json
         policy rollback 1
         policy history
         policy show --revision 1",
    );

    insta::assert_snapshot!("policies_of_others", part + &text);
}

/// Writes policies for the endpoints of [`crowd`].
fn write_policies(dir: &Path) {
    let good = "[network.web]\ndefault = \"deny\"\n\
                [[rule]]\nname = \"shop\"\nnetwork = \"web\"\n\
                from = { \"com.docker.compose.project\" = \"shop\" }\n\
                to = { name = \"service*\" }\nallow = [\"tcp/8080\", \"icmp\"]\n\
                [[rule]]\nname = \"ops\"\nfrom = { team = \"ops\" }\nto = \"any\"\n\
                allow = [\"icmp\"]\n\
                [[test]]\nnetwork = \"web\"\nfrom = \"service2\"\nto = \"service2\"\n\
                allow = [\"tcp/8080\"]\ndeny = [\"tcp/22\"]\n";
    let open = "[[rule]]\nname = \"all\"\nnetwork = \"web\"\nfrom = \"any\"\nto = \"any\"\n\
                allow = \"any\"\n\
                [[rule]]\nname = \"late\"\nnetwork = \"web\"\nfrom = \"any\"\n\
                to = { role = \"db\" }\ndeny = [\"tcp/22\"]\n\
                [[test]]\nnetwork = \"web\"\nfrom = { role = \"web\" }\n\
                to = { role = \"db\" }\ndeny = [\"tcp/20-25\"]\n";
    let bad = "[network.web]\ndefault = \"closed\"\n\
               [[rule]]\nname = \"a\"\nfrom = \"web\"\nto = \"any\"\nallow = []\nlogs = true\n";

    let failing = good.replace("shop\"\nnetwork", "failing\"\nnetwork");
    for (name, text) in [
        ("good.toml", good),
        ("open.toml", open),
        ("sound.toml", "[network.shop]\ndefault = \"deny\"\n"),
        ("bad.toml", bad),
        ("failing.toml", &failing),
        ("live.toml", LIVE),
    ] {
        fs::write(dir.join(name), text).expect("written");
    }
}
