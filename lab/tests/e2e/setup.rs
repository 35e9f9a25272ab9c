//! Setting up and starting as transactions: what fails, is interrupted or is killed leaves nothing
//! behind, and the same or the corrected command works.

use std::time::Duration;

use overlay_lab::{CommandOutput, Host, Running, Snapshot, wait_until};

use super::lab;

const FOLDERS: [&str; 3] = ["/run", "/etc", "/var/lib"];
const PATIENCE: Duration = Duration::from_secs(30);
/// A script that listens on control's port.
const LISTEN_7443: &str = "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
                           s.bind(('0.0.0.0', 7443)); s.listen()";
/// An address that no host has (RFC 5737).
const NOBODY: &str = "203.0.113.77";

fn ctl(host: &Host, args: &[&str]) -> CommandOutput {
    host.command("overlayctl")
        .args(args)
        .deadline(Duration::from_secs(60))
        .output()
        .expect("overlayctl runs")
}

fn done(host: &Host, args: &[&str]) -> CommandOutput {
    let output = ctl(host, args);
    assert!(output.status.success(), "{args:?}: {}{}", output.stdout, output.stderr);

    output
}

fn refused(host: &Host, args: &[&str], words: &[&str]) -> CommandOutput {
    let output = ctl(host, args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}{}", output.stdout, output.stderr);
    for word in words {
        assert!(output.stderr.contains(word), "{args:?} does not say {word:?}: {}", output.stderr);
    }

    output
}

fn assert_unchanged(host: &Host, before: &Snapshot, what: &str) {
    before
        .assert_unchanged(|| host.snapshot(&FOLDERS))
        .unwrap_or_else(|error| panic!("{what}: {error:#}"));
}

/// Starts a foreign program on the host, which prints that it is there.
fn foreign(host: &Host, script: &str) -> Running {
    let script =
        format!("import socket, time\n{script}\nprint('there', flush=True)\ntime.sleep(600)");
    let running = host.command("python3").args(["-c", &script]).spawn().expect("python3 runs");
    wait_until(PATIENCE, "the foreign program", || running.stdout().contains("there"))
        .expect("it is there");

    running
}

#[test]
fn an_init_that_fails_leaves_nothing_and_the_corrected_one_works() {
    let Some(lab) = lab(1) else { return };
    let host = lab.host(0);
    let before = host.snapshot(&FOLDERS).unwrap();
    let own = host.address().to_string();

    let advertised = refused(
        host,
        &["init", "--advertise", NOBODY],
        &["this host does not have that address", &own],
    );
    assert!(advertised.elapsed < Duration::from_secs(5), "{:?}", advertised.elapsed);
    assert_unchanged(host, &before, "an address of nobody is advertised");

    refused(
        host,
        &["init", "--listen", &format!("{NOBODY}:7443")],
        &[NOBODY, "choose one that it has with --listen"],
    );
    assert_unchanged(host, &before, "an address of nobody is listened on");

    let tcp = foreign(host, LISTEN_7443);
    refused(host, &["init"], &["in use by python3 (pid ", "choose another with --listen"]);
    drop(tcp);
    assert_unchanged(host, &before, "control's port is taken");

    let udp = foreign(
        host,
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 51820))",
    );
    refused(host, &["init"], &["in use by python3 (pid ", "choose another with --port"]);
    assert_unchanged(host, &before, "the agent's port is taken");

    // The remedy that was named, and its result.
    let made = done(host, &["init", "--port", "51900", "--ttl", "30m", "--uses", "3"]);
    assert!(made.stdout.contains("for 3 hosts"), "{}", made.stdout);
    let port = || {
        let status: serde_json::Value =
            serde_json::from_str(&done(host, &["status", "--json"]).stdout).unwrap();
        status["lanes"][0]["port"].as_u64()
    };
    assert_eq!(port(), Some(51_900));
    for pid in host.pids_of("overlayd").unwrap() {
        host.kill(pid, "KILL").unwrap();
    }
    wait_until(PATIENCE, "the agent's end", || {
        host.pids_of("overlayd").is_ok_and(|pids| pids.is_empty())
    })
    .unwrap();
    done(host, &["start"]);
    assert_eq!(port(), Some(51_900), "start knows what init was told");
    done(host, &["leave"]);
    drop(udp);
    assert_unchanged(host, &before, "leave");
}

