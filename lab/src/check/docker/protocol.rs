//! The plugin socket, given what no engine should send: recorded calls repeated, broken calls,
//! calls in any order, and an agent that is killed between any two of them. No engine is involved.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};

use super::pair::PLUGIN;
use crate::check::{Notes, PATIENCE};
use crate::cluster::Cluster;
use crate::lab::Lab;
use crate::tool::plugin::{Answered, Call};
use crate::wait_until;

/// The calls of engine 20.10.24 in the life of a replica with one container, with a placeholder for
/// the network's id.
const RECORDED: &str = include_str!("calls-20.10.24.jsonl");
/// The placeholder for the network's id.
const NETWORK: &str = "@NETWORK@";
/// The prefixes that the recorded network has.
const PREFIXES: [&str; 2] = ["10.70.0.0/16", "fd70::/64"];
/// The endpoint in the recording, with these addresses, and a namespace that does not exist.
const ENDPOINT: &str = "8670daa5d7af151dab6c81b69565c8ca9fe0cc050d023c8059489e46987ee5de";
const ADDRESSES: [&str; 2] = ["10.70.7.7", "fd70::77"];
const NOWHERE: &str = "/run/nowhere/netns/13e2ca2aadad";
/// The container whose namespace is used where one must exist.
const CONTAINER: &str = "container";
const JOIN: &str = "/NetworkDriver.Join";
/// The calls that make something, in the engine's order.
const MAKING: [&str; 5] = [
    "/IpamDriver.RequestPool",
    "/IpamDriver.RequestAddress",
    "/NetworkDriver.CreateNetwork",
    "/NetworkDriver.CreateEndpoint",
    JOIN,
];
/// Values that are not valid ids.
const NO_IDS: [&str; 9] = [
    "",
    "../../x",
    "/etc/passwd",
    "ABCDEF",
    "0x12",
    "a b",
    "%2e%2e",
    "aa\u{0}bb",
    "g000000000000000000000000000000000000000",
];

pub(in crate::check) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let mut cluster = Cluster::on(Lab::new(1)?)?;
    // The agent must serve the socket whether or not this machine has an engine.
    let agent = cluster.agent(0)?;
    agent.kill()?;
    cluster.restart(&agent.with("--docker", "/run/no-engine.sock"))?;
    cluster.wait_for_agent(0)?;
    let subnets = ["--subnet", PREFIXES[0], "--subnet", PREFIXES[1]];
    cluster.ctl(0, &[&["network", "create", "net"], subnets.as_slice()].concat())?;
    let network = cluster.ctl_json(0, &["network", "inspect", "net"])?;
    let network = network["id"].as_str().context("a network has an id")?.to_owned();
    let life = recorded(&network)?;
    let fixture = Fixture { cluster: &cluster, life: &life };

    fixture.repeated(notes)?;
    handed_over(&cluster, &life, &network, notes)?;
    // The node stays a member for a while.
    let before = fixture.kernel()?;
    fixture.broken(notes)?;
    fixture.shuffled(rounds, notes)?;
    let mut killed = 0;
    for after in 0..life.len() {
        killed += usize::from(interrupted(&mut cluster, &life, after)?);
    }
    notes.say(&format!(
        "agent killed after each of {killed} calls: the rest and the clean-up answered alike, nothing left"
    ));
    let fixture = Fixture { cluster: &cluster, life: &life };
    ensure!(
        fixture.kernel()? == before,
        "something is left:\n{before}\nnow\n{}",
        fixture.kernel()?
    );

    cluster.ctl(0, &["network", "rm", "net"])?;
    cluster.finish()
}

fn recorded(network: &str) -> Result<Vec<Call>> {
    RECORDED
        .replace(NETWORK, network)
        .lines()
        .map(|line| serde_json::from_str(line).context("a recorded call"))
        .collect()
}

/// Returns whether an answer is an error, as either kind of call gives it.
fn is_refusal(answered: &Answered) -> bool {
    let answer: Value = serde_json::from_str(&answered.answer).unwrap_or(Value::Null);

    answer["Err"].as_str().or(answer["Error"].as_str()).is_some_and(|text| !text.is_empty())
}

/// Returns whether an answer is JSON with a status: no call may hang, or end the connection or the
/// agent.
fn is_sound(answered: &Answered) -> bool {
    let is_json =
        serde_json::from_str::<Value>(&answered.answer).is_ok_and(|answer| answer.is_object());

    is_json
        && (answered.status == 200 || is_refusal(answered) && (400..500).contains(&answered.status))
}

