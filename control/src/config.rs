//! The configuration of `serve` and `init`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use overlay_daemon::log::Log;
use overlay_proto::join_line::MAX_ADDRESSES;

/// The default port of control.
pub const DEFAULT_PORT: u16 = 7443;
/// How long a node's certificate is valid by default.
pub const DEFAULT_CERT_TTL: Duration = Duration::from_secs(24 * 3_600);
/// The shortest lifetime of a node's certificate: with less, renewals would fill the log.
const MIN_CERT_TTL: Duration = Duration::from_secs(10);
/// The longest lifetime: a certificate that is lost should not be valid forever.
const MAX_CERT_TTL: Duration = Duration::from_secs(366 * 86_400);
/// The default pool for the prefixes of networks: a part of 10/8 that few sites use.
pub const DEFAULT_POOL: &str = "10.64.0.0/10";

/// A setting that is wrong; the message names it and says what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidConfig(pub(crate) String);

/// How control runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory that `init` created.
    pub state: PathBuf,
    /// Where to listen; by default, where `init` was told to.
    pub listen: Option<SocketAddr>,
    /// How long a node's certificate is valid, 10 seconds to 366 days.
    pub cert_ttl: Duration,
    /// The log, so that nodes learn when it cannot be written.
    pub log: Log,
}

impl Config {
    /// Creates a configuration with defaults.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self { state: state.into(), listen: None, cert_ttl: DEFAULT_CERT_TTL, log: Log::default() }
    }

    /// Checks what the command line parser cannot.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] names the option and what to use instead.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        if (MIN_CERT_TTL..=MAX_CERT_TTL).contains(&self.cert_ttl) {
            Ok(())
        } else {
            Err(InvalidConfig(format!("--cert-ttl {} s: use 10s to 366d", self.cert_ttl.as_secs())))
        }
    }
}

/// How a cluster begins.
#[derive(Debug, Clone)]
pub struct InitConfig {
    /// The directory to create; it must not hold a cluster yet.
    pub state: PathBuf,
    /// Where `serve` listens by default.
    pub listen: SocketAddr,
    /// Where the prefixes of networks come from.
    pub pool: Ipv4Net,
    /// The addresses that join lines carry, as `HOST:PORT` or `HOST`; those of this host when
    /// empty.
    pub advertise: Vec<String>,
}

impl InitConfig {
    /// Creates a configuration with defaults.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        let pool = Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 64, 0, 0), 10);

        Self { state: state.into(), listen: default_listen(), pool, advertise: Vec::new() }
    }

    /// Checks everything and fills in ports.
    pub(crate) fn checked(mut self) -> Result<Self, InvalidConfig> {
        let pool = overlay_proto::convert::network_prefix(&self.pool.to_string())
            .map_err(|refusal| InvalidConfig(format!("--pool: {refusal}")))?;
        if pool.prefix_len() > 24 {
            return Err(InvalidConfig(format!("--pool {pool}: use at least a /24")));
        }
        if self.advertise.len() > MAX_ADDRESSES {
            return Err(InvalidConfig(format!("--advertise: at most {MAX_ADDRESSES} addresses")));
        }
        let port = self.listen.port();
        self.advertise =
            self.advertise.iter().map(|text| advertised(text, port)).collect::<Result<_, _>>()?;

        Ok(self)
    }
}

/// Returns where control listens by default: on every address of both families.
pub(crate) fn default_listen() -> SocketAddr {
    SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), DEFAULT_PORT)
}

/// Reads one advertised address; a missing port is the one control listens on.
fn advertised(text: &str, port: u16) -> Result<String, InvalidConfig> {
    let whole = match text.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) if text.contains(':') => text.to_owned(),
        Err(_) => format!("{text}:{port}"),
    };
    // The parser of join lines decides which addresses can be dialled.
    let line = format!("ovl1-{}-{}-{}@{whole}", "0".repeat(16), "0".repeat(32), "0".repeat(64));
    match line.parse::<overlay_proto::JoinLine>() {
        Ok(line) if line.addresses.len() == 1 => Ok(whole),
        Ok(_) | Err(_) => Err(InvalidConfig(format!("--advertise {text:?} is not HOST:PORT"))),
    }
}

/// Reads a duration such as `90`, `90s`, `15m`, `24h` or `7d`.
///
/// # Errors
///
/// [`InvalidConfig`] for anything else.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidConfig> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3_600),
        "d" => Some(86_400),
        _ => None,
    };
    let seconds =
        unit.zip(digits.parse::<u64>().ok()).and_then(|(unit, count)| count.checked_mul(unit));

    seconds.map(Duration::from_secs).ok_or_else(|| {
        InvalidConfig(format!("{text:?} is not a duration such as 90s, 15m, 24h or 7d"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let seconds = |text| parse_duration(text).map(|d| d.as_secs()).ok();

        assert_eq!(seconds("90"), Some(90));
        assert_eq!(seconds("15m"), Some(900));
        assert_eq!(seconds("24h"), Some(86_400));
        assert_eq!(seconds("7d"), Some(604_800));
        for text in ["", "h", "-1s", "1.5h", "1y", "99999999999999999999d", "1h30m", "ü"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn advertised_addresses_get_a_port() {
        assert_eq!(advertised("192.0.2.1", 7443).as_deref(), Ok("192.0.2.1:7443"));
        assert_eq!(advertised("2001:db8::1", 7443).as_deref(), Ok("[2001:db8::1]:7443"));
        assert_eq!(advertised("host.example", 7443).as_deref(), Ok("host.example:7443"));
        assert_eq!(advertised("host:1", 7443).as_deref(), Ok("host:1"));
        for text in ["", "a b", "a,b", "host:0", ":1", "@"] {
            assert!(advertised(text, 7443).is_err(), "{text}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let config = |pool: &str| InitConfig {
            pool: pool.parse().expect("a prefix"),
            ..InitConfig::new("/x")
        };

        assert!(config("10.64.0.0/10").checked().is_ok());
        for pool in ["10.64.0.1/10", "127.0.0.0/8", "10.0.0.0/25", "0.0.0.0/0"] {
            assert!(config(pool).checked().is_err(), "{pool}");
        }
        assert!(Config { cert_ttl: Duration::MAX, ..Config::new("/x") }.check().is_err());
    }
}