#[test]
fn the_line_of_init_is_for_an_hour_and_ten_hosts() {
    let Some(lab) = lab(1) else { return };
    let host = lab.host(0);

    let made = done(host, &["init"]);
    let tokens: serde_json::Value =
        serde_json::from_str(&done(host, &["token", "ls", "--json"]).stdout).unwrap();

    assert!(made.stdout.contains("for 10 hosts, until "), "{}", made.stdout);
    let token = tokens.as_array().unwrap().iter().find(|token| token["role"] == "node").unwrap();
    assert_eq!(token["uses"], 10, "{tokens}");
    let until = token["expires"].as_str().expect("an end");
    let left = format!("echo $(($(date -d '{until}' +%s) - $(date +%s)))");
    let left = host.command("sh").args(["-c", &left]).run().unwrap().stdout;
    assert!((3_540..=3_600).contains(&left.trim().parse().unwrap()), "{left} s: {tokens}");
    done(host, &["leave"]);
}

/// The progress of a set-up: a file that exists from then on, and the signal that interrupts it
/// there.
const CUTS: [(&str, &str); 6] = [
    ("setup.json", "INT"),
    ("control/ca.key", "TERM"),
    ("overlay-control.pid", "KILL"),
    ("overlayd.pid", "INT"),
    ("agent/agent.redb", "KILL"),
    ("overlay-control.log", "HUP"),
];

/// Starts `overlayctl` on the host and sends it a signal once `file` is in the state directory;
/// returns whether it was interrupted.
fn cut(host: &Host, args: &[&str], file: &str, signal: &str) -> bool {
    let script = format!(
        "overlayctl \"$@\" >/dev/null 2>&1 & ctl=$!\n\
         while [ ! -e /var/lib/overlay/{file} ] && [ -e /proc/$ctl ]; do :; done\n\
         kill -{signal} $ctl 2>/dev/null\nwait $ctl"
    );
    let output = host
        .command("sh")
        .args(["-c", &script, "sh"])
        .args(args)
        .deadline(Duration::from_secs(60))
        .output();

    !output.expect("sh runs").status.success()
}

#[test]
fn an_init_that_is_cut_short_anywhere_leaves_nothing_behind() {
    let Some(lab) = lab(1) else { return };
    let host = lab.host(0);
    let before = host.snapshot(&FOLDERS).unwrap();

    for (file, signal) in CUTS {
        let what = format!("{signal} at {file}");
        let was_cut = cut(host, &["init"], file, signal);
        if was_cut && signal != "KILL" {
            assert_unchanged(host, &before, &what);
        }
        if was_cut && signal == "KILL" {
            refused(host, &["start"], &["cut short"]);
        }
        // After a killed command, only the next one can clean up, which may be given other options.
        let made = ctl(host, &["init", "--listen", &format!("{}:7444", host.address())]);
        assert!(made.status.success(), "{what}: {}", made.stderr);
        assert!(!was_cut || made.stdout.contains(":7444"), "{what}: {}", made.stdout);
        done(host, &["leave"]);
        assert_unchanged(host, &before, &format!("leave after {what}"));
    }
}

