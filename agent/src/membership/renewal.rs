//! Keeps the certificate fresh: a new one at half the life of the old, for the same key.

use std::time::Duration;

use overlay_proto::identity::{self, NodeIdentity};
use overlay_proto::v1::control_client::ControlClient;
use overlay_proto::{Code, Refusal, v1};
use tokio::time::sleep;
use tonic::transport::Channel;

use super::join::{in_store, signing_request};
use super::{back_off, link};
use crate::problem::{unix_now, utc};
use crate::session::Session;
use crate::state::Identity;

/// How often the clock is looked at: it may be set, and the host may sleep.
const LOOK: Duration = Duration::from_secs(30);

/// Renews whenever it is time, for as long as the session lasts.
pub(crate) async fn run(session: &Session) {
    let mut pauses = back_off();
    loop {
        if !is_due(&session.identity(), unix_now()) {
            pauses = back_off();
            sleep(LOOK).await;
            continue;
        }
        let outcome = match session.link.client() {
            Ok(client) => renew(session, client).await,
            Err(away) => Err(away),
        };
        conclude(session, &outcome);
        if outcome.is_err() {
            sleep(pauses.next().unwrap_or(LOOK).max(Duration::from_secs(1))).await;
        }
    }
}

/// Renews on a fresh connection, so that one whose certificate ended meanwhile can be used.
pub(crate) async fn renew_if_due(session: &Session, client: ControlClient<Channel>) {
    if is_due(&session.identity(), unix_now()) {
        conclude(session, &renew(session, client).await);
    }
}

fn conclude(session: &Session, outcome: &Result<(), Refusal>) {
    match outcome {
        Ok(()) => session.problems.clear("certificate"),
        Err(refusal) => tell(session, refusal),
    }
}

/// A certificate is renewed from half its life on, also after its end.
fn is_due(who: &Identity, now: u64) -> bool {
    identity::validity(&who.certificate).map_or(true, |(from, until)| now >= from + (until - from) / 2)
}

fn tell(session: &Session, refusal: &Refusal) {
    let Ok((from, until)) = identity::validity(&session.identity().certificate) else { return };
    let now = unix_now();
    if now > until {
        let times = format!("the certificate was valid from {} to {}, it is {}", utc(from), utc(until), utc(now));
        session.problems.raise("certificate", "certificate-expired", format!("{times}: {refusal}"));
    } else if now > from + (until - from) / 4 * 3 {
        let text = format!("the certificate ends at {} and was not renewed: {refusal}", utc(until));
        session.problems.raise("certificate", "certificate-ending", text);
    }
}

async fn renew(session: &Session, mut client: ControlClient<Channel>) -> Result<(), Refusal> {
    let who = session.identity();
    let response = link::call(client.renew(v1::RenewRequest { csr: signing_request(&who.key)? })).await?;
    let expected = NodeIdentity { cluster: who.cluster, node: who.node };
    if NodeIdentity::from_certificate(&response.certificate) != Ok(expected) {
        return Err(Refusal::new(Code::Fault, "control answered with a certificate of another node"));
    }
    let ca = if response.ca_certificate.is_empty() { who.ca.clone() } else { response.ca_certificate };
    let renewed = Identity { certificate: response.certificate, ca, ..Identity::clone(&who) };
    let kept = renewed.clone();
    in_store(&session.store, move |store| store.put_identity(&kept)).await?;
    session.set_identity(renewed);
    tracing::info!("Renewed the certificate");

    Ok(())
}
