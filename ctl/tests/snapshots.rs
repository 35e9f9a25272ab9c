//! What every command says: each with each flag, right and wrong, on a terminal of 80 columns, as JSON, and without rights.
//!
//! The snapshots are read by people before they are accepted: `INSTA_UPDATE=always cargo nextest run -p overlayctl`, then
//! `git diff`. A line that begins with `!` went to standard error; the number in brackets is the exit code.

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::pty::{Winsize, openpty};
use overlay_proto::{Code, v1};
use support::{Crowd, FakeAgent, Ran, overlayctl};

const COLUMNS: u16 = 80;

/// Runs a command whose standard output is a terminal.
fn on_a_terminal(mut command: Command) -> Ran {
    let size = Winsize { ws_row: 24, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(&size, None).expect("a terminal");
    let mut screen = fs::File::from(terminal.master);
    command.env("NO_COLOR", "1").stdout(Stdio::from(terminal.slave)).stderr(Stdio::piped());
    let child = command.spawn().expect("it runs");
    // Its copy of the terminal would keep the screen open.
    drop(command);
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A terminal that is closed ends with an error.
        let _ = screen.read_to_end(&mut bytes);
        bytes
    });
    let mut output = child.wait_with_output().expect("it ran");
    output.stdout = reader.join().expect("read");
    output.stdout.retain(|byte| *byte != b'\r');

    output.into()
}

/// Splits a command line as a shell does, so far as quotes go.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("a word").push(c),
        }
    }

    words
}

/// Types lines and writes down what is seen.
fn transcript(agent: &FakeAgent, lines: &str) -> String {
    let mut text = String::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        agent.script().crowd = Some(crowd());
        let words = words(line);
        let ran = on_a_terminal(agent.command(&words.iter().map(String::as_str).collect::<Vec<_>>()));
        let is_table =
            !["json", "-o", "--format", "-q", "token create", "events"].iter().any(|form| line.contains(form));
        if is_table && ran.code == 0 {
            for shown in ran.stdout.lines() {
                assert!(shown.chars().count() <= COLUMNS.into(), "{line} is wider than {COLUMNS}: {shown}");
            }
        }
        text.push_str(&seen(line, &ran, agent));
    }

    text
}

fn seen(line: &str, ran: &Ran, agent: &FakeAgent) -> String {
    let errors: String = ran.stderr.lines().map(|line| format!("! {line}\n")).collect();
    let stdout = if ran.stdout.is_empty() { String::new() } else { format!("{}\n", ran.stdout) };
    let text = format!("$ overlayctl {line}\n{stdout}{errors}[{}]\n\n", ran.code);

    masked(&text.replace(&agent.socket().display().to_string(), "/run/overlay/agent.sock"))
}

/// Replaces instants, which are another one at each run.
fn masked(text: &str) -> String {
    let digits = |pattern: &str, text: &[u8]| {
        pattern.len() <= text.len()
            && pattern.bytes().zip(text).all(|(p, t)| if p == b'0' { t.is_ascii_digit() } else { p == *t })
    };
    let mut masked = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if digits("0000-00-00T00:00:00Z", rest.as_bytes()) { 20 } else { c.len_utf8() };
        masked.push_str(if length == 20 { "<instant>" } else { &rest[..length] });
        rest = &rest[length..];
    }

    masked
}

fn ago(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() - seconds
}

const LONG: &str = "a-name-of-63-characters-that-somebody-found-to-be-a-good-idea-x";
const IPV6: &str = "2001:db8:1234:5678:9abc:def0:1234:5678";

fn network(name: &str, prefix6: &str) -> v1::Network {
    v1::Network {
        id: "0123456789ab".into(),
        name: name.into(),
        prefix: "10.200.128.0/17".into(),
        prefix6: prefix6.into(),
        mode: v1::NetworkMode::L3.into(),
        labels: [("team".to_owned(), "store".to_owned())].into(),
        settings: None,
    }
}

