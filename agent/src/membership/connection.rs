//! The connection to control: there or away, since when and why.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use overlay_proto::channel::{self, DialError, Dialled};
use overlay_proto::v1::control_client::ControlClient;
use overlay_proto::{Code, identity, tls};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::control_error::{ConnectError, ControlError};
use crate::problem::unix_now;
use crate::state::Identity;

/// How long one call may take; control answers within milliseconds unless it is overloaded.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// How long a person's command waits for control that is away: it may be starting.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// How long a listing waits, which has an answer of its own.
pub(crate) const LISTING_PATIENCE: Duration = Duration::from_millis(500);
/// The pause between attempts while somebody waits.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether control can be asked.
#[derive(Debug, Clone)]
enum ConnectionState {
    /// The first attempt is under way.
    Dialling {
        since: u64,
    },
    Away {
        since: u64,
        reason: String,
    },
    Connected {
        since: u64,
        address: String,
        channel: Channel,
    },
}

/// Whether control is there, in plain values; times are in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConnectionStatus {
    /// It is connected.
    Connected {
        /// Since when.
        since: u64,
        /// Where.
        address: String,
    },
    /// It is away.
    Away {
        /// Since when.
        since: u64,
        /// Why.
        reason: String,
    },
}

impl ConnectionStatus {
    /// Says whether control is connected.
    pub(crate) fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

/// How long control may say nothing before that is told; it speaks every five seconds.
const SILENCE: Duration = Duration::from_secs(8);

/// How long a connection may be missing before that is a problem, in seconds: control or an agent
/// that is started again has it back by then.
const MISSED: u64 = 4;

/// The one connection to control; who watches keeps it, others use it while it lasts.
#[derive(Debug)]
pub(crate) struct ControlConnection {
    state: watch::Sender<ConnectionState>,
    wanted: Notify,
    heard: Mutex<Instant>,
    instance: InstanceTag,
}

impl ControlConnection {
    /// Begins without a connection. Every call names the `instance`.
    pub(crate) fn new(instance: &str) -> Self {
        Self {
            instance: InstanceTag::new(instance),
            state: watch::Sender::new(ConnectionState::Dialling { since: unix_now() }),
            wanted: Notify::new(),
            heard: Mutex::new(Instant::now()),
        }
    }

    /// Returns a client, or why there is none. Somebody waits for it, so the next attempts are made
    /// at once.
    pub(crate) async fn reach(&self, patience: Duration) -> Result<ControlCalls, ControlError> {
        let deadline = Instant::now() + patience;
        let mut states = self.state.subscribe();
        loop {
            if let Ok(client) = self.client() {
                return Ok(client);
            }
            self.wanted.notify_one();
            // Every attempt that fails states anew that control is away.
            if timeout_at(deadline, states.changed()).await.is_err() {
                return self.client();
            }
            sleep(ATTEMPT_PAUSE).await;
        }
    }

    /// Asks control for what may be asked twice: once more, over the next connection, if the
    /// present one breaks under the call.
    ///
    /// # Errors
    ///
    /// What control refuses, and that it is away.
    pub(crate) async fn ask_again<T, F>(
        &self,
        ask: impl Fn(ControlCalls) -> F,
    ) -> Result<T, ControlError>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let client = self.reach(PATIENCE).await?;
        let mut states = self.state.subscribe();
        match call(ask(client)).await {
            Err(error) if error.code() == Code::ControlAway => {
                // Who keeps the connection may not have seen yet that it broke.
                let _ = timeout(PATIENCE, states.changed()).await;
                call(ask(self.reach(PATIENCE).await?)).await
            }
            answer => answer,
        }
    }

    /// Asks for the next attempt to be made at once.
    pub(crate) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Notes that control said something.
    pub(crate) fn heard(&self, now: Instant) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Says what is wrong with control, and since when, if that lasts too long to be a restart.
    pub(crate) fn trouble(&self, now: Instant, unix_now: u64) -> Option<(String, u64)> {
        if let Some((address, silent)) = self.silence(now) {
            let text = format!(
                "control at {address} has said nothing for {} s; traffic goes on",
                silent.as_secs()
            );
            return Some((text, unix_now.saturating_sub(silent.as_secs())));
        }
        let ConnectionStatus::Away { since, reason } = self.status() else { return None };
        let is_missed = unix_now.saturating_sub(since) >= MISSED;
        let text = || format!("control is away: {reason}; traffic goes on, changes wait");

        is_missed.then(|| (text(), since))
    }