#[test]
fn a_join_that_fails_or_is_cut_short_leaves_nothing_and_works_the_next_time() {
    let Some(lab) = lab(2) else { return };
    let (first, second) = (lab.host(0), lab.host(1));
    done(first, &["init", "--json"]);
    let line = done(first, &["token", "create", "--uses", "1"]).stdout.trim().to_owned();
    let before = second.snapshot(&FOLDERS).unwrap();

    refused(second, &["join", &line, "--name", first.name()], &["name"]);
    assert_unchanged(second, &before, "the name is taken");
    refused(
        second,
        &["join", &line, "--advertise", NOBODY],
        &["this host does not have that address"],
    );
    assert_unchanged(second, &before, "an address of nobody is advertised");
    let (token, _) = line.split_once('@').unwrap();
    let nobody = ctl(second, &["join", &format!("{token}@{}:9", first.address())]);
    assert_eq!(nobody.status.code(), Some(3), "{}", nobody.stderr);
    assert_unchanged(second, &before, "control is not there");

    // A program that accepts connections and never answers: the join hangs in the middle.
    let silent = foreign(first, "s = socket.socket(); s.bind(('0.0.0.0', 7999)); s.listen()");
    let hanging = format!("{token}@{}:7999", first.address());
    for signal in ["INT", "TERM", "KILL"] {
        assert!(
            cut(second, &["join", &hanging], "agent/agent.redb", signal),
            "{signal} came too late"
        );
        if signal != "KILL" {
            assert_unchanged(second, &before, signal);
        }
    }
    drop(silent);

    // The token admits one host once, and none of the above has used it.
    done(second, &["join", &line, "--port", "51900"]);
    assert!(done(second, &["join", &line]).stdout.contains("already"));
    done(second, &["leave"]);
    assert_unchanged(second, &before, "leave");

    for (file, signal) in
        [("setup.json", "KILL"), ("overlayd.pid", "KILL"), ("agent/agent.redb", "INT")]
    {
        let line = done(first, &["token", "create", "--uses", "1"]).stdout.trim().to_owned();
        cut(second, &["join", &line], file, signal);
        let again = ctl(second, &["join", &line]);
        assert!(again.status.success(), "{signal} at {file}: {}", again.stderr);
        done(second, &["leave"]);
        assert_unchanged(second, &before, &format!("leave after {signal} at {file}"));
    }
    done(first, &["leave"]);
}

#[test]
fn start_says_what_runs_and_does_not_wait_for_control() {
    let Some(lab) = lab(2) else { return };
    let (first, second) = (lab.host(0), lab.host(1));
    let made: serde_json::Value =
        serde_json::from_str(&done(first, &["init", "--json"]).stdout).unwrap();
    done(second, &["join", made["join"].as_str().unwrap()]);
    let end = |host: &Host, program: &str| {
        for pid in host.pids_of(program).unwrap() {
            host.kill(pid, "KILL").unwrap();
        }
        wait_until(PATIENCE, "its end", || host.pids_of(program).is_ok_and(|pids| pids.is_empty()))
            .unwrap();
    };

    end(first, "overlay-control");
    let taken = foreign(first, LISTEN_7443);
    let failed = ctl(first, &["start"]);
    assert_eq!(failed.status.code(), Some(1), "{}", failed.stdout);
    assert!(failed.stdout.contains("overlay-control: failed: "), "{}", failed.stdout);
    assert!(failed.stdout.contains("in use by python3"), "{}", failed.stdout);
    assert!(failed.stdout.contains("overlayd: was running"), "{}", failed.stdout);
    assert!(failed.elapsed < Duration::from_secs(10), "{:?}", failed.elapsed);

    end(second, "overlayd");
    let alone = done(second, &["start"]);
    assert!(alone.stdout.contains("overlayd: started\ncontrol is away ("), "{}", alone.stdout);
    assert!(
        alone.elapsed < Duration::from_secs(8),
        "control is not waited for: {:?}",
        alone.elapsed
    );

    drop(taken);
    let well = done(first, &["start"]);
    assert!(
        well.stdout.contains("overlay-control: started\noverlayd: was running"),
        "{}",
        well.stdout
    );
    refused(first, &["leave"], &["this machine runs control", second.name(), "--force"]);
    refused(first, &["node", "rm", first.name()], &["control runs on", "--force"]);
    done(second, &["leave"]);
    done(first, &["leave"]);
}

