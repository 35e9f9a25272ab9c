//! What every command says: each with each flag, right and wrong, on a terminal of 80 columns, as
//! JSON, and without rights.
//!
//! The snapshots are read by people before they are accepted:
//! `INSTA_UPDATE=always cargo nextest run -p overlayctl`, then `git diff`. A line that begins with
//! `!` went to standard error; the number in brackets is the exit code, and `^C` at the end of a
//! line is Ctrl-C, pressed once something was seen. That nothing is missing is checked by
//! `cli::coverage`.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use overlay_proto::Code;
use support::crowd::crowd;
use support::terminal::typed;
use support::transcript::{skipped, transcribed};
use support::{Crowd, FakeAgent};

/// Types lines where an agent runs that lists much.
fn transcript(agent: &FakeAgent, lines: &str) -> String {
    let socket = agent.socket().display().to_string();
    let ask = |line: &str| {
        agent.script().crowd = Some(crowd());
        typed(line, |words| agent.command(words))
    };

    transcribed(lines, ask).replace(&socket, "/run/overlay/agent.sock")
}

/// A table of command lines, one snapshot for each subject.
macro_rules! subjects {
    ($($subject:ident: $lines:literal;)*) => {
        $(
            #[test]
            fn $subject() {
                let agent = FakeAgent::start();

                let text = transcript(&agent, $lines);

                insta::assert_snapshot!(stringify!($subject), text);
            }
        )*
    };
}

