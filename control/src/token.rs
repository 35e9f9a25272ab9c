//! New join tokens and the lines that carry them.

use overlay_core::Role;
use overlay_proto::JoinLine;
use overlay_proto::join_line::{TOKEN_ID_LEN, TOKEN_SECRET_LEN, TokenSecret};
use zeroize::Zeroizing;

use crate::registry::{CreateToken, Digest};

/// A new token, with its secret.
pub(crate) struct FreshToken {
    id: String,
    secret: TokenSecret,
}

impl FreshToken {
    /// Generates a random token.
    ///
    /// # Errors
    ///
    /// If the system provides no random bytes.
    pub(crate) fn draw() -> Result<Self, getrandom::Error> {
        let mut id = [0; TOKEN_ID_LEN];
        let mut secret = Zeroizing::new([0; TOKEN_SECRET_LEN]);
        getrandom::fill(&mut id)?;
        getrandom::fill(secret.as_mut_slice())?;

        Ok(Self { id: hex::encode(id), secret: TokenSecret::from_bytes(&secret) })
    }

    /// Returns the command that registers the token by its digest.
    pub(crate) fn command(&self, ttl: u64, uses: u32, role: Role) -> CreateToken {
        let digest = Digest::of(self.secret.expose().as_bytes());

        CreateToken {
            id: self.id.clone(),
            digest,
            ttl,
            uses,
            role,
            labels: std::collections::BTreeMap::new(),
        }
    }

    /// Returns the line that a host joins with.
    pub(crate) fn line(self, pin: [u8; 32], addresses: Vec<String>) -> JoinLine {
        JoinLine { token_id: self.id, secret: self.secret, pin, addresses }
    }
}
