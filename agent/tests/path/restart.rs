//! A lane that starts again calls its peers, and what was under way goes on.

use std::io::{Read, Write};

use overlay_agent::path::LaneEvent;

use crate::support::as_root;
use crate::world::{PATIENCE, World, stream};

#[test]
fn a_stream_survives_the_restart_of_either_side() {
    as_root(async {
        let mut world = World::new(1).await;
        let (mut sender, mut receiver) = stream(&world.a, &world.b, world.b.address.into());
        receiver.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut byte = [0];
        sender.write_all(b"1").expect("sent");
        receiver.read_exact(&mut byte).expect("received");

        for restarted in ["a", "b"] {
            let (host, other) =
                if restarted == "a" { (&mut world.a, &world.b) } else { (&mut world.b, &world.a) };
            host.lanes = None;
            host.start_lanes().await;
            host.publish(other);
            host.lanes.as_ref().expect("running").wake_peers().expect("told");

            // It calls by itself: nobody sends anything that could ask for a session. How soon
            // there is an answer is for the engine's tests (`sim::life`), in their own time.
            host.wait_established().await;
            sender.write_all(b"2").expect("sent");
            receiver.read_exact(&mut byte).expect("received");
        }

        world.end().await;
    });
}

#[test]
fn a_device_that_vanishes_is_reported_once_and_costs_nothing() {
    as_root(async {
        let mut world = World::new(1).await;
        world.a.delete_tun().await;

        let mut events = world.a.events.take().expect("running");
        let lost = tokio::time::timeout(PATIENCE, async {
            loop {
                match events.recv().await.expect("a lane") {
                    LaneEvent::TunLost { error, .. } => return error,
                    LaneEvent::Peer(..) => {}
                }
            }
        });

        assert!(lost.await.is_ok(), "the loss of the device was not reported");
        assert_eq!(world.a.reports().await.len(), 1);
        world.end().await;
    });
}

#[test]
fn sessions_that_another_process_may_have_used_are_forgotten_before_anything_is_sent() {
    as_root(async {
        let world = World::new(1).await;
        let (mut sender, mut receiver) = stream(&world.a, &world.b, world.b.address.into());
        receiver.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut much = vec![7; 64 << 10];
        sender.write_all(&much).expect("sent");
        receiver.read_exact(&mut much).expect("received");
        let lanes = world.a.lanes.as_ref().expect("running");
        let sent = async || lanes.report().await[0].peers[0].tx_bytes;

        lanes.freeze().await.expect("it stops");
        lanes.thaw().expect("it runs");
        assert!(sent().await >= 64 << 10, "nobody else had them");

        lanes.freeze().await.expect("it stops");
        lanes.thaw_without_sessions().expect("it runs");
        // The same keys again, and at once: as when the state is read back.
        world.a.publish(&world.b);
        assert!(sent().await < 64 << 10, "the peer is a new one");

        sender.write_all(b"2").expect("sent");
        receiver.read_exact(&mut much[..1]).expect("received, after another handshake");
        world.end().await;
    });
}
