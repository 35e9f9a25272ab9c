//! Control's own certificate: issued for a key that exists only in memory, and renewed before it
//! expires.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use overlay_proto::{identity, tls};
use rcgen::KeyPair;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Authority, PkiError};

/// How long control's certificate is valid; it is renewed after half of that time.
const TTL: Duration = Duration::from_secs(7 * 86_400);

/// The current certificate of control.
pub(crate) struct ServerCert {
    authority: Arc<Authority>,
    shown: RwLock<Arc<CertifiedKey>>,
}

impl fmt::Debug for ServerCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCert")
    }
}

impl ServerCert {
    /// Issues the first certificate.
    ///
    /// # Errors
    ///
    /// [`PkiError`].
    pub(crate) fn new(authority: Arc<Authority>, now: u64) -> Result<Self, PkiError> {
        let shown = RwLock::new(Arc::new(make(&authority, now)?));

        Ok(Self { authority, shown })
    }

    /// Renews the certificate when half of its time is over, or when the clock is outside its
    /// validity.
    ///
    /// # Errors
    ///
    /// [`PkiError`]; the old certificate stays in use.
    pub(crate) fn renew_if_due(&self, now: u64) -> Result<(), PkiError> {
        let shown = self.current();
        let validity = shown.cert.first().and_then(|der| identity::validity(der).ok());
        let fresh = validity.is_some_and(|(from, to)| (from..from.midpoint(to)).contains(&now));
        if fresh {
            return Ok(());
        }
        let next = Arc::new(make(&self.authority, now)?);
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = next;
        tracing::info!("Renewed the certificate of control");

        Ok(())
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for ServerCert {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// Makes a new key and its certificate. The chain includes the authority's certificate, so that
/// joining hosts can check its pin.
fn make(authority: &Authority, now: u64) -> Result<CertifiedKey, PkiError> {
    let key = KeyPair::generate()?;
    let leaf = authority.sign_control(&key, TTL, now)?;
    let der = PrivatePkcs8KeyDer::from(key.serialize_der());
    let key = tls::provider().key_provider.load_private_key(der.into())?;

    Ok(CertifiedKey::new(vec![leaf, authority.certificate().clone()], key))
}

#[cfg(test)]
mod tests {
    use overlay_core::ClusterId;

    use super::*;

    #[test]
    fn a_certificate_is_renewed_at_half_its_life_and_when_the_clock_leaps() {
        let directory = tempfile::tempdir().expect("a directory");
        let now = 1_800_000_000;
        let authority = Authority::create(directory.path(), ClusterId::from_random(1), now)
            .expect("an authority");
        let cert = ServerCert::new(Arc::new(authority), now).expect("a certificate");
        let shown = |cert: &ServerCert| cert.current().cert.clone();
        let first = shown(&cert);

        cert.renew_if_due(now + TTL.as_secs() / 2 - 3_600).expect("renewed");
        assert_eq!(shown(&cert), first);
        cert.renew_if_due(now + TTL.as_secs() / 2).expect("renewed");
        let second = shown(&cert);
        assert_ne!(second, first);
        cert.renew_if_due(now - 400 * 86_400).expect("renewed");
        assert_ne!(shown(&cert), second);
    }
}
