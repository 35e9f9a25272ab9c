//! Keeps the certificate fresh: a new one at half the life of the old, for the same key.

use std::sync::Arc;
use std::time::Duration;

use overlay_core::instant::rfc3339;
use overlay_proto::identity::{self, NodeIdentity};
use overlay_proto::v1;
use tokio::time::sleep;

use super::connection::ControlCalls;
use super::control_error::ControlError;
use super::control_link::ControlLink;
use super::join::signing_request;
use super::{back_off, connection};
use crate::problem::{Problems, unix_now};
use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;
use crate::state::{Identity, StateStore, StoreFailure, in_store};

/// How often the clock is looked at: it may be set, and the host may sleep.
const LOOK: Duration = Duration::from_secs(30);

/// The certificate of this node, and what it takes to replace it.
#[derive(Debug)]
pub(crate) struct Renewal {
    /// Whom it is shown to, and who signs a new one.
    pub(crate) control: Arc<ControlLink>,
    /// Where it is kept.
    pub(crate) store: StateStore,
    /// Where it is told that it cannot be replaced.
    pub(crate) problems: Arc<Problems>,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenewalError {
    /// None can be requested for the key.
    #[error(transparent)]
    Key(#[from] rcgen::Error),
    /// Control gives none.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// It is not one of this node.
    #[error("control answered with a certificate of another node")]
    OtherNode,
    /// It cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreFailure),
}

/// Renews whenever it is time, while the node is joined.
pub(crate) async fn run(renewal: &Renewal) {
    let mut pauses = back_off();
    loop {
        if !is_due(&renewal.control.identity(), unix_now()) {
            pauses = back_off();
            sleep(LOOK).await;
            continue;
        }
        let outcome = match renewal.control.connection.client() {
            Ok(client) => renew(renewal, client).await,
            Err(away) => Err(away.into()),
        };
        conclude(renewal, &outcome);
        if outcome.is_err() {
            sleep(pauses.next().unwrap_or(LOOK).max(Duration::from_secs(1))).await;
        }
    }
}

/// Renews on a fresh connection, so that one whose certificate ended meanwhile can be used.
pub(crate) async fn renew_if_due(renewal: &Renewal, client: ControlCalls) {
    if is_due(&renewal.control.identity(), unix_now()) {
        conclude(renewal, &renew(renewal, client).await);
    }
}

fn conclude(renewal: &Renewal, outcome: &Result<(), RenewalError>) {
    match outcome {
        Ok(()) => renewal.problems.clear(&ProblemKey::Certificate),
        Err(error) => tell(renewal, error),
    }
}

/// A certificate is renewed from half its life on, also after its end.
fn is_due(who: &Identity, now: u64) -> bool {
    identity::validity(&who.certificate)
        .map_or(true, |(from, until)| now >= from + (until - from) / 2)
}

fn tell(renewal: &Renewal, error: &RenewalError) {
    let Ok((from, until)) = identity::validity(&renewal.control.identity().certificate) else {
        return;
    };
    let now = unix_now();
    if now > until {
        let times = format!(
            "the certificate was valid from {} to {}, it is {}",
            rfc3339(from),
            rfc3339(until),
            rfc3339(now)
        );
        renewal.problems.raise(
            ProblemKey::Certificate,
            ProblemCode::CertificateExpired,
            format!("{times}: {error}"),
        );
    } else if now > from + (until - from) / 4 * 3 {
        let text =
            format!("the certificate ends at {} and was not renewed: {error}", rfc3339(until));
        renewal.problems.raise(ProblemKey::Certificate, ProblemCode::CertificateEnding, text);
    }
}

async fn renew(renewal: &Renewal, mut client: ControlCalls) -> Result<(), RenewalError> {
    let who = renewal.control.identity();
    let response =
        connection::call(client.renew(v1::RenewRequest { csr: signing_request(&who.key)? }))
            .await?;
    let expected = NodeIdentity { cluster: who.cluster, node: who.node };
    if NodeIdentity::from_certificate(&response.certificate) != Ok(expected) {
        return Err(RenewalError::OtherNode);
    }
    let ca =
        if response.ca_certificate.is_empty() { who.ca.clone() } else { response.ca_certificate };
    let renewed = Identity { certificate: response.certificate, ca, ..Identity::clone(&who) };
    let kept = renewed.clone();
    in_store(&renewal.store, move |store| store.put_identity(&kept)).await?;
    renewal.control.set_identity(renewed);
    tracing::info!("Renewed the certificate");

    Ok(())
}

#[cfg(test)]
mod tests {
    use overlay_core::{ClusterId, NodeId, Role};
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    const DAY: u64 = 86_400;

    /// A certificate of 10 days from 2026-01-01 on, and when it begins.
    fn of_ten_days() -> (Identity, u64) {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 1, 11);
        let certificate =
            params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
        let who = Identity {
            pool: overlay_core::pool::DEFAULT_POOL,
            cluster: ClusterId::FIRST,
            node: NodeId::FIRST,
            name: "host1".parse().expect("a name"),
            role: Role::Node,
            control: Vec::new(),
            advertise: Vec::new(),
            certificate: certificate.der().to_vec(),
            ca: Vec::new(),
            key: Vec::new().into(),
        };
        let (from, _) = identity::validity(&who.certificate).expect("a certificate");

        (who, from)
    }

    #[test]
    fn a_certificate_is_renewed_from_half_its_life_on_and_also_after_its_end() {
        let (who, from) = of_ten_days();

        let due = [0, 4, 5, 9, 11, 400].map(|days| is_due(&who, from + days * DAY));

        assert_eq!(due, [false, false, true, true, true, true]);
    }

    #[test]
    fn a_clock_before_the_certificate_renews_nothing() {
        let (who, from) = of_ten_days();

        assert!(!is_due(&who, from - 1));
    }
}
