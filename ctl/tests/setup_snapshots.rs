//! What the commands say that set a host up and take it down: `init`, `join`, `start`, `stop`,
//! `leave` and `logs`, on a host that only pretends. See `snapshots.rs` for how the snapshots are
//! read and accepted.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::host::Host;
use support::terminal::typed;
use support::transcript::{skipped, transcribed};
use support::{CONTROL, join_line};

/// Makes a transcript of a host.
fn on(host: &Host, lines: &str) -> String {
    transcribed(lines, |line| typed(line, |words| host.command(words)))
}

/// What a service that only pretends runs to say that it is ready, as `sd_notify(3)` does.
#[test]
#[ignore = "part of the services of support::host"]
fn a_service_that_is_ready() {
    let socket = std::env::var_os("NOTIFY_SOCKET").expect("somebody listens");

    UnixDatagram::unbound().and_then(|ours| ours.send_to(b"READY=1", socket)).expect("said");
}

/// What a door that only pretends is: it answers nobody, but somebody is there while the test
/// lives.
#[test]
#[ignore = "part of the services of support::host"]
fn a_door_that_is_open() {
    let socket = std::env::var_os("LISTEN").expect("a path");
    let _ = fs::remove_file(&socket);
    let door = UnixListener::bind(socket).expect("it is free");
    let alive = PathBuf::from(std::env::var_os("HOST").expect("a host")).join("alive");
    std::thread::spawn(move || {
        let _ = fs::read(alive);
        std::process::exit(0);
    });

    while door.accept().is_ok() {}
}

/// A test with services, for another one to kill.
#[test]
#[ignore = "part of what_only_pretends_ends_with_its_test"]
fn a_test_that_is_killed() {
    let host = Host::new();
    let begun = host.command(&["init"]).output().expect("it ran");
    assert!(begun.status.success(), "{begun:?}");

    writeln!(std::io::stdout(), "HOST={}", host.dir().display()).expect("somebody reads");
    loop {
        std::thread::park();
    }
}

/// Lists the processes that run on a host.
fn on_host(host: &str) -> Vec<String> {
    let on_it = |entry: &fs::DirEntry| {
        let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == host.as_bytes())
    };
    let processes = fs::read_dir("/proc").expect("processes").filter_map(Result::ok).filter(on_it);

    processes
        .map(|entry| fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default())
        .collect()
}

#[test]
fn what_only_pretends_ends_with_its_test() {
    if skipped() {
        return;
    }
    let mut test = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "a_test_that_is_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines =
        BufReader::new(test.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let host = lines
        .find_map(|line| line.find("HOST=").map(|at| line[at..].to_owned()))
        .expect("it has begun");
    let began = on_host(&host);

    test.kill().and_then(|()| test.wait()).expect("killed");

    let deadline = Instant::now() + Duration::from_secs(10);
    while !on_host(&host).is_empty() {
        assert!(Instant::now() < deadline, "these stay: {:?}", on_host(&host));
        std::thread::yield_now();
    }
    assert!(began.len() >= 2, "the agent and control ran: {began:?}");
    fs::remove_dir_all(host.trim_start_matches("HOST=")).expect("removed");
}

#[test]
fn a_cluster_from_its_beginning_to_its_end() {
    if skipped() {
        return;
    }
    let host = Host::new();

    let text = on(
        &host,
        "start
         stop
         leave
         logs
         init --advertise 203.0.113.77
         init
         init
         init --json
         init --no-join
         init --ttl 24h --uses 1 -q
         logs
         logs agent -n 1
         logs control --since 1h
         logs --since 1s -n 0
         logs --follow ^C
         logs --state /var/lib/overlay --json
         start
         start --json
         stop
         stop --json
         status
         start
         status --socket /run/overlay/agent.sock --check -o table
         man /var/lib/man1
         man /var/lib/man1 --json
         man /etc/overlay/overlayd.toml
         man
         stop -q
         start -q
         stop
         start --foreground ^C
         leave
         leave
         leave --json
         leave -q",
    );

    insta::assert_snapshot!("cluster", text);
}

#[test]
fn upgrades() {
    if skipped() {
        return;
    }
    let host = Host::new();

    let text = on(
        &host,
        "init -q
         upgrade
         upgrade --json
         upgrade -q
         upgrade --binary /bin/true
         upgrade --binary /bin/false
         upgrade --binary /bin/false --json
         upgrade --binary /nonexistent/overlayd
         upgrade --binary
         upgrade now
         leave -q",
    );

    insta::assert_snapshot!("upgrades", text);
}

#[test]
fn options_of_init() {
    if skipped() {
        return;
    }
    let host = Host::new();

    let mut text = on(
        &host,
        "init --listen 127.0.0.1:7443 --pool 10.64.0.0/10 --name a --advertise 127.0.0.1 --port 51900
         leave
         init --no-join
         leave
         leave --force --state /var/lib/overlay
         init --advertise 203.0.113.77 --force --agent-config /etc/overlay/overlayd.toml --json
         leave --json
         init --port 0
         init --port many
         init --ttl soon
         init --uses 0
         init --agent-config /etc/overlay/none.toml
         init --control-config /etc/overlay
         init --state /etc/overlay/overlayd.toml
         init --no-join=yes
         start --state /var/lib/none
         start --state /var/lib/none --json
         stop --state /var/lib/none
         stop now
         start agent
         leave cluster
         logs all",
    );
    "/var/lib/other/agent".clone_into(&mut host.agent.script().state_dir);
    text.push_str(&on(
        &host,
        "init --control-config /etc/overlay/control.toml --state /var/lib/other --foreground ^C
         stop --state /var/lib/other
         start --state /var/lib/other
         logs --state /var/lib/other
         leave --state /var/lib/other",
    ));

    insta::assert_snapshot!("init", text);
}

#[test]
fn options_of_join() {
    if skipped() {
        return;
    }
    let host = Host::new();
    let (line, other) = (join_line(CONTROL), join_line("198.51.100.1:7443"));

    let text = on(
        &host,
        &format!(
            "join {line}
             join {line} --json
             join {other}
             leave --state /var/lib/other
             leave
             join {line} --name a --advertise 127.0.0.1 --port 51900 --state /var/lib/overlay --json
             leave
             join {line} --advertise 203.0.113.77
             join {line} --advertise 203.0.113.77 --force --agent-config /etc/overlay/overlayd.toml
             leave
             join {line} --foreground ^C
             leave
             join {line} --name a.b
             join {line} --port 0
             join {line} --agent-config /etc/overlay
             join {line} --state /etc/overlay/overlayd.toml
             join /etc/overlay/overlayd.toml
             join -"
        ),
    );

    insta::assert_snapshot!("join", text);
}

#[test]
fn services_that_do_not_start() {
    if skipped() {
        return;
    }
    let host = Host::new();
    host.break_agent();
    let mut text = on(&host, "init\ninit --json\nleave");
    host.repair();
    text.push_str(&on(&host, "init -q\nstop"));
    host.break_agent();
    text.push_str(&on(&host, "start\nstart --json"));

    insta::assert_snapshot!("services_that_do_not_start", text);
}

#[test]
fn without_rights_to_read() {
    if skipped() {
        return;
    }
    let host = Host::new();
    let ran = on(&host, "init -q");
    let ask = |line: &str| typed(line, |words| host.command_of_nobody(words));

    let text = transcribed("logs\nlogs control --json\nlogs --state /var/lib/overlay", ask);

    assert!(ran.ends_with("[0]\n\n"), "{ran}");
    insta::assert_snapshot!("without_rights_to_read", text);
}
