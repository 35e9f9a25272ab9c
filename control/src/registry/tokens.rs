//! Join tokens: created, listed and revoked by admins.

use overlay_proto::Code;

use super::{
    Actor, ClusterState, CreateToken, Decision, Record, Reply, Token, check_labels, limits, refuse,
    require_admin,
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
        let most = limits::MAX_TOKEN_TTL;
        return Err(refuse(
            Code::InvalidInput,
            format!("a ttl of {ttl} s is more than {most} s (366 days)"),
        ));
    }
    if usize::try_from(create.uses).is_ok_and(|uses| uses > limits::MAX_NODES) {
        let (uses, most) = (create.uses, limits::MAX_NODES);
        return Err(refuse(
            Code::InvalidInput,
            format!("{uses} uses are more than the {most} nodes a cluster may have"),
        ));
    }
    let dead = |token: &&Token| token.expires.saturating_add(limits::TOKEN_RETENTION) <= now;
    let mut records: Vec<_> = state
        .tokens()
        .values()
        .filter(dead)
        .map(|token| Record::RemoveToken(token.id.clone()))
        .collect();
    if state.tokens().len() - records.len() >= limits::MAX_TOKENS {
        let most = limits::MAX_TOKENS;
        return Err(refuse(
            Code::Exhausted,
            format!("there are {most} tokens already; remove some: overlayctl token rm ID"),
        ));
    }
    if state.tokens().contains_key(&create.id) {
        return Err(refuse(Code::NameTaken, "a token of this id is there already; try again"));
    }

    let token = Token {
        id: create.id,
        digest: create.digest,
        expires: now.saturating_add(ttl),
        uses: create.uses.max(1),
        used: 0,
        role: create.role,
        labels: create.labels,
    };
    records.push(Record::Token(token.clone()));

    Ok((Reply::Token(token), records))
}

/// Revokes a token; nodes that joined with it stay.
pub(super) fn revoke(state: &ClusterState, actor: Actor, id: &str) -> Decision {
    require_admin(state, actor)?;
    if !state.tokens().contains_key(id) {
        let shown: String = id.chars().take(80).collect();
        return Err(refuse(Code::NotFound, format!("there is no token {shown:?}")));
    }

    Ok((Reply::Done, vec![Record::RemoveToken(id.to_owned())]))
}