fn make(cluster: &Cluster, calls: &[Call]) -> Result<Vec<Answered>> {
    let lines: Vec<_> = calls.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    let tool =
        cluster.host(0).try_command("overlay-lab")?.args(["plugin", "call", "--socket", PLUGIN]);
    let output = tool.input(&(lines.join("\n") + "\n"))?.deadline(PATIENCE * 6).run()?;
    let answers: Vec<Answered> = output
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).context("an answer"))
        .collect::<Result<_>>()?;
    ensure!(answers.len() == calls.len(), "{} answers to {} calls", answers.len(), calls.len());
    if let Some(odd) = answers.iter().find(|answered| !is_sound(answered)) {
        anyhow::bail!(
            "{} {:.200} was answered {} {:.200}",
            odd.call.path,
            odd.call.body,
            odd.status,
            odd.answer
        );
    }

    Ok(answers)
}

/// Returns what Overlay has on a host.
fn kernel(cluster: &Cluster) -> Result<String> {
    const SCRIPT: &str = "ip -o link | grep -o 'ovc[0-9a-f]*' | sort -u; for n in /run/overlay/netns/*; do echo $n; \
                          nsenter --net=$n ip -o link | wc -l; nsenter --net=$n ip route | sort; done";

    Ok(cluster.host(0).try_command("sh")?.args(["-c", SCRIPT]).run()?.stdout)
}

/// Returns the calls that remove something, which the engine makes whatever the earlier answers
/// were.
fn undoing(life: &[Call]) -> Vec<Call> {
    life.iter().filter(|call| !MAKING.contains(&call.path.as_str())).cloned().collect()
}

fn nothing_left(cluster: &Cluster) -> Result<()> {
    let is_free = || kernel(cluster).is_ok_and(|kernel| !kernel.contains("ovc"));
    wait_until(PATIENCE, "no interface is left", is_free)
        .with_context(|| kernel(cluster).unwrap_or_default())?;
    let no_rows = || cluster.endpoint_names(0).is_ok_and(|names| names.is_empty());
    wait_until(PATIENCE, "no endpoint is listed", no_rows)
        .with_context(|| format!("{:?}", cluster.endpoint_names(0)))
        .map(drop)
}

struct Fixture<'a> {
    cluster: &'a Cluster,
    life: &'a [Call],
}

impl Fixture<'_> {
    fn kernel(&self) -> Result<String> {
        kernel(self.cluster)
    }

    /// The recorded life with every call made twice: none is refused, and the second answer equals
    /// the first.
    fn repeated(&self, notes: &mut Notes) -> Result<()> {
        let twice: Vec<_> =
            self.life.iter().flat_map(|call| [call.clone(), call.clone()]).collect();
        let answers = make(self.cluster, &twice)?;
        for pair in answers.chunks(2) {
            let [first, second] = pair else { continue };
            ensure!(!is_refusal(first), "{} was refused: {}", first.call.path, first.answer);
            // Each request assigns another address.
            let is_another = first.call.path.ends_with(".RequestAddress");
            ensure!(
                is_another || first.answer == second.answer,
                "{}: {} and then {}",
                first.call.path,
                first.answer,
                second.answer
            );
        }
        nothing_left(self.cluster)?;
        notes.say(&format!(
            "{} recorded calls of a real engine, each twice: answered alike, nothing left",
            self.life.len()
        ));

        Ok(())
    }

    /// Every call, with every part of it broken in every way.
    fn broken(&self, notes: &mut Notes) -> Result<()> {
        let mut calls = vec![
            Call { path: "/".into(), body: "{}".into() },
            Call { path: "/NetworkDriver.Explode".into(), body: "{}".into() },
            Call { path: "/networkdriver.join".into(), body: "{}".into() },
            Call { path: "/NetworkDriver.Join/../../x".into(), body: "{}".into() },
        ];
        let kinds: BTreeMap<&str, &Call> =
            self.life.iter().map(|call| (call.path.as_str(), call)).collect();
        for (path, call) in kinds {
            let Ok(sound) = serde_json::from_str::<Value>(&call.body) else { continue };
            let broken = broken_values(&sound).into_iter().map(|value| value.to_string());
            let bodies = texts(&call.body).into_iter().chain(broken);
            calls.extend(bodies.map(|body| Call { path: path.to_owned(), body }));
        }
        let answers = make(self.cluster, &calls)?;
        for answered in &answers {
            let is_deletion =
                ["Delete", "Release", "Leave"].iter().any(|word| answered.call.path.contains(word));
            let has_id = serde_json::from_str::<Value>(&answered.call.body)
                .is_ok_and(|body| body.is_object());
            // Only a call without an id that could be wrong may succeed.
            ensure!(
                has_id || is_refusal(answered),
                "{} {:?} was not refused",
                answered.call.path,
                answered.call.body
            );
            let bad_id =
                NO_IDS.iter().any(|id| answered.call.body.contains(&format!("ID\":{}", json!(id))));
            ensure!(
                !bad_id
                    || is_refusal(answered)
                    || is_deletion && answered.call.path.contains("Ipam"),
                "{} took {}",
                answered.call.path,
                answered.call.body
            );
        }
        make(self.cluster, &undoing(self.life))?;
        nothing_left(self.cluster)?;
        let refused = answers.iter().filter(|answered| is_refusal(answered)).count();
        notes.say(&format!(
            "{} broken and unknown calls: {refused} refused, the others harmless; nothing left",
            answers.len()
        ));

        Ok(())
    }

    /// The calls of a life in any order, some of them more than once; then the engine's own
    /// clean-up.
    fn shuffled(&self, rounds: u32, notes: &mut Notes) -> Result<()> {
        let mut made = 0;
        for _ in 0..rounds {
            let mut calls: Vec<Call> =
                self.life.iter().chain(self.life.iter().step_by(2)).cloned().collect();
            calls.shuffle(&mut rand::rng());
            calls.extend(undoing(self.life));
            made += make(self.cluster, &calls)?.len();
        }
        nothing_left(self.cluster)?;
        notes.say(&format!(
            "{rounds} random orders of them, {made} calls: all answered, nothing left"
        ));

        Ok(())
    }
}

