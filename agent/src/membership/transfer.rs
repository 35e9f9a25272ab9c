//! Puts the parts of a snapshot or delta together. Pure.

use overlay_core::{Change, Delta, Revision, View};
use overlay_proto::convert::{self, ConversionError, field};
use overlay_proto::v1;

/// The most rows of one transfer: four times what control's limits allow, some 4 GiB of the usual
/// rows. More is no membership.
const MAX_ROWS: usize = 1 << 21;

/// Why parts do not make a whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenTransfer {
    /// One was not understood.
    #[error(transparent)]
    Row(#[from] ConversionError),
    /// One came that continues nothing.
    #[error("control sent a part of a membership without its beginning")]
    NoBeginning,
    /// They do not end.
    #[error("control sent a membership of more than {MAX_ROWS} rows")]
    TooMany,
}

/// What all parts together are.
#[derive(Debug)]
pub(crate) enum Whole {
    /// The membership.
    Snapshot(View),
    /// What changed.
    Delta(Delta),
}

/// The parts that have come; a membership is used only once the last is there.
#[derive(Debug, Default)]
pub(crate) struct ReceivedTransfer(Option<Begun>);

#[derive(Debug)]
struct Begun {
    from: Option<Revision>,
    changes: Vec<Change>,
}

impl ReceivedTransfer {
    /// Takes the next part; returns the whole with the last one.
    pub(crate) fn take(&mut self, chunk: v1::Chunk) -> Result<Option<Whole>, BrokenTransfer> {
        if chunk.first {
            self.0 = Some(Begun { from: chunk.from.map(Revision), changes: Vec::new() });
        }
        let begun = self.0.as_mut().ok_or(BrokenTransfer::NoBeginning)?;
        if begun.changes.len() + chunk.changes.len() > MAX_ROWS {
            self.0 = None;
            return Err(BrokenTransfer::TooMany);
        }
        for change in chunk.changes {
            begun.changes.push(change.try_into()?);
        }
        if !chunk.last {
            return Ok(None);
        }
        let Some(Begun { from, changes }) = self.0.take() else { return Ok(None) };
        let stamp = convert::stamp(&chunk.lineage, &chunk.mark)?;
        let to = Revision(chunk.to);

        Ok(Some(match from {
            None => Whole::Snapshot(View { stamp, ..View::from_rows(to, changes) }),
            Some(from) => {
                let put_out = chunk.put_out.iter().map(|network| field("put_out", network));
                let put_out = put_out.collect::<Result<_, ConversionError>>()?;
                Whole::Delta(Delta { from, to, changes, put_out, stamp })
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use overlay_core::{NodeId, RowKey};

    use super::*;

    fn gone(n: u64) -> v1::Change {
        Change::Removed(RowKey::Node(NodeId::from_random(n))).into()
    }

    fn part(first: bool, last: bool) -> v1::Chunk {
        v1::Chunk { first, last, changes: vec![gone(1)], to: 9, ..v1::Chunk::default() }
    }

    #[test]
    fn nothing_is_whole_before_the_last_part() {
        let mut transfer = ReceivedTransfer::default();
        let first = v1::Chunk { from: Some(4), ..part(true, false) };

        let early = [first, part(false, false)].map(|chunk| transfer.take(chunk));
        let whole = transfer.take(part(false, true));

        assert!(early.iter().all(|part| matches!(part, Ok(None))), "{early:?}");
        let Ok(Some(Whole::Delta(delta))) = whole else { panic!("{whole:?}") };
        assert_eq!((delta.from, delta.to, delta.changes.len()), (Revision(4), Revision(9), 3));
        assert!(matches!(transfer.take(part(false, true)), Err(BrokenTransfer::NoBeginning)));
    }

    #[test]
    fn another_beginning_takes_the_place_of_the_first() {
        let mut transfer = ReceivedTransfer::default();
        transfer.take(v1::Chunk { from: Some(4), ..part(true, false) }).expect("a part");

        let whole = transfer.take(part(true, true));

        assert!(matches!(whole, Ok(Some(Whole::Snapshot(view))) if view.revision == Revision(9)));
    }
}
