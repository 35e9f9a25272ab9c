//! The audit log of the pretended agent: a little of everything, in a chain.

use std::collections::BTreeMap;

use overlay_proto::audit::{AuditRecord, AuditRow, Head, Omitted, RecordHash, Who};
use overlay_proto::v1;
use serde_json::{Value, json};

use super::Script;

/// When the first record was written, in seconds since 1970.
const BEGIN: u64 = 1_700_000_000;

fn node(name: &str, role: &str) -> Who {
    Who::Node {
        id: "00000000000b".to_owned(),
        name: name.to_owned(),
        role: role.to_owned(),
        certificate: RecordHash::of(name.as_bytes()).to_string(),
    }
}

fn record(at: u64, who: Who, what: &str, rows: Vec<AuditRow>) -> AuditRecord {
    AuditRecord {
        number: 0,
        at: BEGIN + at,
        revision: at / 60,
        from: matches!(who, Who::Node { .. } | Who::Token { .. }).then_some([192, 0, 2, 2].into()),
        who,
        what: what.to_owned(),
        rows,
        omitted: None,
        details: BTreeMap::new(),
        previous: RecordHash::default(),
    }
}

fn row(row: &str, id: &str, before: Option<Value>, after: Option<Value>) -> AuditRow {
    AuditRow {
        row: row.to_owned(),
        id: id.to_owned(),
        name: None,
        network: None,
        node: None,
        before,
        after,
    }
}

fn records() -> Vec<AuditRecord> {
    let some = |text: &str| Some(text.to_owned());
    let details = |record: AuditRecord, details: &[(&str, Value)]| AuditRecord {
        details: details.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
        ..record
    };
    let network = |before, after| AuditRow {
        name: some("shop"),
        ..row("network", "00000000000a", before, after)
    };
    let endpoint = |id: u32, before, after| AuditRow {
        name: some(&format!("web{id}")),
        network: some("shop"),
        node: some("host-b"),
        ..row("endpoint", &format!("00000000000a/{id:012x}"), before, after)
    };
    let joined = vec![
        row("token", "0101010101010101", Some(json!({ "used": 0 })), Some(json!({ "used": 1 }))),
        AuditRow {
            name: some("host-b"),
            ..row("node", "00000000000b", None, Some(json!({ "role": "node" })))
        },
    ];

    vec![
        details(
            record(0, Who::Control, "begin", vec![]),
            &[("why", "the cluster was made".into())],
        ),
        record(
            60,
            Who::Operator,
            "create-token",
            vec![row(
                "token",
                "0101010101010101",
                None,
                Some(json!({ "uses": 1, "role": "node" })),
            )],
        ),
        record(120, Who::Token { id: "0101010101010101".into() }, "join", joined),
        record(
            180,
            node("host-a", "admin"),
            "create-network",
            vec![network(None, Some(json!({ "prefix": "10.64.0.0/16", "labels": {} })))],
        ),
        AuditRecord {
            omitted: Some(Omitted { rows: 3, sha256: RecordHash::default() }),
            ..record(
                240,
                node("host-b", "node"),
                "put-endpoints",
                vec![
                    endpoint(
                        1,
                        None,
                        Some(json!({ "addresses": ["10.64.255.2"], "name": "web1" })),
                    ),
                    endpoint(2, None, Some("…".into())),
                ],
            )
        },
        record(
            300,
            node("host-b", "node"),
            "remove-endpoints",
            vec![endpoint(1, Some(json!({ "addresses": ["10.64.255.2"], "name": "web1" })), None)],
        ),
        details(
            record(360, node("host-b", "node"), "refused", vec![]),
            &[
                ("refused", json!({ "CreateToken not-allowed": 12 })),
                ("since", (BEGIN + 300).into()),
            ],
        ),
        details(
            record(420, Who::Stranger, "refused", vec![]),
            &[("refused", json!({ "Join token-refused": 3 }))],
        ),
    ]
}

/// Returns the number and hash of a record.
pub(crate) fn noted(number: u64) -> String {
    let (_, heads) = chain();

    heads[usize::try_from(number).expect("small")].to_string()
}

/// Returns the records and, of each and of none, the head.
fn chain() -> (Vec<Vec<u8>>, Vec<Head>) {
    let (mut bytes, mut heads) = (Vec::new(), vec![Head::default()]);
    for record in records() {
        let (next, head) = record.seal(&heads[bytes.len()]).expect("JSON");
        bytes.push(next);
        heads.push(head);
    }

    (bytes, heads)
}

/// Returns nothing where the caller is to wait for ever.
pub(super) fn list(
    script: &Script,
    request: &v1::ListAuditRequest,
) -> Option<v1::ListAuditResponse> {
    let (mut bytes, heads) = chain();
    if script.alters_audit {
        bytes[3] =
            String::from_utf8(bytes[3].clone()).expect("text").replace("shop", "shed").into();
    }
    let kept = usize::from(script.forgets_audit) * 2;
    let numbers = kept as u64 + 1..=bytes.len() as u64;
    let number =
        |n: &u64| if request.before > 0 { *n < request.before } else { *n > request.after };
    let mut looked: Vec<_> = numbers.filter(number).collect();
    if request.before > 0 {
        looked.reverse();
    }
    if looked.is_empty() && request.wait {
        return None;
    }
    let is_wanted = |bytes: &&Vec<u8>| {
        let record: AuditRecord = serde_json::from_slice(bytes).expect("JSON");
        record.at >= request.since_unix
            && (request.node.is_empty() || record.concerns_node(&request.node))
            && (request.network.is_empty() || record.concerns_network(&request.network))
    };
    let records = looked.iter().map(|n| &bytes[usize::try_from(*n).expect("small") - 1]);
    let head = |head: &Head| v1::AuditHead { number: head.number, hash: head.hash.to_string() };

    Some(v1::ListAuditResponse {
        records: records.filter(is_wanted).cloned().collect(),
        looked: looked.last().copied().unwrap_or(request.after),
        end: true,
        head: heads.last().map(head),
        checkpoint: heads.get(kept).map(head),
    })
}
