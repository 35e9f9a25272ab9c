use std::collections::BTreeMap;

use super::*;
use crate::audit::Who;

fn record(what: &str) -> AuditRecord {
    AuditRecord {
        number: 0,
        at: 1_800_000_000,
        revision: 7,
        who: Who::Control,
        from: None,
        what: what.to_owned(),
        rows: Vec::new(),
        omitted: None,
        details: BTreeMap::new(),
        previous: RecordHash::default(),
    }
}

/// Makes a chain of `count` records behind a checkpoint, and its head.
fn chain(checkpoint: Head, count: usize) -> (Vec<Vec<u8>>, Head) {
    let mut head = checkpoint;
    let records = (0..count).map(|n| {
        let (bytes, next) = record(&format!("command-{n}")).seal(&head).expect("JSON");
        head = next;
        bytes
    });
    let records = records.collect();

    (records, head)
}

fn verify(
    checkpoint: Head,
    records: &[Vec<u8>],
    head: Head,
    noted: Option<Head>,
) -> Result<bool, ChainError> {
    let mut verifier = Verifier::new(checkpoint, noted)?;
    for bytes in records {
        verifier.accept(bytes)?;
    }

    verifier.finish(head)
}

#[test]
fn a_whole_chain_is_accepted_from_its_beginning_and_from_a_checkpoint() {
    let (records, head) = chain(Head::default(), 9);
    let checkpoint = Head { number: 4, hash: RecordHash::of(&records[3]) };

    assert_eq!(verify(Head::default(), &records, head, None), Ok(true));
    assert_eq!(verify(checkpoint, &records[4..], head, None), Ok(true));
    assert_eq!(verify(Head::default(), &[], Head::default(), None), Ok(true));
}

#[test]
fn a_record_that_was_altered_removed_or_moved_is_named() {
    let (records, head) = chain(Head::default(), 9);
    let found = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut records = records.clone();
        change(&mut records);
        verify(Head::default(), &records, head, None).expect_err("it is not what was written")
    };
    let alter = |bytes: &mut Vec<u8>| {
        let text = String::from_utf8(bytes.clone()).expect("text");
        *bytes = text.replace("command-", "Command-").into_bytes();
    };

    assert_eq!(found(&|all| alter(&mut all[4])), ChainError::Altered(5));
    assert_eq!(found(&|all| alter(&mut all[8])), ChainError::AlteredLast(9));
    assert_eq!(found(&|all| all[2].truncate(9)), ChainError::Unreadable(3));
    assert_eq!(found(&|all| drop(all.remove(6))), ChainError::OutOfPlace { expected: 7, found: 8 });
    assert_eq!(found(&|all| all.swap(1, 2)), ChainError::OutOfPlace { expected: 2, found: 3 });
    assert_eq!(found(&|all| all.truncate(5)), ChainError::Cut(6));
    assert_eq!(found(&|all| drop(all.remove(0))), ChainError::OutOfPlace { expected: 1, found: 2 });
}

#[test]
fn a_chain_that_was_written_anew_differs_from_the_head_that_was_noted() {
    let (records, _) = chain(Head::default(), 5);
    let noted = Head { number: 5, hash: RecordHash::of(&records[4]) };
    let mut forged = Vec::new();
    let mut head = Head::default();
    for n in 0..8 {
        let what = if n == 2 { "nothing".to_owned() } else { format!("command-{n}") };
        let (bytes, next) = record(&what).seal(&head).expect("JSON");
        (head, forged) = (next, [forged, vec![bytes]].concat());
    }

    let unnoticed = verify(Head::default(), &forged, head, None);
    let noticed = verify(Head::default(), &forged, head, Some(noted));

    assert_eq!((unnoticed, noticed), (Ok(true), Err(ChainError::Rewritten(5))));
}

#[test]
fn a_head_that_was_noted_is_met_gone_or_beyond() {
    let (records, head) = chain(Head::default(), 9);
    let at = |n: usize| Head { number: n as u64, hash: RecordHash::of(&records[n - 1]) };
    let kept = |noted| verify(at(4), &records[4..], head, Some(noted));

    assert_eq!(kept(at(9)), Ok(true));
    assert_eq!(kept(at(4)), Ok(true), "the checkpoint says the same");
    assert_eq!(kept(at(3)), Ok(false), "it is not kept any more");
    assert_eq!(kept(Head { number: 4, ..at(5) }), Err(ChainError::Rewritten(4)));
    assert_eq!(kept(Head { number: 10, ..at(9) }), Err(ChainError::Shorter { noted: 10, last: 9 }));
}

#[test]
fn heads_are_read_as_they_are_written() {
    let head = Head { number: 12, hash: RecordHash::of(b"x") };

    assert_eq!(head.to_string().parse(), Ok(head));
    for junk in ["", "12", "12:", ":00", "x:00", &format!("12:{}é", "0".repeat(62))] {
        assert_eq!(junk.parse::<Head>(), Err(InvalidHead), "{junk}");
    }
}
