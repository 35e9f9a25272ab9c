use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::*;

/// A folder with the place of an agent's socket, and a doorkeeper before it.
struct Scene {
    folder: tempfile::TempDir,
    door: Arc<Doorkeeper>,
    watching: JoinHandle<()>,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let door = Arc::new(Doorkeeper::new(folder.path().join("agent.sock")));
        let watching = tokio::spawn({
            let door = Arc::clone(&door);
            async move { door.watch().await }
        });

        Self { folder, door, watching }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    async fn agent(&self, agent: Agent) -> JoinHandle<()> {
        let _ = std::fs::remove_file(self.path());
        let socket = PluginSocket::open(&self.path()).await.expect("the agent's socket");

        tokio::spawn(plugin::serve(socket, Arc::new(agent)))
    }

    async fn call(&self, path: &str) -> Value {
        let answer = self.door.answer(path, Bytes::from_static(b"{}")).await;

        serde_json::from_slice(&answer.body).expect("JSON")
    }
}

impl Drop for Scene {
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
    let scene = Scene::new();

    assert_eq!(scene.call(ACTIVATE).await["Implements"][0], "NetworkDriver");
    assert_eq!(scene.call("/NetworkDriver.GetCapabilities").await["Scope"], "local");
}

#[tokio::test]
async fn everything_else_is_the_agents_however_long_it_takes() {
    let scene = Scene::new();
    let _agent = scene.agent(Agent { pause: DOUBT * 5, ..Agent::default() }).await;

    assert_eq!(scene.call("/NetworkDriver.Join").await["heard"], "/NetworkDriver.Join");
}

#[tokio::test]
async fn an_agent_that_is_away_costs_its_grace_once() {
    let scene = Scene::new();
    let start = Instant::now();

    let first = scene.call("/NetworkDriver.Join").await;
    let after_first = start.elapsed();
    for _ in 0..50 {
        scene.call("/NetworkDriver.Join").await;
    }

    assert!(first["Err"].as_str().is_some_and(|text| text.contains("does not answer")), "{first}");
    assert!(after_first >= GRACE && start.elapsed() < GRACE * 2, "{after_first:?}, {:?}", start.elapsed());
}

#[tokio::test]
async fn an_agent_that_comes_back_in_time_is_waited_for() {
    let scene = Scene::new();
    let call = {
        let door = Arc::clone(&scene.door);
        tokio::spawn(async move { door.answer("/NetworkDriver.Join", Bytes::new()).await })
    };
    tokio::task::yield_now().await;

    let _agent = scene.agent(Agent::default()).await;

    assert!(String::from_utf8_lossy(&call.await.expect("a call").body).contains("heard"));
}

#[tokio::test]
async fn an_agent_that_hangs_is_away_and_found_again() {
    let scene = Scene::new();
    let hung = UnixListener::bind(scene.path()).expect("a socket");
    let start = Instant::now();

    let refused = scene.call("/NetworkDriver.Join").await;

    assert!(refused["Err"].is_string() && start.elapsed() < GRACE + PROBE, "{refused} after {:?}", start.elapsed());
    drop(hung);
    let _agent = scene.agent(Agent::default()).await;
    let mut away = scene.door.away.subscribe();
    timeout(Duration::from_secs(5), away.wait_for(Option::is_none)).await.expect("found again").expect("watched");
    assert!(scene.call("/NetworkDriver.Join").await["heard"].is_string());
}

#[tokio::test]
async fn a_call_that_a_killed_agent_had_is_handed_to_the_next() {
    let scene = Scene::new();
    let killed = scene.agent(Agent { pause: Duration::from_secs(60), ..Agent::default() }).await;
    let call = {
        let door = Arc::clone(&scene.door);
        tokio::spawn(async move { door.answer("/NetworkDriver.Join", Bytes::new()).await })
    };
    let mut away = scene.door.away.subscribe();
    away.wait_for(Option::is_none).await.expect("watched");
    killed.abort();
    let _ = killed.await;
    let _agent = scene.agent(Agent::default()).await;

    let answer = timeout(Duration::from_secs(10), call).await.expect("in time").expect("a call");

    assert!(String::from_utf8_lossy(&answer.body).contains("heard"), "{answer:?}");
}
