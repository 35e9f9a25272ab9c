//! The real binary, killed at any moment: nothing that was acknowledged is lost.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use overlay_core::View;
use overlay_proto::{JoinLine, v1};
use rand::RngExt as _;
use tokio::task::JoinSet;

use crate::harness::Node;

/// Returns the binary under test; OVERLAY_CONTROL names another, such as a release build to
/// measure.
fn binary() -> String {
    std::env::var("OVERLAY_CONTROL")
        .unwrap_or_else(|_| env!("CARGO_BIN_EXE_overlay-control").to_owned())
}

/// A running `overlay-control serve`, killed when it goes out of scope.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the binary and waits until it serves; returns its address.
fn serve(state: &Path) -> (Served, String) {
    watch_over(Command::new(binary()), state)
}

fn watch_over(mut command: Command, state: &Path) -> (Served, String) {
    let mut child = command
        .args(["serve", "--listen", "127.0.0.1:0", "--state"])
        .arg(state)
        .env_remove("OVERLAY_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("address=").map(|(_, address)| address.trim().to_owned()))
        .expect("it says where it serves");
    // Keep reading, or a full pipe would stop it.
    std::thread::spawn(move || lines.for_each(drop));

    (Served(child), address)
}

/// Starts the binary with a limit of `files` open files.
fn serve_with_few_files(state: &Path, files: u32) -> (Served, String) {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {files}; exec \"$0\" \"$@\"")).arg(binary());

    watch_over(command, state)
}

fn init(state: &Path) -> JoinLine {
    let output = Command::new(binary())
        .args(["init", "--json", "--listen", "127.0.0.1:7443", "--state"])
        .arg(state)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();

    printed["join"].as_str().unwrap().parse().unwrap()
}

/// Makes endpoints from several tasks until the connection breaks or all are made; returns those
/// acknowledged.
async fn mutate(admin: &Node, network: &v1::Network, ids: std::ops::Range<u64>) -> BTreeSet<u64> {
    let mut tasks = JoinSet::new();
    for task in 0..8u64 {
        let mine: Vec<u64> = ids.clone().filter(|id| id % 8 == task).collect();
        let rows: Vec<_> = mine
            .iter()
            .map(|id| {
                (
                    *id,
                    admin.endpoint(
                        network,
                        *id,
                        &format!("e{id}"),
                        &format!("10.8.{}.{}", id / 250, id % 250 + 2),
                    ),
                )
            })
            .collect();
        let mut client = admin.client.clone();
        tasks.spawn(async move {
            let mut acknowledged = BTreeSet::new();
            for (id, row) in rows {
                match client.put_endpoints(v1::PutEndpointsRequest { endpoints: vec![row] }).await {
                    Ok(_) => drop(acknowledged.insert(id)),
                    Err(_) => break,
                }
            }
            acknowledged
        });
    }

    tasks.join_all().await.into_iter().flatten().collect()
}

/// OVERLAY_KILLS asks for more rounds than three.
/// Invariant 8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_loses_nothing_it_acknowledged() {
    const MUTATIONS: u64 = 1_000;
    let rounds: u64 = std::env::var("OVERLAY_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("control");
    let mut line = init(&state);
    let (mut served, address) = serve(&state);
    line.addresses = vec![address];
    let mut admin = Node::join(&line, "admin").await.unwrap();
    let network = admin.create_network("net", "10.8.0.0/14").await.unwrap();
    admin.enter(&network).await.unwrap();
    let mut known = BTreeSet::new();
    let (mut kills, mut slowest) = (0, Duration::ZERO);

    for round in 0..rounds {
        let ids = round * MUTATIONS + 1..(round + 1) * MUTATIONS + 1;
        let moment = Duration::from_millis(rand::rng().random_range(5..900));
        let mutating = mutate(&admin, &network, ids.clone());
        let (acknowledged, ()) = tokio::join!(mutating, async {
            tokio::time::sleep(moment).await;
            served.0.kill().unwrap();
        });
        kills += u64::from((acknowledged.len() as u64) < MUTATIONS);
        known.extend(acknowledged);
        drop(served);

        let begun = Instant::now();
        let (next, address) = serve(&state);
        served = next;
        admin.reconnect(address.parse().unwrap()).await;
        slowest = slowest.max(begun.elapsed());
        let mut watcher = admin.watch(View::default()).await.unwrap();
        watcher.step().await.unwrap();
        let there: BTreeSet<u64> =
            watcher.view.endpoints.keys().map(|(_, id)| id.as_u64()).collect();
        let lost: Vec<_> = known.difference(&there).collect();
        assert!(lost.is_empty(), "round {round}: acknowledged and lost: {lost:?}");
        known = there;
    }

    assert!(kills > 0, "it was never killed amid its work");
    eprintln!(
        "{rounds} rounds, {kills} killed amid writes, {} rows stored, 0 lost, back within {slowest:?}",
        known.len()
    );
}