    /// Says where control is connected, and for how long it has said nothing there, if that is too
    /// long.
    fn silence(&self, now: Instant) -> Option<(String, Duration)> {
        let ConnectionState::Connected { address, .. } = &*self.state.borrow() else { return None };
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = now.saturating_duration_since(heard);

        (silent >= SILENCE).then(|| (address.clone(), silent))
    }

    /// Returns the address of the connection, if there is one.
    pub(crate) fn address(&self) -> Option<String> {
        match &*self.state.borrow() {
            ConnectionState::Connected { address, .. } => Some(address.clone()),
            ConnectionState::Dialling { .. } | ConnectionState::Away { .. } => None,
        }
    }

    /// Waits until somebody wants control.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Returns a client, or why there is none.
    pub(crate) fn client(&self) -> Result<ControlCalls, ControlError> {
        match &*self.state.borrow() {
            ConnectionState::Connected { channel, .. } => Ok(self.client_of(channel.clone())),
            ConnectionState::Dialling { .. } => Err(ControlError::NotConnected),
            ConnectionState::Away { since, reason } => {
                Err(ControlError::Away { since: *since, reason: reason.clone() })
            }
        }
    }

    /// Makes a client of a channel that takes whole snapshots.
    pub(crate) fn client_of(&self, channel: Channel) -> ControlCalls {
        ControlClient::with_interceptor(channel, self.instance.clone())
            .max_decoding_message_size(channel::MAX_MESSAGE)
    }

    /// Says whether control can be asked.
    pub(crate) fn is_connected(&self) -> bool {
        matches!(&*self.state.borrow(), ConnectionState::Connected { .. })
    }

    /// Waits until the connection comes or goes.
    pub(crate) fn subscribe(&self) -> ConnectionWatcher {
        ConnectionWatcher(self.state.subscribe())
    }

    /// States that control is connected.
    pub(crate) fn connected(&self, address: String, channel: Channel) {
        tracing::info!(%address, "Connected to control");
        self.heard(Instant::now());
        self.state.send_replace(ConnectionState::Connected { since: unix_now(), address, channel });
    }

    /// States that control is away; if it was already, its time stays. Control that had been silent
    /// for too long is away since then.
    pub(crate) fn away(&self, reason: impl std::fmt::Display) {
        let reason = reason.to_string();
        let silent = self.silence(Instant::now()).map_or(0, |(_, silent)| silent.as_secs());
        let since = match &*self.state.borrow() {
            ConnectionState::Away { since, .. } | ConnectionState::Dialling { since } => *since,
            ConnectionState::Connected { .. } => unix_now().saturating_sub(silent),
        };
        tracing::debug!(%reason, "Control is away");
        self.state.send_replace(ConnectionState::Away { since, reason });
    }

    /// Returns whether it is there or away, and since when.
    pub(crate) fn status(&self) -> ConnectionStatus {
        match &*self.state.borrow() {
            ConnectionState::Dialling { since } => {
                ConnectionStatus::Away { since: *since, reason: "not connected yet".to_owned() }
            }
            ConnectionState::Away { since, reason } => {
                ConnectionStatus::Away { since: *since, reason: reason.clone() }
            }
            ConnectionState::Connected { since, address, .. } => {
                ConnectionStatus::Connected { since: *since, address: address.clone() }
            }
        }
    }
}

/// Hears of the connection coming and going.
#[derive(Debug)]
pub(crate) struct ConnectionWatcher(watch::Receiver<ConnectionState>);

impl ConnectionWatcher {
    /// Waits until it changes.
    pub(crate) async fn changed(&mut self) {
        // The link lives as long as its watchers' tasks.
        let _ = self.0.changed().await;
    }
}

/// Calls to control, each of which names the process that makes it.
pub(crate) type ControlCalls = ControlClient<InterceptedService<Channel, InstanceTag>>;

/// Puts the instance of this process on every call: control tells it from another host that shows
/// the same certificate.
#[derive(Debug, Clone)]
pub(crate) struct InstanceTag(Option<MetadataValue<Ascii>>);

impl InstanceTag {
    fn new(instance: &str) -> Self {
        Self(instance.parse().ok())
    }
}

impl Interceptor for InstanceTag {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(instance) = &self.0 {
            request.metadata_mut().insert(identity::INSTANCE_KEY, instance.clone());
        }

        Ok(request)
    }
}

/// Waits for a call's answer, within a deadline.
pub(crate) async fn call<T>(
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, ControlError> {
    match timeout(CALL_DEADLINE, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(ControlError::new(status)),
        Err(_) => Err(ControlError::NoAnswer),
    }
}

/// Connects with the node's certificate, to whichever address is control.
pub(crate) async fn dial(who: &Identity, addresses: &[String]) -> Result<Dialled, ConnectError> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(who.key.to_vec()));
    let (ca, certificate) =
        (CertificateDer::from(who.ca.clone()), CertificateDer::from(who.certificate.clone()));
    let config = tls::node_client(ca, certificate, key)?;

    channel::control(addresses, Arc::new(config)).await.map_err(|error| failed(error, who))
}

