//! Cookies: under load, a peer must first prove that it receives packets at its source address
//! (§5.3, §5.4.7).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{Tag, XChaCha20Poly1305};
use zeroize::Zeroizing;

use crate::entropy::Entropy;
use crate::index::Index;
use crate::mac::{MAC_LEN, Mac, ReceiverKeys, Signed, mac};
use crate::message::{CookieReply, SEALED_COOKIE_LEN};
use crate::refusal::HandshakeRefusal;

/// How long the secret for cookies is used, and how long a cookie is valid (§5.4.4, §5.4.7:
/// "changes every two minutes").
pub(crate) const COOKIE_TIME: Duration = Duration::from_secs(120);

/// The side that demands cookies.
pub(crate) struct CookieMaker {
    secret: Zeroizing<[u8; 32]>,
    since: Instant,
}

impl CookieMaker {
    pub(crate) fn new(entropy: &mut Entropy, now: Instant) -> Self {
        Self { secret: entropy.draw(), since: now }
    }

    /// Returns the current cookie for an address and port.
    pub(crate) fn cookie(&mut self, at: SocketAddr, entropy: &mut Entropy, now: Instant) -> Cookie {
        if now.saturating_duration_since(self.since) >= COOKIE_TIME {
            *self = Self::new(entropy, now);
        }
        let port = at.port().to_be_bytes();

        Zeroizing::new(match at.ip() {
            IpAddr::V4(ip) => mac(&self.secret[..], [&ip.octets(), &port]),
            IpAddr::V6(ip) => mac(&self.secret[..], [&ip.octets(), &port]),
        })
    }
}

/// A cookie. Wiped when dropped.
pub(crate) type Cookie = Zeroizing<Mac>;

/// Encrypts a cookie for the sender of this message, bound to the message's mac1.
pub(crate) fn reply(
    keys: &ReceiverKeys,
    cookie: &Cookie,
    signed: &Signed<'_>,
    receiver: Index,
    entropy: &mut Entropy,
) -> Option<CookieReply> {
    let nonce = *entropy.draw();
    let mut sealed = [0; SEALED_COOKIE_LEN];
    let (text, tag) = sealed.split_first_chunk_mut::<MAC_LEN>()?;
    *text = **cookie;
    let cipher = XChaCha20Poly1305::new((&keys.cookie).into());
    let text = text.as_mut_slice().into();
    let made = cipher.encrypt_inout_detached(&nonce.into(), signed.mac1, text).ok()?;
    tag.copy_from_slice(&made);

    Some(CookieReply { receiver, nonce, sealed })
}

/// The side that is asked for cookies: the message that it sent last, and the cookie that it
/// received.
#[derive(Default)]
pub(crate) struct CookieJar {
    /// The last handshake message that was not answered by a cookie.
    sent: Option<(Index, Mac)>,
    cookie: Option<(Cookie, Instant)>,
}

impl CookieJar {
    /// Returns the cookie, as long as it is valid.
    pub(crate) fn cookie(&self, now: Instant) -> Option<&Mac> {
        let (cookie, _) = self.cookie.as_ref().filter(|_| self.expiry() > Some(now))?;

        Some(cookie)
    }

    /// Records the mac1 of the handshake message that is sent with this index.
    pub(crate) fn sent(&mut self, index: Index, mac1: Mac) {
        self.sent = Some((index, mac1));
    }

    /// Stores a cookie for the next message; nothing is sent because of it (§6.6).
    pub(crate) fn keep(
        &mut self,
        reply: &CookieReply,
        peer: &ReceiverKeys,
        now: Instant,
    ) -> Result<(), HandshakeRefusal> {
        let (_, mac1) = self
            .sent
            .filter(|(index, _)| *index == reply.receiver)
            .ok_or(HandshakeRefusal::Unexpected)?;
        let cookie = open(reply, peer, &mac1).ok_or(HandshakeRefusal::NotAuthentic)?;
        self.cookie = Some((cookie, now));
        self.sent = None;

        Ok(())
    }

    /// Returns when the cookie expires.
    pub(crate) fn expiry(&self) -> Option<Instant> {
        self.cookie.as_ref().map(|(_, since)| *since + COOKIE_TIME)
    }

    /// Forgets the cookie.
    pub(crate) fn forget(&mut self) {
        self.cookie = None;
    }
}

fn open(reply: &CookieReply, peer: &ReceiverKeys, mac1: &Mac) -> Option<Cookie> {
    let (text, tag) = reply.sealed.split_first_chunk::<MAC_LEN>()?;
    let mut cookie = Zeroizing::new(*text);
    let cipher = XChaCha20Poly1305::new((&peer.cookie).into());
    let tag = Tag::from(*tag.first_chunk()?);
    let text = cookie.as_mut_slice().into();
    cipher.decrypt_inout_detached(&reply.nonce.into(), mac1, text, &tag).ok()?;

    Some(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
            .collect()
    }

    #[test]
    fn the_cipher_of_cookies_is_that_of_the_draft() {
        // draft-irtf-cfrg-xchacha-03, appendix A.3.1.
        let key: [u8; 32] = std::array::from_fn(|at| 0x80 + u8::try_from(at).expect("small"));
        let nonce: [u8; 24] = std::array::from_fn(|at| 0x40 + u8::try_from(at).expect("small"));
        let mut text =
            b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for \
            the future, sunscreen would be it."
                .to_vec();

        let cipher = XChaCha20Poly1305::new(&key.into());
        let aad = bytes("50515253c0c1c2c3c4c5c6c7");
        let tag = cipher.encrypt_inout_detached(&nonce.into(), &aad, text.as_mut_slice().into());

        let expected = "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb\
            731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452\
            2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9\
            21f9664c97637da9768812f615c68b13b52e";
        assert_eq!(text, bytes(expected));
        assert_eq!(tag.expect("short").to_vec(), bytes("c0875924c1c7987947deafd8780acf49"));
    }
}