fn networks() -> v1::ListNetworksResponse {
    let members = (1..=12).rev().map(|n| format!("host-{n:02}")).collect();
    let settings = v1::NetworkSettings {
        gateway: "10.200.128.254".into(),
        range: "10.200.192.0/18".into(),
        internal: true,
        options: [("driver.mtu".to_owned(), "1300".to_owned())].into(),
        ..v1::NetworkSettings::default()
    };
    let web = v1::Network { settings: Some(settings), ..network("web", "fd00:1234:5678:9abc::/64") };
    let difference = v1::HostDifference { node: "host-02".into(), reason: "it has another prefix there".into() };

    v1::ListNetworksResponse {
        networks: vec![
            v1::NetworkState { network: Some(web), members, endpoints: 312, ..v1::NetworkState::default() },
            v1::NetworkState {
                network: Some(network(LONG, "")),
                members: vec!["host-01".into()],
                differences: vec![difference],
                ..v1::NetworkState::default()
            },
            v1::NetworkState { network: Some(network("secret", "")), hidden: true, ..v1::NetworkState::default() },
        ],
    }
}

fn endpoints() -> v1::ListEndpointsResponse {
    let endpoint = |id: &str, name: &str, network: &str, addresses: &[&str]| v1::EndpointState {
        endpoint: Some(v1::Endpoint {
            id: id.into(),
            network: "0123456789ab".into(),
            node: "0a0a0a0a0a0a".into(),
            name: name.into(),
            aliases: vec!["www".into(), "front".into(), "shop".into()],
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
            labels: [("com.docker.compose.project".to_owned(), "shop".to_owned())].into(),
            runtime: v1::Runtime::Docker.into(),
        }),
        network_name: network.into(),
        node_name: "host-01".into(),
    };

    v1::ListEndpointsResponse {
        endpoints: vec![
            endpoint("5d3c0f8a2b11", "service2", "web", &["10.200.128.2", IPV6]),
            endpoint("5d3c0f8a2b12", "service2", "db", &["10.200.0.2"]),
            endpoint("5d3c0f8a2b13", LONG, LONG, &[IPV6]),
        ],
    }
}

fn nodes() -> v1::ListNodesResponse {
    let node = |name: &str, role: v1::Role| v1::Node {
        id: "0a0a0a0a0a0a".into(),
        name: name.into(),
        role: role.into(),
        labels: [("rack".to_owned(), "7".to_owned())].into(),
        underlay: vec!["192.0.2.10".into(), IPV6.into()],
        lane_ports: vec![51820, 51821],
    };
    let networks = vec!["web".to_owned(), "db".to_owned(), LONG.to_owned()];

    v1::ListNodesResponse {
        nodes: vec![
            v1::NodeState {
                node: Some(node(LONG, v1::Role::Node)),
                seen_unix: ago(3_665),
                version: "0.1.0".into(),
                ..v1::NodeState::default()
            },
            v1::NodeState {
                node: Some(node("host-01", v1::Role::Admin)),
                online: true,
                seen_unix: ago(0),
                revision: 42,
                version: "0.1.0".into(),
                networks,
            },
        ],
    }
}

fn peers() -> v1::PeersResponse {
    let lane = |lane, node: &str, underlay: &str, state: v1::PeerState| v1::PeerStatus {
        node: "0b0b0b0b0b0b".into(),
        node_name: node.into(),
        network: "web".into(),
        local_lane: 1,
        lane,
        underlay_addr: underlay.into(),
        state: state.into(),
        since_unix: ago(3_665),
        handshake_age_seconds: 7,
        rx_bytes: 123_456_789,
        tx_bytes: 987_654_321,
        mtu: 1408,
        mtu_source: v1::MtuSource::Link.into(),
        backend: "userspace".into(),
        public_key: "kOEJ0Pt4VJ1a6gmF6d1XJ9S2pTpxHtQm0wGZl3D3Nn0=".into(),
        ..v1::PeerStatus::default()
    };
    let long = format!("[{IPV6}]:51820");
    let lost = v1::PeerStatus {
        node: "0c0c0c0c0c0c".into(),
        reason: "5 handshakes went unanswered: open UDP 51820 on host-03, or look at its agent".into(),
        ..lane(0, "host-03", "192.0.2.30:51820", v1::PeerState::Unreachable)
    };

    v1::PeersResponse {
        peers: vec![lane(0, "host-02", &long, v1::PeerState::Up), lane(1, "host-02", &long, v1::PeerState::Idle), lost],
    }
}

