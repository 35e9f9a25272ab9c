//! How often each client may ask, so that none takes the time of the agent, of other containers or
//! of other resolvers. Pure: the time is an argument.
//!
//! Each client has a bound for all its questions, which are answered here for some 20 µs each, and
//! a lower one for those that go to another resolver. Beyond the first, the network's guard drops
//! questions before they are here (`kernel::nft`); where there is none, they are dropped here and
//! the client is not heard for a moment (`flood_guard`). Beyond the second, they are refused.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use overlay_core::token_bucket::TokenBucket;

/// Questions that a client may ask at once, and how soon it may ask one more: 1,000 a second.
pub(crate) const ASKED: (u32, Duration) = (256, Duration::from_millis(1));
/// The same for questions to other resolvers: 250 a second.
const FORWARDED: (u32, Duration) = (128, Duration::from_millis(4));
/// The longest that a client which asks more is not heard: what it may ask at once is then
/// all that it is heard of, if it goes on, which costs less than a fiftieth of a core.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(800);
/// The most clients that are told apart; there are no more containers than that on a network of one
/// host, unless addresses are forged. 1 MiB.
const CLIENTS: usize = 1_024;
/// How many refused names are remembered of a client, and for how long: a resolver tries a name
/// with its search domains within a few milliseconds.
const REFUSED: (usize, Duration) = (8, Duration::from_secs(5));

/// A client of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClientKey {
    /// The endpoint with this address.
    Endpoint(IpAddr),
    /// All whose address is no endpoint's of this host.
    Strangers,
    /// The one sandbox that the server is for, whatever its addresses.
    Sandbox,
}

/// How often it is looked for clients at rest while there are too many.
const CLEARING: Duration = Duration::from_millis(250);

/// What the clients of a server have left.
#[derive(Debug, Default)]
pub(super) struct ClientRates {
    clients: BTreeMap<ClientKey, ClientRate>,
    cleared: Option<Instant>,
}

#[derive(Debug)]
struct ClientRate {
    asked: TokenBucket,
    forwarded: TokenBucket,
    /// Names that it was refused lately, and until when that is remembered.
    refused: VecDeque<(String, Instant)>,
}

impl ClientRates {
    /// Takes note of a question. Returns whether the client may ask it.
    pub(super) fn ask(&mut self, client: ClientKey, now: Instant) -> bool {
        self.of(client, now).asked.take(now)
    }

    /// Takes note of a question to another resolver. Returns whether the client may ask it.
    pub(super) fn forward(&mut self, client: ClientKey, now: Instant) -> bool {
        self.of(client, now).forwarded.take(now)
    }

    /// Remembers a name that is the overlay's and was refused to the client.
    pub(super) fn note_refused(&mut self, client: ClientKey, name: String, now: Instant) {
        let (most, memory) = REFUSED;
        let refused = &mut self.of(client, now).refused;
        refused.retain(|(known, until)| *until > now && *known != name);
        if refused.len() >= most {
            refused.pop_front();
        }
        refused.push_back((name, now + memory));
    }

    /// Tells whether a name is one that was refused just before with a search domain at its end.
    pub(super) fn continues_refused(&self, client: ClientKey, name: &str, now: Instant) -> bool {
        let continues = |known: &str| {
            name.strip_prefix(known.trim_end_matches('.'))
                .is_some_and(|rest| rest.len() > 1 && rest.starts_with('.'))
        };

        self.clients.get(&client).is_some_and(|rate| {
            rate.refused.iter().any(|(known, until)| *until > now && continues(known))
        })
    }

    fn of(&mut self, client: ClientKey, now: Instant) -> &mut ClientRate {
        let mut client = client;
        if self.clients.len() >= CLIENTS && !self.clients.contains_key(&client) {
            if self.cleared.is_none_or(|cleared| now >= cleared + CLEARING) {
                self.cleared = Some(now);
                self.clients.retain(|_, rate| !rate.is_idle(now));
            }
            if self.clients.len() >= CLIENTS {
                client = ClientKey::Strangers;
            }
        }

        self.clients.entry(client).or_insert_with(|| ClientRate {
            asked: TokenBucket::new(ASKED.0, ASKED.1, now),
            forwarded: TokenBucket::new(FORWARDED.0, FORWARDED.1, now),
            refused: VecDeque::new(),
        })
    }
}

impl ClientRate {
    fn is_idle(&self, now: Instant) -> bool {
        self.asked.is_full(now)
            && self.forwarded.is_full(now)
            && self.refused.iter().all(|(_, until)| *until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ClientKey = ClientKey::Endpoint(IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 2)));
    const OTHER: ClientKey = ClientKey::Endpoint(IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 3)));

    #[test]
    fn a_flood_leaves_others_and_answers_of_ours_what_they_need() {
        let (mut rates, start) = (ClientRates::default(), Instant::now());

        let forwarded = (0..10_000).filter(|_| rates.forward(ONE, start)).count();
        assert_eq!(forwarded, 128);
        assert!(rates.ask(ONE, start), "answers of ours have a bound of their own");
        assert!(rates.forward(OTHER, start));

        let asked = (0..10_000).filter(|_| rates.ask(ONE, start)).count();
        assert_eq!(asked, 255);
        assert!(rates.ask(OTHER, start));

        // Ten questions a millisecond for ten seconds.
        let at = |n: u32| start + Duration::from_micros(u64::from(n) * 100);
        let asked = (0..100_000).filter(|&n| rates.ask(ONE, at(n))).count();
        let forwarded = (0..100_000).filter(|&n| rates.forward(ONE, at(n))).count();
        assert!((9_900..=10_300).contains(&asked), "{asked}");
        assert!((2_400..=2_700).contains(&forwarded), "{forwarded}");
    }

    #[test]
    fn forged_addresses_take_no_more_memory_and_no_endpoint_s_share() {
        let (mut rates, start) = (ClientRates::default(), Instant::now());
        let forged = |n: u32| ClientKey::Endpoint(IpAddr::from(n.to_be_bytes()));

        for n in 0..100_000 {
            rates.ask(forged(n), start);
        }

        assert!(rates.clients.len() <= CLIENTS + 1);
        assert!(rates.ask(ONE, start + Duration::from_secs(1)));
        assert!(rates.clients.len() < 3, "what is at rest is forgotten");
    }

    #[test]
    fn a_refused_name_with_a_search_domain_is_known_for_a_moment() {
        let (mut rates, start) = (ClientRates::default(), Instant::now());
        rates.note_refused(ONE, "db.othernet.".to_owned(), start);

        for (name, expected) in [
            ("db.othernet.example.com.", true),
            ("db.othernet.", false),
            ("db.othernetwork.example.com.", false),
            ("db.other.example.com.", false),
        ] {
            assert_eq!(rates.continues_refused(ONE, name, start), expected, "{name}");
        }
        assert!(!rates.continues_refused(OTHER, "db.othernet.example.com.", start));
        let later = start + Duration::from_secs(6);
        assert!(!rates.continues_refused(ONE, "db.othernet.example.com.", later));
        for n in 0..100 {
            rates.note_refused(ONE, format!("n{n}.othernet."), start);
        }
        assert_eq!(rates.clients[&ONE].refused.len(), 8);
    }
}