subjects! {
    listings_of_networks: "
        network
        network ls
        net -o wide
        networks list -o name
        network -q
        network ls --json
        network ls --format '{{.Name}} {{.Endpoints}} {{.Members}}'
        network ls --format 'table {{.Name}}\\t{{.Prefix}}'
        network ls --format '{{json .Labels}}'
        network ls --format '{{.Nme}}'
        network ls --format '{{Name}}'
        network ls --format '{{.Name}}' -q
        network ls -o yaml
        network ls --watch=5
        network ls --json -o wide
        network inspect web
        network inspect secret
        network inspect web nope
        network inspect web nope --json
        network inspect web secret --format '{{.Name}}: {{.Endpoints}}'
        network inspect
        network show web -o name
        network inspect web --format '{{.Nme}}'
    ";
    where_control_is: "
        control
        control ls
        control list -o wide
        control -q
        control ls -o name
        control ls --json
        control ls --format '{{.Address}} {{.Source}}'
        control set 192.0.2.9
        control set 192.0.2.9 control.example:7443 --json
        control set 192.0.2.66 192.0.2.9
        control set 192.0.2.66
        control set 192.0.2.66 --json
        control set 192.0.2.66 --force
        control set ''
        control set
        control set 192.0.2.9 --port 7443
        control rm 192.0.2.9
    ";
    changes_of_networks: "
        network create web
        network create web -q
        network create web --json
        network create web --subnet 10.9.0.0/16 --subnet fd00:9::/64 --label a=b --gateway 10.9.0.1 --ip-range 10.9.1.0/24 --internal
        network create
        network create a.b
        network create web --subnet 10.9.0.0
        network create web --subnet 10.9.3.1/16
        network create web --subnet fd00:9::1
        network create web --subnet ten
        network create web --subnet 10.8.0.0/16 --subnet 10.9.0.0/16
        network create web --ip-range fd00::/64
        network create web --gateway 10.9.0.1/16
        network create web --gateway fd00::1
        network create web --nodes 'role=db,site in (a,b)'
        network create web --nodes 'role='
        network create web --nodes all
        network create till --lease 15m
        network create till --lease 9s
        network create till --lease forever
        network create web --mode l2
        network create web --mode l3
        network create web --mode l4
        network create web --label team
        network create web --subnet 10.9.0.0 --json
        network rm web
        network rm one nope busy two
        network rm one nope busy two --json
        network rm far
        network rm far nope
        network remove web --force
        network rm
        network set web --nodes 'role in (db,web)'
        network set web --nodes '' --json
        network set web --nodes 'site in a'
        network set web --lease 1h
        network set web --no-lease --nodes ''
        network set web --lease 1h --no-lease
        network set web
        network set
        network link --help
        network link front back
        network link front back --only policy
        network link front back --json
        network link front back --only everything
        network link front
        network unlink front back
        network unlink front back --json
        network unlink front
        network unlink front back far
    ";
    endpoints_of_networks: "
        endpoint
        endpoint ls
        ps
        ps -o wide
        ps -q
        ps -o name
        endpoints --network web --json
        endpoint --network web
        endpoint --network nope
        endpoint ls --network web
        endpoint ls --network nope
        endpoint list everything
        ps --network web --json
        ps --network nope
        ps --format '{{.Nme}}'
        ps --format '{{.Name}} {{join .Addresses \" \"}}'
        ps --format 'table {{.Name}}\\t{{.NodeID}}\\t{{.Labels}}'
        ps --format '{{range .Aliases}}{{upper .}} {{end}}'
        ep show service2
        endpoint show service2.web
        endpoint show 10.200.0.2 -o name
        endpoint show 5d3c0f8a2b11 --json
        endpoint show nope service2.db
        endpoint show service2 --network web -q
        endpoint show service2 --network nope
        endpoint show service2.web --format '{{.ID}}'
        endpoint show service2.web --format '{{.Nme}}'
        endpoint show
    ";
    members_of_the_cluster: "
        node
        node ls
        node ls -o wide
        node ls -o name
        nodes -q
        node ls --json
        node ls --format '{{.Name}}: {{len .Networks}}'
        node show host-01
        node show host-01 nope
        node show host-01 --json
        node show host-01 --format '{{.Version}}'
        node show host-01 --format '{{.Nme}}'
        node list host-01
        node rm one nope two
        node rm one --json
        node rm host-01
        node rm host-01 --force
        node rm
        token
        token ls -o wide
        token ls -q
        token ls --json
        tokens --format '{{.ID}}: {{.Used}} of {{.Uses}}'
        token create
        token create --ttl 2h --uses 3 --role admin --label rack=7
        token create --json
        token create --ttl 1
        token create --uses 0
        token create --role worker --label role=db
        token create --role king
        token create --label rack
        token rm one nope two
        token rm one --json
        token revoke one
    ";
    health: "
        status
        status --check
        status -o wide
        status -o name
        status -q
        status now
        status --json
        status --format '{{.Control.Connected}} {{range .Problems}}{{.Code}} {{end}}'
        status --format '{{.Control.Nope}}'
        peers
        peers --lanes
        peers -o wide
        peers -q
        peers -o name
        peers --json
        peers --lanes --json
        peers --format 'table {{.Node}}\\t{{.State}}\\t{{.Reason}}'
        peers --nope
        peers host-02
        version
        version --json
        version --format '{{.Client.Version}} {{.Control.Version}}'
        version --format '{{.Nme}}'
        version 2
        events
        events --json
        events --format '{{.Kind}} {{.Name}}'
        events --format '{{.Nme}}'
        events web
        ping service2 --count 2
        ping service2 -c 2 -q
        ping service2 --count 2 --network web --json
        ping service2 --count 0
        ping service2 --interval fast
        ping service2 --count 1 --interval 10 --timeout 100 --network web
        ping service2 --timeout 0
        ping service2 --network nope
        ping nope
        ping nope --json
        ping
    ";
    attachments: "
        attach --host --network web --name gateway
        attach --host --network web --name gateway --ip 10.9.0.9 --alias www --ifname ov0 --label a=b --json
        attach --host --network web --name gateway --ip fd00::9
        attach --host --network web --name gateway --ip 10.9.0.9/16
        attach --netns nope --network web --name x
        attach --netns /x --host --network web --name x
        attach --netns /proc/self/ns/net --network web --name x
        attach --host --network web --name x -q
        attach --host --network web --name x -o name
        attach --host --network nope --name x
        attach --host --network web --name a.b
        attach --host --network web --name x --alias 'a b'
        attach --host --network web --name x --label team
        attach --host --network web
        attach --network web --name x
        detach --network web --name gateway
        detach --network web --name gateway -q
        detach --network web --name nope
        detach --network web --name nope --json
        detach --network nope --name gateway
        detach nope
        detach 5d3c0f8a2b11 --network web
        detach 5d3c0f8a2b11 --json
        detach
        detach --name x
        run --network web,web -- true
        run --network web --network web -- true
        run --network web,db --ip 10.9.0.9 -- true
        run --network web
        run -- true
        run --network a.b -- true
    ";
    words_that_are_wrong: "
        statu
        statu --json
        network lst
        network ls --formt x
        why a b
        why a b --json
        doctor --fix
        top
        stats --watch
        flows --follow
        capture all -w file
        bench a b
        bundle
        ca rotate
        client ls
        init --listen 7443
        init --pool 10.64.0.0
        init --advertise host-a
        init --name a.b
        join
        join x --advertise 0.0.0.0
        join nothing-of-the-kind
        join ovl1-nonsense@192.0.2.1:7443
        completions bash
        completions zsh
        completions fish --json
        completions tcsh
        completions
        logs docker
        logs -n many
        logs --since yesterday
        logs --state /nonexistent
        logs control --state /nonexistent --json
    ";
}

#[test]
fn an_agent_that_knows_nothing() {
    let agent = FakeAgent::start();
    agent.script().crowd = Some(Crowd::default());

    let text = transcribed(
        "network ls
         network ls -q
         network ls --json
         ps
         peers
         peers --json
         control ls
         token ls
         node ls
         policy show
         policy show --json
         policy counts
         policy history
         policy history -q
         policy rollback 0
         ps --format '{{.Nme}}'",
        |line| typed(line, |words| agent.command(words)),
    );

    insta::assert_snapshot!("nothing", text);
}