/// Names the certificate where it is out of its time.
fn failed(error: DialError, who: &Identity) -> ConnectError {
    let (DialError::Tls { .. }, Ok((from, until))) = (&error, identity::validity(&who.certificate))
    else {
        return ConnectError::Dial(error);
    };
    let now = unix_now();
    if (from..=until).contains(&now) {
        return ConnectError::Dial(error);
    }

    ConnectError::OutOfTime { from, until, now, error }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn who_needs_control_has_it_tried_at_once_and_does_not_wait_for_ever() {
        let link = ControlConnection::new("i");
        link.away("connection refused");

        let (refused, ()) = tokio::join!(link.reach(Duration::from_millis(200)), link.wanted());

        let error = refused.expect_err("nobody connects");
        assert_eq!(error.code(), Code::ControlAway);
        assert!(error.to_string().contains("connection refused"), "{error}");
    }

    #[tokio::test]
    async fn what_may_be_asked_twice_is_asked_again_over_the_next_connection() {
        let channel = |uri| tonic::transport::Endpoint::from_static(uri).connect_lazy();
        let (link, asked) = (ControlConnection::new("i"), Cell::new(0));
        link.connected("192.0.2.1:7443".to_owned(), channel("http://control"));
        let breaks = async || {
            asked.set(asked.get() + 1);
            match link.address().as_deref() {
                Some("192.0.2.1:7443") => {
                    link.away("it broke");
                    Err(tonic::Status::unavailable("broken pipe"))
                }
                _ => Ok(tonic::Response::new("left")),
            }
        };
        let back = async {
            link.wanted().await;
            link.connected("192.0.2.2:7443".to_owned(), channel("http://control"));
        };

        let (answer, ()) = tokio::join!(link.ask_again(|_| breaks()), back);

        assert_eq!((answer, asked.get()), (Ok("left"), 2));
    }

    #[tokio::test]
    async fn control_that_says_nothing_is_told_before_it_is_given_up() {
        let link = ControlConnection::new("i");
        let channel = tonic::transport::Endpoint::from_static("http://control").connect_lazy();
        link.connected("192.0.2.1:7443".to_owned(), channel);
        let begun = Instant::now();
        link.heard(begun);

        let (early, late) = (link.silence(begun + SILENCE / 2), link.silence(begun + SILENCE));
        link.heard(begun + SILENCE);

        assert_eq!((early, late), (None, Some(("192.0.2.1:7443".to_owned(), SILENCE))));
        assert_eq!(link.silence(begun + SILENCE), None);
    }

    fn away(link: &ControlConnection) -> (u64, String) {
        match link.status() {
            ConnectionStatus::Away { since, reason } => (since, reason),
            connected @ ConnectionStatus::Connected { .. } => panic!("{connected:?}"),
        }
    }

    #[test]
    fn a_connection_that_comes_back_at_once_is_no_problem_and_one_that_stays_away_is() {
        let link = ControlConnection::new("i");
        link.away("connection refused");
        let (since, _) = away(&link);

        let early = link.trouble(Instant::now(), since + MISSED - 1);
        let late = link.trouble(Instant::now(), since + MISSED);

        assert_eq!(early, None);
        let (text, told) = late.expect("control is missed");
        assert!(text.contains("connection refused") && told == since, "{text}, {told}");
    }

    #[tokio::test]
    async fn a_silence_and_the_end_of_its_connection_are_one_problem() {
        let link = ControlConnection::new("i");
        let channel = tonic::transport::Endpoint::from_static("http://control").connect_lazy();
        link.connected("192.0.2.1:7443".to_owned(), channel);
        link.heard(Instant::now().checked_sub(SILENCE).expect("the host runs for longer"));
        let now = unix_now();
        let silent = link.trouble(Instant::now(), now);

        link.away("timed out");

        let (_, silent_since) = silent.expect("it is silent");
        let (_, away_since) = link.trouble(Instant::now(), now).expect("it is missed at once");
        assert!(away_since.abs_diff(silent_since) <= 1, "{silent_since}, {away_since}");
    }

    #[test]
    fn control_that_stays_away_is_away_since_the_beginning() {
        let link = ControlConnection::new("i");
        link.away("first");
        let (since, _) = away(&link);

        link.away("second");

        assert_eq!(away(&link), (since, "second".to_owned()));
    }
}
