//! Where this node looks for control, and how a person tells it.

use std::sync::Arc;

use overlay_proto::join_line::{MAX_ADDRESSES, with_port};
use overlay_proto::{Code, Refusal, v1};
use tokio::task::JoinSet;

use crate::membership::connection;
use crate::membership::control_error::ConnectError;
use crate::membership::control_link::ControlLink;

/// Where control listens when no known address says otherwise.
const DEFAULT_PORT: u16 = 7443;

/// Lists the addresses, in the order in which they are tried.
pub(super) fn list(control: &ControlLink) -> v1::ListControlResponse {
    let used = control.connection.address();
    let row = |candidate: crate::membership::candidates::ControlCandidate| v1::ControlAddress {
        in_use: used.as_ref() == Some(&candidate.address),
        source: candidate.source.as_str().to_owned(),
        address: candidate.address,
    };

    v1::ListControlResponse { addresses: control.candidates().into_iter().map(row).collect() }
}

/// Takes addresses that a person gives, once control has proven to be at one of them.
pub(super) async fn set(
    control: &ControlLink,
    request: &v1::SetControlRequest,
) -> Result<v1::SetControlResponse, Refusal> {
    let port = known_port(control);
    let asked: Vec<String> =
        request.addresses.iter().map(|text| complete(text, port)).collect::<Result<_, _>>()?;
    if asked.is_empty() || asked.len() > MAX_ADDRESSES {
        return Err(Refusal::new(
            Code::InvalidInput,
            format!("give 1 to {MAX_ADDRESSES} addresses of control"),
        ));
    }
    let (answered, error) = try_all(control, &asked).await;
    if let (true, false, Some(error)) = (answered.is_empty(), request.force, error) {
        let text = format!("{error}; nothing is changed, --force sets it all the same");
        return Err(Refusal::new(error.code(), text));
    }
    // What answers is tried before what does not.
    let silent = asked.iter().filter(|address| !answered.contains(address));
    control.addresses.set(answered.iter().chain(silent).cloned().collect()).await?;
    control.connection.want();

    Ok(v1::SetControlResponse { answered })
}

fn complete(text: &str, port: u16) -> Result<String, Refusal> {
    let refusal = || {
        Refusal::new(
            Code::InvalidInput,
            format!(
                "{text:?} is no address of control; write 192.0.2.1, 192.0.2.1:7443, [2001:db8::1]:7443 or a name"
            ),
        )
    };

    with_port(text, port).ok_or_else(refusal)
}

/// Returns the port of the address that is tried first.
fn known_port(control: &ControlLink) -> u16 {
    let candidates = control.candidates();
    let port =
        candidates.first().and_then(|candidate| candidate.address.rsplit_once(':')?.1.parse().ok());

    port.unwrap_or(DEFAULT_PORT)
}

/// Connects to every address with this node's certificate; returns those that are control, and why
/// the first other is not.
async fn try_all(
    control: &ControlLink,
    addresses: &[String],
) -> (Vec<String>, Option<ConnectError>) {
    let who = control.identity();
    let mut attempts = JoinSet::new();
    for (index, address) in addresses.iter().enumerate() {
        let (who, address) = (Arc::clone(&who), address.clone());
        attempts.spawn(async move { (index, connection::dial(&who, &[address]).await.map(drop)) });
    }
    let mut outcomes = attempts.join_all().await;
    outcomes.sort_by_key(|(index, _)| *index);
    let address = |index: usize| addresses.get(index).cloned();
    let answered = outcomes
        .iter()
        .filter(|(_, outcome)| outcome.is_ok())
        .filter_map(|(index, _)| address(*index));
    let answered = answered.collect();

    (answered, outcomes.into_iter().find_map(|(_, outcome)| outcome.err()))
}
