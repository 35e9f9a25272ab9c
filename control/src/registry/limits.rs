//! Upper limits, with their reasons.

/// Nodes of a cluster: the watch hub and the snapshots are sized for ten thousand; the next power
/// of two.
pub(crate) const MAX_NODES: usize = 16_384;
/// Networks: a node keeps the settings of all of them, 1 MiB at this many.
pub(crate) const MAX_NETWORKS: usize = 4_096;
/// Networks that one node makes: an eighth of all, far above what one host can use, so that none
/// takes the room of the others. Admins may make as many as there are.
pub(crate) const MAX_NODE_NETWORKS: usize = 512;
/// Pairs of linked networks: what nodes keep of them stays below 2 MiB.
pub(crate) const MAX_LINKED_PAIRS: usize = 1_024;
/// Endpoints of one node: a quarter of what a /16 holds, far above what one kernel runs.
pub(crate) const MAX_NODE_ENDPOINTS: usize = 16_384;
/// Endpoints of a cluster: two copies at some 1 KiB a row stay below 512 MiB.
pub(crate) const MAX_ENDPOINTS: usize = 262_144;
/// Endpoints that one call may put or remove: one commit stays below 20 ms.
pub(crate) const MAX_CALL_ENDPOINTS: usize = 1_000;
/// Bytes of all labels of one row: a snapshot of 10,000 rows then stays below the 64 MiB a client
/// takes.
pub(crate) const MAX_ROW_LABELS: usize = 4_096;
/// Bytes of a network or an endpoint as a message, whatever they are made of: labels and options of
/// [`MAX_ROW_LABELS`] each, and as much again.
pub(crate) const MAX_ROW: usize = 16_384;
/// Bytes of all endpoints, networks and memberships of one node that is no admin, as messages, with
/// [`ROW_OVERHEAD`] each: some two thousand containers with a kibibyte of names and labels, twice
/// what one host runs. Every node that may see them keeps them, in some three times as much memory.
pub(crate) const MAX_NODE_BYTES: usize = 2 << 20;
/// What a row is counted as having beside its message: whoever keeps it has it in maps and indexes.
pub(crate) const ROW_OVERHEAD: usize = 256;
/// Bytes of what a node reports of its host, as a message: 1,024 routes and 256 differing networks
/// of usual lengths.
pub(crate) const MAX_REPORT: usize = 131_072;
/// Live tokens: more than anyone would hand out.
pub(crate) const MAX_TOKENS: usize = 1_000;
/// How long a token may live, in seconds: a year.
pub(crate) const MAX_TOKEN_TTL: u64 = 366 * 86_400;
/// How long a token is valid by default, in seconds.
pub(crate) const DEFAULT_TOKEN_TTL: u64 = 3_600;
/// How long an expired token is still listed, in seconds.
pub(crate) const TOKEN_RETENTION: u64 = 86_400;
/// Removed nodes that are remembered by name; an older one is refused as unknown, which is as
/// final.
pub(crate) const MAX_REVOKED: usize = 65_536;
/// Blocks of one network that one node may hold: 65,536 addresses in blocks of /24.
pub(crate) const MAX_NODE_BLOCKS: usize = 256;
/// Blocks and addresses that are held for one node after a restore, where it cannot have them.
pub(crate) const MAX_HELD: usize = 4_096;
/// Policies that are kept, the live one among them: more than anybody looks back upon.
pub(crate) const MAX_POLICIES: usize = 32;
/// Bytes of all documents that are kept: eight of the longest, and hundreds of usual ones.
pub(crate) const MAX_POLICY_BYTES: usize = 8 << 20;
/// Rules times endpoints at which rules that match nothing are still looked for: a second.
pub(crate) const MAX_POLICY_LOOKS: usize = 10_000_000;
/// The longest version text of an agent, in bytes.
pub(crate) const MAX_VERSION: usize = 64;
