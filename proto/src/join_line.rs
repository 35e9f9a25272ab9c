//! The join line, which `init` prints and `join` takes:
//! `ovl1-<id>-<secret>-<pin>@<address>[,<address>…]`.
//!
//! The id and the secret are lower-case hexadecimal, 8 and 16 bytes; the pin is the SHA-256 of the
//! CA's public key, 32 bytes.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// The length of a token's id in bytes.
pub const TOKEN_ID_LEN: usize = 8;
/// The length of a token's secret in bytes: 128 bits, as in Swarm.
pub const TOKEN_SECRET_LEN: usize = 16;
/// The most addresses of control in a line.
pub const MAX_ADDRESSES: usize = 16;

const VERSION: &str = "ovl1";

/// A token's secret. It is wiped when dropped, and never printed by `Debug`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct TokenSecret(String);

impl TokenSecret {
    /// Encodes secret bytes as in a join line.
    pub fn from_bytes(bytes: &[u8; TOKEN_SECRET_LEN]) -> Self {
        Self(hex::encode(bytes))
    }

    /// Returns the secret's text; the caller must not keep or log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(hidden)")
    }
}

/// Everything a host needs to become a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinLine {
    /// The token's id, which is not secret.
    pub token_id: String,
    /// The token's secret, which admits its bearer.
    pub secret: TokenSecret,
    /// The SHA-256 of the CA's subject public key info.
    pub pin: [u8; 32],
    /// The addresses of control: `host:port` or `[v6]:port`, tried in order.
    pub addresses: Vec<String>,
}

/// A text that is not a join line; the message says which part is wrong without repeating the
/// secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a join line: {0}; copy the whole line that `overlayctl init` or `overlayctl token create` printed"
)]
pub struct InvalidJoinLine(&'static str);

impl JoinLine {
    /// Returns the line including its secret; [`fmt::Display`] is deliberately not implemented.
    pub fn expose(&self) -> String {
        format!(
            "{VERSION}-{}-{}-{}@{}",
            self.token_id,
            self.secret.expose(),
            hex::encode(self.pin),
            self.addresses.join(",")
        )
    }
}

impl FromStr for JoinLine {
    type Err = InvalidJoinLine;

    fn from_str(text: &str) -> Result<Self, InvalidJoinLine> {
        let (token, addresses) =
            text.trim().split_once('@').ok_or(InvalidJoinLine("no '@' with control's address"))?;
        let mut parts = token.split('-');
        let mut part = || parts.next().unwrap_or_default();
        let (version, id, secret, pin) = (part(), part(), part(), part());
        if version != VERSION {
            return Err(InvalidJoinLine("it does not begin with 'ovl1-'"));
        }
        if parts.next().is_some() {
            return Err(InvalidJoinLine("the token has more than four parts"));
        }
        check_hex(id, TOKEN_ID_LEN, "the token's id is not 16 lower-case hexadecimal digits")?;
        check_hex(
            secret,
            TOKEN_SECRET_LEN,
            "the token's secret is not 32 lower-case hexadecimal digits",
        )?;
        let wrong_pin = "the pin is not 64 lower-case hexadecimal digits";
        check_hex(pin, 32, wrong_pin)?;
        let mut digest = [0; 32];
        hex::decode_to_slice(pin, &mut digest).map_err(|_| InvalidJoinLine(wrong_pin))?;

        Ok(Self {
            token_id: id.to_owned(),
            secret: TokenSecret(secret.to_owned()),
            pin: digest,
            addresses: parse_addresses(addresses)?,
        })
    }
}

fn parse_addresses(text: &str) -> Result<Vec<String>, InvalidJoinLine> {
    let addresses: Vec<_> = text.split(',').map(str::to_owned).collect();
    if addresses.len() > MAX_ADDRESSES {
        return Err(InvalidJoinLine("more than 16 addresses"));
    }
    if addresses.iter().all(|address| is_address(address)) {
        Ok(addresses)
    } else {
        Err(InvalidJoinLine("an address is not HOST:PORT"))
    }
}

/// Tells whether a text is an address that can be dialled: `HOST:PORT` or `[v6]:port`.
pub fn is_address(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0)
        || text.rsplit_once(':').is_some_and(|(host, port)| {
            is_host(host) && port.parse::<u16>().is_ok_and(|port| port != 0)
        })
}

/// Adds a port to an address that was written without one; `None` when it is not an address at all.
pub fn with_port(text: &str, port: u16) -> Option<String> {
    let whole = match text.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) if text.contains(':') => text.to_owned(),
        Err(_) => format!("{text}:{port}"),
    };

    Some(whole).filter(|whole| is_address(whole))
}

fn is_host(text: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };

    text.len() <= 253 && text.split('.').all(label)
}

fn check_hex(text: &str, bytes: usize, error: &'static str) -> Result<(), InvalidJoinLine> {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);

    if text.len() == bytes * 2 && text.bytes().all(digit) {
        Ok(())
    } else {
        Err(InvalidJoinLine(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> JoinLine {
        JoinLine {
            token_id: "0123456789abcdef".into(),
            secret: TokenSecret::from_bytes(&[7; 16]),
            pin: [9; 32],
            addresses: vec![
                "192.0.2.1:7443".into(),
                "[2001:db8::1]:7443".into(),
                "control.example:7443".into(),
            ],
        }
    }

    #[test]
    fn a_line_survives_its_text() {
        assert_eq!(format!(" {}\n", line().expose()).parse(), Ok(line()));
    }

    #[test]
    fn every_truncation_and_every_wrong_character_is_refused() {
        let text = line().expose();
        let token_end = text.find('@').expect("an address part");
        for end in 0..=token_end + 1 {
            assert!(text[..end].parse::<JoinLine>().is_err(), "{end}");
        }
        for i in 0..token_end {
            let mut bytes = text.clone().into_bytes();
            bytes[i] = b'X';
            assert!(String::from_utf8(bytes).expect("ASCII").parse::<JoinLine>().is_err(), "{i}");
        }
    }

    #[test]
    fn addresses_that_cannot_be_dialled_are_refused() {
        let token = line().expose().split_once('@').expect("an address part").0.to_owned();
        for addresses in ["", "a", "a:", ":1", "a:0", "a:70000", "a b:1", "192.0.2.1:1,", "[::1]"] {
            assert!(format!("{token}@{addresses}").parse::<JoinLine>().is_err(), "{addresses}");
        }
    }

    #[test]
    fn an_address_without_a_port_gets_one() {
        let cases = [
            ("192.0.2.1", Some("192.0.2.1:7443")),
            ("192.0.2.1:1", Some("192.0.2.1:1")),
            ("2001:db8::1", Some("[2001:db8::1]:7443")),
            ("[2001:db8::1]:1", Some("[2001:db8::1]:1")),
            ("control.example", Some("control.example:7443")),
            ("a b", None),
            ("host:", None),
            ("", None),
        ];
        for (text, whole) in cases {
            assert_eq!(with_port(text, 7443).as_deref(), whole, "{text}");
        }
    }

    #[test]
    fn the_secret_does_not_print() {
        let shown = format!("{:?}", line());

        assert!(!shown.contains(line().secret.expose()), "{shown}");
    }
}