fn status() -> v1::StatusResponse {
    let network = |name: &str, prefix6: &str| v1::NetworkStatus {
        name: name.into(),
        id: "0123456789ab".into(),
        prefix: "10.200.128.0/17".into(),
        prefix6: prefix6.into(),
        node_address: "10.200.128.1".into(),
        blocks: vec!["10.200.128.0/26".into(), "10.200.128.64/26".into()],
        endpoints: 70,
        addresses_free: 54,
        mtu: 1408,
        drift_healed: 0,
    };
    let problem = |code: &str, text: &str| v1::Problem { code: code.into(), text: text.into(), since_unix: ago(3_665) };

    v1::StatusResponse {
        version: "0.1.0".into(),
        phase: v1::NodePhase::Joined.into(),
        cluster: "c0ffeec0ffee".into(),
        node: "0a0a0a0a0a0a".into(),
        node_name: "host-01".into(),
        role: v1::Role::Admin.into(),
        pid: 4242,
        started_unix: ago(90_005),
        state_dir: "/var/lib/overlay/agent".into(),
        control: Some(v1::ControlStatus {
            address: "192.0.2.1:7443".into(),
            since_unix: ago(3_665),
            reason: "192.0.2.1:7443: connection refused".into(),
            unpublished: 2,
            ..v1::ControlStatus::default()
        }),
        lanes: vec![
            v1::LaneStatus { lane: 0, port: 51820, offload: "tso+uso+gso+gro".into() },
            v1::LaneStatus { lane: 1, port: 51821, offload: "tso+uso+gso+gro".into() },
        ],
        networks: vec![network("web", "fd00:1234:5678:9abc::/64"), network(LONG, "")],
        counters: vec![
            v1::Counter { name: "forwarded".into(), value: 9, kind: v1::CounterKind::Traffic.into() },
            v1::Counter { name: "no_route".into(), value: 3, kind: v1::CounterKind::Refusal.into() },
        ],
        problems: vec![
            problem(
                "control-away",
                "control is away: 192.0.2.1:7443: connection refused; traffic goes on, changes wait",
            ),
            problem("docker", "the engine's socket cannot be read: permission denied"),
        ],
        certificate_expires_unix: ago(0) + 86_430,
        revision: 42,
    }
}

