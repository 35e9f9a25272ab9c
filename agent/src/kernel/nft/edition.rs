//! How tables are made anew without a moment in which packets meet half of one. Pure.
//!
//! To packets that are under way, a transaction of nftables is not one: a chain that goes is empty
//! before it is off its hook, so that the chain's policy decides, and rules that still run do not
//! find the elements of a set that goes (`nf_tables_commit` in the kernel's
//! `net/netfilter/nf_tables_api.c`). So base chains stay, and all else is written in editions:
//!
//! ```text
//! base chain ─► judge4.7 ─► known.7      1. judge4.8, known.8; the base chain's rules name them
//!                                        2. judge4.7 and known.7 go: no packet comes by them
//! ```

use std::fmt::Write as _;
use std::sync::Arc;

/// What stands in text for the edition, at the end of each name that has one.
const PLACE: char = '~';

/// Which time it is that a table is made: the number of the namespace's state before, which no
/// earlier edition of the table had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edition(pub(super) u32);

/// What was put in place last, and the edition that it is in the kernel.
#[derive(Debug)]
pub(super) struct Held<T> {
    pub(super) content: Arc<T>,
    pub(super) edition: Edition,
}

/// A table that is made in editions: what stays.
#[derive(Debug, Clone, Copy)]
pub(super) struct TableFrame {
    /// Family and name, such as `inet overlay`.
    pub(super) table: &'static str,
    /// Names of base chains, with their hooks and policies.
    pub(super) base_chains: &'static [(&'static str, &'static str)],
}

/// An object of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedObject {
    pub(super) kind: ObjectKind,
    pub(super) name: String,
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObjectKind {
    Chain,
    Set,
    Map,
    Counter,
}

impl Edition {
    /// Writes text that is to be of this edition.
    pub(super) fn print(self, text: &str) -> String {
        text.replace(PLACE, &self.suffix())
    }

    fn suffix(self) -> String {
        let Self(number) = self;

        format!(".{number}")
    }
}

/// Returns a name without its edition.
pub(super) fn without_edition(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(name, _edition)| name)
}

impl TableFrame {
    /// Returns the name of the table with that of each base chain.
    pub(super) fn base_chain_names(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let name = self.table.split_once(' ').map_or(self.table, |(_family, name)| name);

        self.base_chains.iter().map(move |(chain, _hook)| (name, *chain))
    }

    /// Writes that the base chains are there and have no rules, before those of an edition.
    pub(super) fn emptied(&self) -> String {
        let mut script = format!("add table {}\n", self.table);
        for (name, hook) in self.base_chains {
            // Infallible for a `String`.
            let _written = writeln!(script, "add chain {} {name} {{ {hook} }}", self.table);
            let _written = writeln!(script, "flush chain {} {name}", self.table);
        }

        script
    }

    /// Writes that the table is not there, whatever was.
    pub(super) fn removed(&self) -> String {
        format!("table {0}\ndelete table {0}\n", self.table)
    }

    /// Writes that of these objects of the table, those of other editions go; nothing where there
    /// are none.
    pub(super) fn without_others(&self, objects: &[NamedObject], edition: Edition) -> String {
        let others = objects.iter().filter(|object| !self.belongs(object, edition));
        let (chains, rest): (Vec<_>, Vec<_>) =
            others.partition(|object| object.kind == ObjectKind::Chain);
        let each = |word: &str, objects: &[&NamedObject]| -> String {
            let line = |object: &&NamedObject| {
                format!("{word} {} {} {}\n", object.kind.as_str(), self.table, object.name)
            };
            objects.iter().map(line).collect()
        };

        // Chains name each other, and all else.
        each("flush", &chains) + &each("delete", &chains) + &each("delete", &rest)
    }

    fn belongs(&self, object: &NamedObject, edition: Edition) -> bool {
        let is_base = object.kind == ObjectKind::Chain
            && self.base_chains.iter().any(|(base, _)| *base == object.name);

        is_base || object.name.ends_with(&edition.suffix())
    }
}

impl ObjectKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Set => "set",
            Self::Map => "map",
            Self::Counter => "counter",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: TableFrame = TableFrame {
        table: "inet shop",
        base_chains: &[("forward", "type filter hook forward priority filter; policy drop;")],
    };

    fn object(kind: ObjectKind, name: &str) -> NamedObject {
        NamedObject { kind, name: name.to_owned() }
    }

    #[test]
    fn what_stays_is_emptied_and_what_is_of_another_edition_goes() {
        let objects = [
            object(ObjectKind::Chain, "judge.7"),
            object(ObjectKind::Chain, "forward"),
            object(ObjectKind::Chain, "judge.8"),
            object(ObjectKind::Chain, "foreign"),
            object(ObjectKind::Set, "known.7"),
            object(ObjectKind::Set, "forward"),
            object(ObjectKind::Map, "settled.17"),
            object(ObjectKind::Counter, "rule.8"),
        ];

        assert_eq!(
            FRAME.without_others(&objects, Edition(7)),
            "flush chain inet shop judge.8\nflush chain inet shop foreign\ndelete chain inet shop \
             judge.8\ndelete chain inet shop foreign\ndelete set inet shop forward\ndelete map \
             inet shop settled.17\ndelete counter inet shop rule.8\n"
        );
        assert_eq!(FRAME.without_others(&objects[..2], Edition(7)), "");
        assert_eq!(
            FRAME.emptied(),
            "add table inet shop\nadd chain inet shop forward { type filter hook forward priority \
             filter; policy drop; }\nflush chain inet shop forward\n"
        );
    }

    #[test]
    fn text_is_of_an_edition_and_names_are_without() {
        assert_eq!(Edition(7).print("goto judge~ @known~"), "goto judge.7 @known.7");
        assert_eq!(without_edition("rule-a-b.7"), "rule-a-b");
        assert_eq!(without_edition("rule-of-before"), "rule-of-before");
    }
}
