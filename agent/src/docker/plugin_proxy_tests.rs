use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::*;

/// A folder with the place of an agent's socket, and a doorkeeper before it.
struct Fixture {
    folder: tempfile::TempDir,
    proxy: Arc<PluginProxy>,
    watching: JoinHandle<()>,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let proxy = Arc::new(PluginProxy::new(folder.path().join("agent.sock")));
        let watching = tokio::spawn({
            let proxy = Arc::clone(&proxy);
            async move { proxy.watch().await }
        });

        Self { folder, proxy, watching }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    async fn agent(&self, agent: Agent) -> JoinHandle<()> {
        let _ = std::fs::remove_file(self.path());
        let socket = PluginSocket::open(&self.path()).await.expect("the agent's socket");

        tokio::spawn(plugin::serve(socket, Arc::new(agent), Arc::default()))
    }

    async fn call(&self, path: &str) -> Value {
        let answer = self.proxy.answer(path, Bytes::from_static(b"{}")).await;

        serde_json::from_slice(&answer.body).expect("JSON")
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// An agent that says which call it heard, after a time.
#[derive(Debug, Default)]
struct Agent {
    pause: Duration,
    heard: AtomicU32,
}

impl Answers for Agent {
    async fn answer(&self, path: &str, _: Bytes) -> Answer {
        if path != ACTIVATE {
            self.heard.fetch_add(1, Ordering::Relaxed);
            sleep(self.pause).await;
        }

        Answer::json(StatusCode::OK, &serde_json::json!({ "heard": path }))
    }
}

#[tokio::test]
async fn what_is_always_alike_needs_no_agent() {
    let fixture = Fixture::new();

    assert_eq!(fixture.call(ACTIVATE).await["Implements"][0], "NetworkDriver");
    assert_eq!(fixture.call("/NetworkDriver.GetCapabilities").await["Scope"], "local");
}

#[tokio::test]
async fn everything_else_is_the_agents_however_long_it_takes() {
    let fixture = Fixture::new();
    let _agent = fixture.agent(Agent { pause: DOUBT * 5, ..Agent::default() }).await;

    assert_eq!(fixture.call("/NetworkDriver.Join").await["heard"], "/NetworkDriver.Join");
}

#[tokio::test]
async fn an_agent_that_is_away_costs_its_grace_once() {
    let fixture = Fixture::new();
    let start = Instant::now();

    let first = fixture.call("/NetworkDriver.Join").await;
    let after_first = start.elapsed();
    for _ in 0..50 {
        fixture.call("/NetworkDriver.Join").await;
    }

    assert!(first["Err"].as_str().is_some_and(|text| text.contains("does not answer")), "{first}");
    assert!(
        after_first >= GRACE && start.elapsed() < GRACE * 2,
        "{after_first:?}, {:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn an_agent_that_comes_back_in_time_is_waited_for() {
    let fixture = Fixture::new();
    let call = {
        let proxy = Arc::clone(&fixture.proxy);
        tokio::spawn(async move { proxy.answer("/NetworkDriver.Join", Bytes::new()).await })
    };
    tokio::task::yield_now().await;

    let _agent = fixture.agent(Agent::default()).await;

    assert!(String::from_utf8_lossy(&call.await.expect("a call").body).contains("heard"));
}

#[tokio::test]
async fn an_agent_that_hangs_is_away_and_found_again() {
    let fixture = Fixture::new();
    let hung = UnixListener::bind(fixture.path()).expect("a socket");
    let start = Instant::now();

    let refused = fixture.call("/NetworkDriver.Join").await;

    assert!(
        refused["Err"].is_string() && start.elapsed() < GRACE + PROBE,
        "{refused} after {:?}",
        start.elapsed()
    );
    drop(hung);
    let _agent = fixture.agent(Agent::default()).await;
    let mut away = fixture.proxy.away.subscribe();
    timeout(Duration::from_secs(5), away.wait_for(Option::is_none))
        .await
        .expect("found again")
        .expect("watched");
    assert!(fixture.call("/NetworkDriver.Join").await["heard"].is_string());
}

#[tokio::test]
async fn a_call_that_a_killed_agent_had_is_handed_to_the_next() {
    let fixture = Fixture::new();
    let killed = fixture.agent(Agent { pause: Duration::from_secs(60), ..Agent::default() }).await;
    let call = {
        let proxy = Arc::clone(&fixture.proxy);
        tokio::spawn(async move { proxy.answer("/NetworkDriver.Join", Bytes::new()).await })
    };
    let mut away = fixture.proxy.away.subscribe();
    away.wait_for(Option::is_none).await.expect("watched");
    killed.abort();
    let _ = killed.await;
    let _agent = fixture.agent(Agent::default()).await;

    let answer = timeout(Duration::from_secs(10), call).await.expect("in time").expect("a call");

    assert!(String::from_utf8_lossy(&answer.body).contains("heard"), "{answer:?}");
}

#[tokio::test]
async fn a_door_that_nobody_calls_at_rests_until_somebody_does() {
    let fixture = Fixture::new();
    fixture.proxy.called.send_replace(Instant::now() - ATTENTION * 2);
    // One look may be under way.
    sleep(LOOK * 4).await;
    let silent = UnixListener::bind(fixture.path()).expect("a socket");

    let looked = timeout(LOOK * 8, silent.accept()).await;

    assert!(looked.is_err(), "an agent that nobody asks for is not looked for");
    drop(silent);
    let _agent = fixture.agent(Agent::default()).await;
    assert!(fixture.call("/NetworkDriver.Join").await["heard"].is_string());
}