fn run(args: &[&str], state: &Path) -> (Option<i32>, String) {
    let output = Command::new(binary()).args(args).arg("--state").arg(state).output().unwrap();

    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_command_line_keeps_its_contract() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("control");
    let last = |text: &str| text.lines().last().unwrap_or_default().to_owned();

    let (code, error) = run(&["serve"], &state);
    assert_eq!((code, error.lines().count()), (Some(1), 1), "{error}");
    assert!(error.contains("ca.key"), "{error}");
    assert_eq!(run(&["init", "--pool", "10.0.0.1/16"], &state).0, Some(2));
    assert_eq!(run(&["init", "--listen", "nonsense"], &state).0, Some(2));
    assert_eq!(run(&["serve", "--cert-ttl", "1s"], &state).0, Some(2));
    init(&state);
    let (code, error) = run(&["init"], &state);
    assert_eq!(code, Some(1));
    assert!(last(&error).contains("holds a cluster already"), "{error}");
    let (code, error) = run(&["serve", "--store", "etcd=http://127.0.0.1:2379"], &state);
    assert_eq!(code, Some(1));
    assert!(last(&error).contains("unsupported"), "{error}");

    let (_served, address) = serve(&state);
    let (code, error) = run(&["serve", "--listen", "127.0.0.1:0"], &state);
    assert_eq!(code, Some(1));
    assert!(last(&error).contains("in use by another overlay-control"), "{error}");
    let (code, error) = run(&["token"], &state);
    assert_eq!(code, Some(1), "{error}");
    let other = directory.path().join("other");
    init(&other);
    let (code, error) = run(&["serve", "--listen", &address], &other);
    assert_eq!(code, Some(1));
    assert!(last(&error).contains(&address), "{error}");
}

#[test]
fn a_broken_state_directory_is_named_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("control");
    init(&state);
    for name in ["control.redb", "ca.key", "ca.crt"] {
        let path = state.join(name);
        let whole = std::fs::read(&path).unwrap();
        for broken in
            [Vec::new(), b"junk".to_vec(), whole[..whole.len() / 2].to_vec(), vec![0; whole.len()]]
        {
            std::fs::write(&path, &broken).unwrap();
            let (code, error) = run(&["serve", "--listen", "127.0.0.1:0"], &state);
            assert_eq!((code, error.lines().count()), (Some(1), 1), "{name}: {error}");
            assert!(error.contains(name) && !error.contains("panicked"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), broken, "{name} was changed");
        }
        std::fs::write(&path, whole).unwrap();
    }

    let (_served, _) = serve(&state);
}

/// Creates endpoints one at a time from several clients; returns how many were acknowledged per
/// second.
async fn rate(admin: &Node, network: &v1::Network, clients: u64, each: u64) -> f64 {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for task in 0..clients {
        let address =
            |id: u64| format!("10.{}.{}.{}", 8 + clients.min(2), id / 250 % 250, id % 250 + 2);
        let ids = (0..each).map(|i| clients * 1_000_000 + task * each + i + 1);
        let rows: Vec<_> = ids.map(|id| admin.endpoint(network, id, "e", &address(id))).collect();
        let mut client = admin.client.clone();
        tasks.spawn(async move {
            for row in rows {
                client
                    .put_endpoints(v1::PutEndpointsRequest { endpoints: vec![row] })
                    .await
                    .unwrap();
            }
        });
    }
    tasks.join_all().await;

    u32::try_from(clients * each).map(f64::from).unwrap() / begun.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_come_together_share_a_commit() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("control");
    let mut line = init(&state);
    let (_served, address) = serve(&state);
    line.addresses = vec![address];
    let admin = Node::join(&line, "admin").await.unwrap();
    let network = admin.create_network("net", "10.8.0.0/14").await.unwrap();
    admin.enter(&network).await.unwrap();

    let alone = rate(&admin, &network, 1, 100).await;
    let together = rate(&admin, &network, 64, 25).await;

    eprintln!("{alone:.0} acknowledged changes a second from one client, {together:.0} from 64");
}

#[tokio::test]
async fn without_free_descriptors_it_waits_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("control");
    let mut line = init(&state);
    let (_served, address) = serve_with_few_files(&state, 48);
    line.addresses = vec![address.clone()];
    let admin = Node::join(&line, "admin").await.unwrap();
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }

    // The existing connection works; new ones wait until the held ones are given up 5 s later.
    assert!(admin.create_network("net", "").await.is_ok());
    drop(held);
    let line = admin.token(v1::CreateTokenRequest::default()).await;
    assert!(Node::join(&line, "host2").await.is_ok());
}

/// OVERLAY_SMALL_DISK names a folder on a small file system of its own, of some MiB; without it the
/// test is skipped.
#[tokio::test]
async fn a_full_disk_refuses_changes_and_forgets_none() {
    let Ok(disk) = std::env::var("OVERLAY_SMALL_DISK") else { return };
    let directory = tempfile::tempdir_in(disk).unwrap();
    let state = directory.path().join("control");
    let ballast = directory.path().join("ballast");
    std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let mut line = init(&state);
    let (served, address) = serve(&state);
    line.addresses = vec![address];
    let mut admin = Node::join(&line, "admin").await.unwrap();
    let network = admin.create_network("net", "10.8.0.0/14").await.unwrap();
    admin.enter(&network).await.unwrap();
    let row = |id: u64| {
        let mut row =
            admin.endpoint(&network, id, "e", &format!("10.8.{}.{}", id / 250, id % 250 + 2));
        row.labels = (0..8).map(|n| (format!("label{n}"), "x".repeat(250))).collect();
        row
    };
    let mut known = BTreeSet::new();
    let refusal = loop {
        let id = known.len() as u64 + 1;
        match admin.put(vec![row(id)]).await {
            Ok(_) => known.insert(id),
            Err(refusal) => break refusal,
        };
    };
    assert_eq!(refusal.code, overlay_proto::Code::Storage, "{refusal}");
    assert!(refusal.message.contains("control.redb"), "{refusal}");

    std::fs::remove_file(&ballast).unwrap();
    let next = known.len() as u64 + 1;
    admin.put(vec![row(next)]).await.expect("there is room again");
    known.insert(next);
    drop(served);
    let (_served, address) = serve(&state);
    admin.reconnect(address.parse().unwrap()).await;
    let mut watcher = admin.watch(View::default()).await.unwrap();
    watcher.step().await.unwrap();

    let there: BTreeSet<u64> = watcher.view.endpoints.keys().map(|(_, id)| id.as_u64()).collect();
    assert_eq!(there, known);
}