#[test]
fn a_configuration_that_cannot_be_used_is_refused_whole() {
    let Some(lab) = lab(1) else { return };
    let host = lab.host(0);
    host.write("/run/overlayd.toml", "port = 0\nlane = 3\nbackend = \"kernel\"\n").unwrap();

    let checked = host
        .command("overlayd")
        .args(["--config", "/run/overlayd.toml", "--check-config"])
        .output()
        .unwrap();
    assert_eq!(checked.status.code(), Some(64), "{}", checked.stderr);
    assert!(
        checked.stderr.contains("line 1, port: ") && checked.stderr.contains("line 2, lane: "),
        "{}",
        checked.stderr
    );

    let before = host.snapshot(&FOLDERS).unwrap();
    refused(
        host,
        &["init", "--agent-config", "/run/overlayd.toml"],
        &["overlayd did not start", "line 1, port: "],
    );
    assert_unchanged(host, &before, "a configuration that cannot be used");

    host.write("/run/overlayd.toml", "port = 51_900\nlanes = 1\n").unwrap();
    host.write("/run/control.toml", &format!("listen = \"{}:7555\"\n", host.address())).unwrap();
    let files = ["--agent-config", "/run/overlayd.toml", "--control-config", "/run/control.toml"];
    let made = done(host, &[&["init"][..], &files].concat());
    assert!(made.stdout.contains(":7555"), "{}", made.stdout);
    let status: serde_json::Value =
        serde_json::from_str(&done(host, &["status", "--json"]).stdout).unwrap();
    assert_eq!(
        (status["lanes"][0]["port"].as_u64(), status["lanes"].as_array().map(Vec::len)),
        (Some(51_900), Some(1))
    );
    done(host, &["leave"]);
}

#[test]
fn control_starts_before_its_address_is_there_and_status_says_so() {
    let Some(lab) = lab(1) else { return };
    let host = lab.host(0);
    let address = host.address();
    done(host, &["init", "--listen", &format!("{address}:7443")]);
    let control = || {
        let status: serde_json::Value =
            serde_json::from_str(&done(host, &["status", "--json"]).stdout).unwrap();
        status["control"].clone()
    };
    // Both are known as soon as they start.
    let known = || done(host, &["control", "ls"]).stdout.contains("local");
    wait_until(PATIENCE, "the agent knows that control is on its host", known).unwrap();
    let ip = |script: String| {
        host.command("sh").args(["-ec", &script]).run().expect("the ip program").stdout
    };
    let link = ip(format!("ip -o -4 addr | grep ' {address}/' | cut -d' ' -f2")).trim().to_owned();
    let length =
        ip(format!("ip -o -4 addr | grep -o ' {address}/[0-9]*' | cut -d/ -f2")).trim().to_owned();

    done(host, &["stop"]);
    ip(format!("ip addr del {address}/{length} dev {link}; ip addr add 203.0.113.5/24 dev {link}"));
    let started = done(host, &["start"]);
    assert!(
        started.stdout.contains("overlay-control: started\noverlayd: started"),
        "{}",
        started.stdout
    );
    let missing = format!("was found at {address}, which this host does not have");
    let says = || control()["reason"].as_str().is_some_and(|reason| reason.contains(&missing));
    wait_until(Duration::from_secs(10), "status says it", says)
        .unwrap_or_else(|_| panic!("{}", control()));
    ip(format!("ip addr add {address}/{length} dev {link}; ip addr del 203.0.113.5/24 dev {link}"));
    wait_until(PATIENCE, "control is found", || control()["connected"] == true).unwrap();

    done(host, &["leave"]);
}

#[test]
fn join_warns_of_a_bridge_on_a_networks_prefix() {
    let Some(lab) = lab(2) else { return };
    let (first, second) = (lab.host(0), lab.host(1));
    let made: serde_json::Value =
        serde_json::from_str(&done(first, &["init", "--json"]).stdout).unwrap();
    done(first, &["network", "create", "shop", "--subnet", "10.71.0.0/16"]);
    let script = "ip link add br-app type bridge; ip link set br-app up; ip addr add 10.71.3.1/24 dev br-app";
    second.command("sh").args(["-ec", script]).run().expect("the ip program");

    let joined = done(second, &["join", made["join"].as_str().unwrap()]);

    let expected = "warning: network shop has 10.71.0.0/16, which overlaps 10.71.3.0/24 of br-app on this host";
    assert!(joined.stderr.contains(expected), "{}", joined.stderr);
    second.command("ip").args(["link", "del", "br-app"]).run().expect("the ip program");
    done(second, &["leave"]);
    done(first, &["leave"]);
}