/// Acts as the engine that moves an interface into a container. While the interface has no address
/// yet, the agent's reconciliation leaves it alone, because an engine assigns no address that a
/// route covers. An interface that an earlier connection left there is gone once the engine is told
/// to move the next one.
fn handed_over(cluster: &Cluster, life: &[Call], network: &str, notes: &mut Notes) -> Result<()> {
    let host = cluster.host(0);
    let shell = |script: &str| Ok::<_, anyhow::Error>(host.shell(script)?.stdout);
    shell(&format!("ip netns add {CONTAINER}"))?;
    let (making, undoing) = (first_calls(life), undoing(life));
    refuse_none(&make(cluster, &making)?)?;
    let taken = shell(&format!(
        "ovc=$(ip -o link | grep -o 'ovc[0-9a-f]*'); ip link set $ovc netns {CONTAINER}; \
         ip -n {CONTAINER} link set $ovc name eth0; echo $ovc"
    ))?;
    for state in ["down", "up"] {
        shell(&format!("ip -n {CONTAINER} link set eth0 {state}"))?;
        round(cluster, network)?;
        let found = shell(&format!(
            "ip -n {CONTAINER} -4 -o addr show dev eth0; ip -n {CONTAINER} -4 route"
        ))?;
        ensure!(
            found.is_empty(),
            "an interface that the engine has not set up yet, {state}, has: {found}"
        );
    }
    shell(&format!(
        "ip -n {CONTAINER} addr add {}/32 dev eth0; ip -n {CONTAINER} route add 10.70.0.1 dev eth0; \
         ip -n {CONTAINER} route add {} via 10.70.0.1",
        ADDRESSES[0], PREFIXES[0]
    ))?;

    // The engine's call that disconnects the container is lost.
    let anew: Vec<_> = making.iter().filter_map(again).collect();
    refuse_none(&make(cluster, &anew)?).context("joined anew")?;
    let found = shell(&format!("ip -n {CONTAINER} -o link; ip -n {CONTAINER} -4 route"))?;
    ensure!(!found.contains("eth0"), "an interface is left of {}:\n{found}", taken.trim());

    make(cluster, &[undoing.iter().filter_map(again).collect(), undoing].concat())?;
    shell(&format!(
        "ip netns del {CONTAINER}; umount /run/netns; rmdir /run/netns; rm -rf /run/mount"
    ))?;
    nothing_left(cluster)?;
    notes.say("an interface that the engine is setting up is left alone, one of an earlier connection goes");

    Ok(())
}

/// Returns the calls of a life up to the one by which an endpoint joins, with the namespace of
/// [`CONTAINER`].
fn first_calls(life: &[Call]) -> Vec<Call> {
    let key = |call: &Call| Call {
        body: call.body.replace(NOWHERE, &format!("/run/netns/{CONTAINER}")),
        ..call.clone()
    };
    let last = life.iter().position(|call| call.path == JOIN).map_or(0, |at| at + 1);

    life.iter().take(last).map(key).collect()
}

