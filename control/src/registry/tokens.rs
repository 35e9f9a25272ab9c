//! Join tokens: created, listed and revoked by admins.

use super::{
    Actor, ClusterState, CreateToken, Decision, Record, Reply, Token, TokenError, check_labels,
    limits, require_admin,
};

/// Creates a token, and forgets those that expired more than a day ago.
pub(super) fn create(
    state: &ClusterState,
    actor: Actor,
    create: CreateToken,
    now: u64,
) -> Decision {
    require_admin(state, actor)?;
    check_labels(&create.labels)?;
    let ttl = if create.ttl == 0 { limits::DEFAULT_TOKEN_TTL } else { create.ttl };
    if ttl > limits::MAX_TOKEN_TTL {
        return Err(TokenError::TtlTooLong(ttl).into());
    }
    if usize::try_from(create.uses).is_ok_and(|uses| uses > limits::MAX_NODES) {
        return Err(TokenError::TooManyUses(create.uses).into());
    }
    let dead = |token: &&Token| token.expires.saturating_add(limits::TOKEN_RETENTION) <= now;
    let mut records: Vec<_> = state
        .tokens()
        .values()
        .filter(dead)
        .map(|token| Record::RemoveToken(token.id.clone()))
        .collect();
    if state.tokens().len() - records.len() >= limits::MAX_TOKENS {
        return Err(TokenError::TooMany.into());
    }
    if state.tokens().contains_key(&create.id) {
        return Err(TokenError::IdTaken.into());
    }

    let token = Token {
        id: create.id,
        digest: create.digest,
        expires: now.saturating_add(ttl),
        uses: create.uses.max(1),
        used: 0,
        role: create.role,
        labels: create.labels,
        fenced: false,
    };
    records.push(Record::Token(token.clone()));

    Ok((Reply::Token(token), records))
}

/// Revokes a token; nodes that joined with it stay.
pub(super) fn revoke(state: &ClusterState, actor: Actor, id: &str) -> Decision {
    require_admin(state, actor)?;
    if !state.tokens().contains_key(id) {
        return Err(TokenError::NotFound(id.to_owned()).into());
    }

    Ok((Reply::Done, vec![Record::RemoveToken(id.to_owned())]))
}