fn crowd() -> Crowd {
    let token = |id: &str, uses| v1::Token {
        id: id.into(),
        expires_unix: ago(0) + 3_630,
        uses,
        used: 1,
        role: v1::Role::Node.into(),
        labels: [("rack".to_owned(), "7".to_owned()), ("purpose".to_owned(), LONG.to_owned())].into(),
    };
    let event = |kind: v1::EventKind, name: &str, network: &str, text: &str| v1::Event {
        unix_ms: 1_700_000_000_000,
        kind: kind.into(),
        name: name.into(),
        network: network.into(),
        node: if network.is_empty() { String::new() } else { "host-02".into() },
        text: text.into(),
    };

    Crowd {
        status: status(),
        peers: peers(),
        networks: networks(),
        endpoints: endpoints(),
        nodes: nodes(),
        tokens: v1::ListTokensResponse { tokens: vec![token("0123456789abcdef", 10), token("fedcba9876543210", 1)] },
        events: vec![
            event(v1::EventKind::EndpointAttached, "service2", "web", "10.200.128.2"),
            event(v1::EventKind::ProblemRaised, "control-away", "", "control is away"),
        ],
    }
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
        network create web --mode l2
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
        network set web
    ";
    endpoints_of_networks: "
        endpoint
        endpoint ls
        ps
        ps -o wide
        ps -q
        ps -o name
        endpoints --network web --json
        ps --format '{{.Name}} {{join .Addresses \" \"}}'
        ps --format 'table {{.Name}}\\t{{.NodeID}}\\t{{.Labels}}'
        ps --format '{{range .Aliases}}{{upper .}} {{end}}'
        ep show service2
        endpoint show service2.web
        endpoint show 10.200.0.2 -o name
        endpoint show 5d3c0f8a2b11 --json
        endpoint show nope service2.db
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
        node rm one nope two
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
        token create --role king
        token create --label rack
        token rm one nope two
        token revoke one
    ";
    health: "
        status
        status --check
        status -o wide
        status -o name
        status -q
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
        version
        version --json
        version --format '{{.Client.Version}} {{.Control.Version}}'
        events
        events --json
        events --format '{{.Kind}} {{.Name}}'
        ping service2 --count 2
        ping service2 -c 2 -q
        ping service2 --count 2 --network web --json
        ping service2 --count 0
        ping service2 --interval fast
        ping
    ";
    attachments: "
        attach --host --network web --name gateway
        attach --host --network web --name gateway --ip 10.9.0.9 --alias www --ifname ov0 --label a=b --json
        attach --host --network web --name gateway --ip fd00::9
        attach --host --network web --name gateway --ip 10.9.0.9/16
        attach --netns nope --network web --name x
        attach --netns /x --host --network web --name x
        attach --host --network web
        attach --network web --name x
        detach --network web --name gateway
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
        policy apply file
        top
        stats --watch
        flows --follow
        audit verify
        capture all -w file
        bench a b
        bundle
        upgrade
        ca rotate
        client ls
        network link a b
        init --listen 7443
        init --pool 10.64.0.0
        init --advertise host-a
        init --name a.b
        join
        join x --advertise 0.0.0.0
        join nothing-of-the-kind
        join ovl1-nonsense@192.0.2.1:7443
        completions tcsh
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
    let mut text = String::new();
    for line in
        ["network ls", "network ls -q", "network ls --json", "ps", "peers", "peers --json", "ps --format '{{.Nme}}'"]
    {
        agent.script().crowd = Some(Crowd::default());
        let words = words(line);
        let ran = on_a_terminal(agent.command(&words.iter().map(String::as_str).collect::<Vec<_>>()));
        text.push_str(&seen(line, &ran, &agent));
    }

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
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn without_rights() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root, to be somebody else");
        return;
    }
    let agent = FakeAgent::start();
    fs::set_permissions(agent.socket(), fs::Permissions::from_mode(0o600)).expect("closed");
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("opened");
    let program = dir.path().join("overlayctl");
    fs::copy(env!("CARGO_BIN_EXE_overlayctl"), &program).expect("copied");
    let lines = [
        "status",
        "status --json",
        "network ls",
        "ps --watch",
        "peers --json",
        "run --network web -- true",
        "run --network web --json -- true",
        "version",
        "init",
        "join ovl1-nonsense@192.0.2.1:7443",
        "start",
        "stop",
        "stop --json",
        "leave",
    ];
    let mut text = String::new();
    for line in lines {
        let words = words(line);
        let mut command = Command::new(&program);
        command.args(&words).env("OVERLAY_SOCKET", agent.socket()).stdin(Stdio::null()).uid(65_534).gid(65_534);
        text.push_str(&seen(line, &on_a_terminal(command), &agent));
    }

    insta::assert_snapshot!("without_rights", text);
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

    assert_eq!((first.as_array().map(Vec::len), second.as_array().map(Vec::len)), (Some(1), Some(3)));
    assert_eq!(child.wait().expect("it ran").code(), Some(0));
}

#[test]
fn completions_are_scripts_that_the_shells_take() {
    for (shell, begin) in [("bash", "_overlayctl() {"), ("zsh", "#compdef overlayctl"), ("fish", "# Print an optspec")]
    {
        let ran = Ran::from(overlayctl(&["completions", shell]).output().expect("it ran"));
        assert_eq!(ran.code, 0, "{shell}: {}", ran.stderr);
        assert!(ran.stdout.starts_with(begin), "{shell}: {}", ran.stdout.lines().next().unwrap_or_default());
        assert!(ran.stdout.contains("inspect"), "{shell}");
    }
    let script = Ran::from(overlayctl(&["completions", "bash"]).output().expect("it ran")).stdout;
    let checked = Command::new("bash").args(["-n", "-c", &script]).output().expect("bash ran");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn every_command_has_a_manual_page_without_a_fault() {
    let dir = tempfile::tempdir().expect("a directory");
    let pages = dir.path().join("man1");

    let ran = Ran::from(overlayctl(&["man", pages.to_str().expect("a path")]).output().expect("it ran"));

    assert_eq!(ran.code, 0, "{ran:?}");
    for name in ["overlayctl", "overlayctl-run", "overlayctl-network-create", "overlayctl-endpoint-show"] {
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