/// Returns the same call for another endpoint with other addresses, or `None` for a call about the
/// network.
fn again(call: &Call) -> Option<Call> {
    let of_endpoint =
        [ENDPOINT, ADDRESSES[0], ADDRESSES[1]].iter().any(|word| call.body.contains(word));
    let body = call.body.replace(ENDPOINT, &ENDPOINT.replace('8', "9"));
    let body =
        ADDRESSES.iter().fold(body, |body, address| body.replace(address, &format!("{address}8")));

    of_endpoint.then(|| Call { body, ..call.clone() })
}

/// Makes the agent reconcile a network: it restores a route that was deleted.
fn round(cluster: &Cluster, network: &str) -> Result<()> {
    let routes = |what: &[&str]| {
        let enter = format!("--net=/run/overlay/netns/ovn-{network}");
        let ip = cluster
            .host(0)
            .try_command("nsenter")?
            .args([enter.as_str(), "ip", "route"])
            .args(what)
            .run()?;
        Ok::<_, anyhow::Error>(ip.stdout)
    };
    let address = ADDRESSES[0];
    ensure!(routes(&["show", address])?.contains(address), "the network has no route to {address}");
    routes(&["del", address])?;
    let is_back = || routes(&["show", address]).is_ok_and(|shown| shown.contains(address));

    wait_until(PATIENCE, "the route is back", is_back).map(drop)
}

fn refuse_none(answers: &[Answered]) -> Result<()> {
    match answers.iter().find(|answered| is_refusal(answered)) {
        None => Ok(()),
        Some(refused) => anyhow::bail!("{} was refused: {}", refused.call.path, refused.answer),
    }
}

/// Kills the agent after some calls of a life and continues with the next agent; returns whether
/// there was a next call.
fn interrupted(cluster: &mut Cluster, life: &[Call], after: usize) -> Result<bool> {
    let (before, rest) = life.split_at(after + 1);
    if rest.is_empty() {
        return Ok(false);
    }
    for answered in make(cluster, before)? {
        ensure!(!is_refusal(&answered), "{} was refused: {}", answered.call.path, answered.answer);
    }
    let agent = cluster.agent(0)?;
    agent.kill()?;
    cluster.restart(&agent)?;
    cluster.wait_for_agent(0)?;
    let serves = || make(cluster, &life[..1]).is_ok();
    wait_until(PATIENCE, "the plugin is served again", serves)?;
    for answered in make(cluster, rest)? {
        ensure!(
            !is_refusal(&answered),
            "after {}: {} was refused: {}",
            life[after].path,
            answered.call.path,
            answered.answer
        );
    }
    nothing_left(cluster)?;

    Ok(true)
}

/// Bodies that are not JSON, or not the JSON of a call.
fn texts(sound: &str) -> Vec<String> {
    let cut = |at: usize| sound.get(..at).unwrap_or_default().to_owned();
    let mut bodies = vec![
        String::new(),
        " ".into(),
        "null".into(),
        "[]".into(),
        "{}".into(),
        "\"text\"".into(),
        "17".into(),
        "{\"NetworkID\":".into(),
        "\u{feff}{}".into(),
        format!("{}{}", "[".repeat(5_000), "]".repeat(5_000)),
        "x".repeat(100_000),
    ];
    bodies.extend((1..8).map(|part| cut(sound.len() * part / 8)));

    bodies
}

/// Returns the call's JSON with one value after another broken.
fn broken_values(sound: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    let junk = |value: &Value| {
        let mut junk = vec![
            json!(null),
            json!(-1),
            json!(1e300),
            json!([]),
            json!({}),
            json!(true),
            json!("x".repeat(10_000)),
        ];
        if value.is_string() {
            junk.extend(NO_IDS.iter().map(|id| json!(id)));
            junk.extend(
                [
                    "300.1.2.3/33",
                    "10.70.0.1/0",
                    "::/0",
                    "0.0.0.0",
                    "255.255.255.255/32",
                    "fe80::1%eth0",
                ]
                .map(|text| json!(text)),
            );
        }
        junk
    };
    if let Value::Object(map) = sound {
        for (key, value) in map {
            let with = |value: Value| {
                let mut other = map.clone();
                other.insert(key.clone(), value);
                Value::Object(other)
            };
            all.extend(junk(value).into_iter().map(with));
            all.extend(broken_values(value).into_iter().map(with));
            let mut without = map.clone();
            without.remove(key);
            all.push(Value::Object(without));
        }
    } else if let Value::Array(list) = sound {
        for (at, value) in list.iter().enumerate() {
            for broken in broken_values(value) {
                let mut other = list.clone();
                other[at] = broken;
                all.push(Value::Array(other));
            }
        }
        all.push(json!(list.iter().chain(list).cloned().collect::<Vec<_>>()));
    }

    all
}