#[test]
fn what_cannot_be_reached() {
    let agent = FakeAgent::start();
    agent.refuse(Code::ControlAway, "control is away since 3 s");
    let text = transcript(
        &agent,
        "network ls
         network create web
         network create web --json
         network rm one two
         version
         version --json
         status --socket /nonexistent/agent.sock
         status --socket /nonexistent/agent.sock --json
         version --socket /nonexistent/agent.sock
         ps --watch --socket /nonexistent/agent.sock",
    );

    insta::assert_snapshot!("away", text);
}

/// Somebody who is not root, where the agent's socket is root's.
#[test]
fn without_rights() {
    if skipped() {
        return;
    }
    let agent = FakeAgent::start();
    fs::set_permissions(agent.socket(), fs::Permissions::from_mode(0o600)).expect("closed");
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("opened");
    let program = dir.path().join("overlayctl");
    fs::copy(env!("CARGO_BIN_EXE_overlayctl"), &program).expect("copied");
    let policy = "[network.shop]\ndefault = \"deny\"\n";
    fs::write(dir.path().join("shop.toml"), policy).expect("written");
    let prepare = |words: &[&str]| {
        let mut command = Command::new(&program);
        command
            .args(words)
            .current_dir(dir.path())
            .env("OVERLAY_SOCKET", agent.socket())
            .stdin(Stdio::null())
            .uid(65_534)
            .gid(65_534);
        command
    };

    let text = transcribed(
        "status
         status --json
         network
         network create web
         network set web --nodes role=db
         network link front back
         network unlink front back
         network ls
         network inspect web
         network rm web
         endpoint
         endpoint ls
         endpoint show web
         ps --watch
         node
         node ls
         node show host-01
         node rm host-01
         token
         token create
         token ls
         token rm 0123456789abcdef
         control
         control ls
         control set 192.0.2.9
         peers --json
         ping service2
         policy --help
         policy test shop.toml
         policy diff shop.toml
         policy apply shop.toml
         policy shadow shop.toml
         policy show
         policy counts
         policy history
         policy rollback 1
         events
         audit
         audit ls
         audit show 1
         audit verify
         attach --host --network web --name x
         detach 5d3c0f8a2b11
         run --network web -- true
         run --network web --json -- true
         version
         upgrade
         init
         join ovl1-nonsense@192.0.2.1:7443
         start
         stop
         stop --json
         leave
         completions bash
         man /proc/man1",
        |line| typed(line, prepare),
    );

    let text = text.replace(&agent.socket().display().to_string(), "/run/overlay/agent.sock");
    insta::assert_snapshot!("without_rights", text);
}

/// What every listing takes, beside what is its own.
#[test]
fn flags_of_listings() {
    let agent = FakeAgent::start();
    let listings = [
        "network",
        "network ls",
        "endpoint",
        "endpoint ls",
        "ps",
        "node",
        "node ls",
        "token",
        "token ls",
        "control",
        "control ls",
        "policy counts",
        "policy history",
        "status",
        "peers",
    ];
    let lines = |listing| {
        format!(
            "{listing} --watch ^C
             {listing} --watch=5
             {listing} --format '{{{{json .}}}}'
             {listing} --format '{{{{.Nope}}}}'
             {listing} --json"
        )
    };

    let text = transcript(&agent, &listings.map(lines).join("\n"));

    insta::assert_snapshot!("flags_of_listings", text);
}

#[test]
fn commands_on_the_overlay() {
    if skipped() {
        return;
    }
    let agent = FakeAgent::start();

    let text = transcript(
        &agent,
        "run --network web --name service2 --alias www --label a=b --ip 10.9.0.9 -- uname -n
         run --network web --name service2 --replica -- true
         run --network web --replica -- true
         run --network web,db -- uname -n
         run --network web -q -- true
         run --network web --json -- true
         run --network web -- sh -c 'exit 42'
         run --network web -- /no/such/program
         run --network web --json -- /no/such/program
         run --network nope -- true
         run --network web --name a.b -- true
         run --network web --alias 'a b' -- true
         run --network web --label a -- true
         run --network web --ip ten -- true",
    );

    insta::assert_snapshot!("run", text);
}

#[test]
fn watching_a_terminal_draws_it_anew_and_ends_with_ctrl_c() {
    let agent = FakeAgent::start();
    let mut child = agent.command(&["network", "ls", "--watch=1s", "--json"]);
    let mut child = child.stdout(Stdio::piped()).spawn().expect("it runs");
    let mut output = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    let mut next = || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line).expect("a line");
        serde_json::from_str::<serde_json::Value>(&line).expect("a line of JSON")
    };

    let first = next();
    agent.script().crowd = Some(crowd());
    let second = next();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("sent");

    assert_eq!(
        (first.as_array().map(Vec::len), second.as_array().map(Vec::len)),
        (Some(1), Some(3))
    );
    assert_eq!(child.wait().expect("it ran").code(), Some(0));
}
