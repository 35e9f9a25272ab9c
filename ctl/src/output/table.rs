//! Tables: columns without borders that fit the terminal by leaving columns out, never by cutting
//! an address in two.
//!
//! On a terminal that is too narrow, in this order: lists are shortened to `a, b, +3`, very long
//! names are shortened, columns are left out in the order that they state, and names are shortened
//! further. Output that is no terminal, and `-o wide`, gets everything on one line per row.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};

use super::Page;

/// Blanks between two columns.
const GAP: usize = 2;
/// How wide a list is where everything does not fit.
const SHORT_LIST: usize = 24;
/// Names are not shortened below this while there is something to leave out.
const LONG_NAME: usize = 24;
/// Names are not shortened below this.
const SHORT_NAME: usize = 12;
/// Prose is not squeezed below this.
const PROSE: usize = 24;

/// What a caller may not see; JSON has null.
pub(crate) const HIDDEN: &str = "–";

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    head: &'static str,
    right: bool,
    /// The order in which columns are left out: 1 goes first, 0 never.
    leaves: u8,
    wide_only: bool,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Stays as it is.
    Whole,
    /// May be shortened, with an ellipsis, when nothing else helps.
    Name,
    /// May be wrapped between words; the last column only.
    Prose,
}

impl Column {
    /// Makes a column of words that are never cut: addresses, states, times.
    pub(crate) const fn left(head: &'static str) -> Self {
        Self { head, right: false, leaves: 0, wide_only: false, kind: Kind::Whole }
    }

    /// Makes a column of figures.
    pub(crate) const fn right(head: &'static str) -> Self {
        Self { right: true, ..Self::left(head) }
    }

    /// Makes a column of names, which are shortened where nothing else helps.
    pub(crate) const fn name(head: &'static str) -> Self {
        Self { kind: Kind::Name, ..Self::left(head) }
    }

    /// Makes a last column of sentences, which are wrapped between words.
    pub(crate) const fn prose(head: &'static str) -> Self {
        Self { kind: Kind::Prose, ..Self::left(head) }
    }

    /// Lets the column be left out on narrow terminals; the one with the lowest number goes first.
    pub(crate) const fn leaves(self, order: u8) -> Self {
        Self { leaves: order, ..self }
    }

    /// Shows the column with `-o wide` alone.
    pub(crate) const fn wide(self) -> Self {
        Self { wide_only: true, ..self }
    }
}

/// What stands in one column of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cell {
    /// A text.
    Text(String),
    /// Things that are many: `a, b, +3` where the room is short.
    List(Vec<String>),
}

impl Cell {
    /// Makes a list; the caller sorts.
    pub(crate) fn list<T: ToString>(words: impl IntoIterator<Item = T>) -> Self {
        Self::List(words.into_iter().map(|word| word.to_string()).collect())
    }

    /// Makes a list of `k=v`.
    pub(crate) fn labels(labels: &BTreeMap<String, String>) -> Self {
        Self::list(labels.iter().map(|(key, value)| format!("{key}={value}")))
    }

    /// Tells whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::List(words) => words.is_empty(),
        }
    }

    fn text(&self, lists: Lists) -> String {
        let text = match (self, lists) {
            (Self::Text(text), _) => text.clone(),
            (Self::List(words), _) if words.is_empty() => "-".to_owned(),
            (Self::List(words), Lists::Plain) => words.join(","),
            (Self::List(words), Lists::Spaced) => words.join(", "),
            (Self::List(words), Lists::Short) => short_list(words),
        };

        // What came from another host does not move this terminal's cursor.
        text.replace(char::is_control, " ")
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::Text(text.into())
    }
}

/// How lists are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lists {
    /// `a,b,c`: one word for scripts.
    Plain,
    /// `a, b, c`.
    Spaced,
    /// `a, b, +1`.
    Short,
}

/// Writes as many words as fit, at least one, and how many more there are.
fn short_list(words: &[String]) -> String {
    let whole = words.join(", ");
    if width(&whole) <= SHORT_LIST {
        return whole;
    }
    let more = |shown: usize| format!("{}, +{}", words[..shown].join(", "), words.len() - shown);
    let shown =
        (1..words.len()).rev().find(|shown| width(&more(*shown)) <= SHORT_LIST).unwrap_or(1);

    if words.len() == 1 { whole } else { more(shown) }
}

/// Lays rows out in columns.
pub(crate) fn table(page: Page, columns: &[Column], rows: &[Vec<Cell>]) -> String {
    let mut shown: Vec<usize> =
        (0..columns.len()).filter(|i| page.wide || !columns[*i].wide_only).collect();
    let Some(limit) = page.width.map(usize::from).filter(|_| !page.wide) else {
        return render(columns, &shown, &texts(columns, rows, Lists::Plain), None);
    };
    let spaced = texts(columns, rows, Lists::Spaced);
    if needed(columns, &shown, &spaced) <= limit {
        return render(columns, &shown, &spaced, Some(limit));
    }
    let mut short = texts(columns, rows, Lists::Short);
    shorten_names(columns, &shown, &mut short, limit, LONG_NAME);
    while needed(columns, &shown, &short) > limit {
        let next = shown
            .iter()
            .copied()
            .filter(|i| columns[*i].leaves > 0)
            .min_by_key(|i| columns[*i].leaves);
        let Some(next) = next else { break };
        shown.retain(|i| *i != next);
    }
    shorten_names(columns, &shown, &mut short, limit, SHORT_NAME);

    render(columns, &shown, &short, Some(limit))
}

/// Wraps a sentence between words, where the terminal is narrower.
pub(crate) fn wrapped(page: Page, sentence: &str) -> String {
    let text = table(page, &[Column::prose("")], &[vec![sentence.into()]]);

    text.split_once('\n').map(|(_, lines)| lines.to_owned()).unwrap_or_default()
}

fn texts(columns: &[Column], rows: &[Vec<Cell>], lists: Lists) -> Vec<Vec<String>> {
    // What can be wrapped is written whole.
    let lists = |column: &Column| match (column.kind, lists) {
        (Kind::Prose, Lists::Short) => Lists::Spaced,
        (Kind::Prose | Kind::Name | Kind::Whole, lists) => lists,
    };
    let texts = |row: &Vec<Cell>| {
        row.iter().zip(columns).map(|(cell, column)| cell.text(lists(column))).collect()
    };

    rows.iter().map(texts).collect()
}

/// Counts the columns of a terminal; what we write is of single width.
fn width(text: &str) -> usize {
    text.chars().count()
}

fn column_width(columns: &[Column], i: usize, rows: &[Vec<String>]) -> usize {
    rows.iter()
        .filter_map(|row| row.get(i))
        .map(|text| width(text))
        .max()
        .unwrap_or(0)
        .max(width(columns[i].head))
}

/// Returns how wide the table is when prose has the room that it needs to be read.
fn needed(columns: &[Column], shown: &[usize], rows: &[Vec<String>]) -> usize {
    let widths = shown.iter().map(|i| match columns[*i].kind {
        Kind::Prose => column_width(columns, *i, rows).min(PROSE),
        Kind::Whole | Kind::Name => column_width(columns, *i, rows),
    });

    widths.sum::<usize>() + GAP * shown.len().saturating_sub(1)
}

/// Takes what is too much from the widest columns of names.
fn shorten_names(
    columns: &[Column],
    shown: &[usize],
    rows: &mut [Vec<String>],
    limit: usize,
    least: usize,
) {
    while needed(columns, shown, rows) > limit {
        let names = shown.iter().copied().filter(|i| columns[*i].kind == Kind::Name);
        let widest = names.map(|i| (column_width(columns, i, rows), i)).max();
        let Some((was, i)) = widest.filter(|(was, i)| *was > least.max(width(columns[*i].head)))
        else {
            return;
        };
        for row in rows.iter_mut() {
            if width(&row[i]) == was {
                row[i] = row[i].trim_end_matches('…').chars().take(was - 2).chain(['…']).collect();
            }
        }
    }
}

fn render(
    columns: &[Column],
    shown: &[usize],
    rows: &[Vec<String>],
    limit: Option<usize>,
) -> String {
    let mut table = Table::new();
    let cells = |row: &Vec<String>| shown.iter().map(|i| row[*i].clone()).collect::<Vec<_>>();
    table
        .load_style(presets::NOTHING)
        .set_header(shown.iter().map(|i| columns[*i].head))
        .add_rows(rows.iter().map(cells));
    table.set_content_arrangement(ContentArrangement::Disabled);
    let others: usize = shown
        .iter()
        .filter(|i| columns[**i].kind != Kind::Prose)
        .map(|i| column_width(columns, *i, rows) + GAP)
        .sum();
    for (column, i) in table.column_iter_mut().zip(shown) {
        column.set_padding((0, 2));
        if columns[*i].right {
            column.set_cell_alignment(CellAlignment::Right);
        }
        if let (Kind::Prose, Some(limit)) = (columns[*i].kind, limit) {
            let room = limit.saturating_sub(others).max(PROSE);
            // An upper boundary would let a text through that is longer by no more than the gap.
            if column_width(columns, *i, rows) > room {
                let room = u16::try_from(room + GAP).unwrap_or(u16::MAX);
                column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(room)));
            }
        }
    }

    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_that_is_longer_by_a_word_is_wrapped() {
        let columns = [Column::left("KEY"), Column::prose("WHAT")];
        for length in 25..80 {
            let sentence = format!("{} x", "y".repeat(length - 2));
            let page = Page { now: 0, width: Some(40), wide: false };

            let text = table(page, &columns, &[vec!["abcdefghijk".into(), sentence.into()]]);

            let longest = text.lines().map(|line| line.chars().count()).max();
            assert!(longest <= Some(40), "{length}: {text}");
        }
    }

    const COLUMNS: [Column; 5] = [
        Column::name("NAME"),
        Column::left("ADDRESS"),
        Column::left("MEMBERS").leaves(2),
        Column::right("COUNT").leaves(3),
        Column::left("LABELS").leaves(1),
    ];

    fn page(width: Option<u16>) -> Page {
        Page { now: 0, width, wide: false }
    }

    fn row(name: &str, members: usize) -> Vec<Cell> {
        let members = Cell::list((0..members).map(|n| format!("host-{n}")));

        vec![name.into(), "2001:db8:1234:5678::1".into(), members, "7".into(), "rack=7".into()]
    }

    #[test]
    fn a_pipe_gets_everything_aligned_and_without_trailing_blanks() {
        assert_eq!(
            table(page(None), &COLUMNS, &[row("a", 2), row("long", 0)]),
            "NAME  ADDRESS                MEMBERS        COUNT  LABELS\n\
             a     2001:db8:1234:5678::1  host-0,host-1      7  rack=7\n\
             long  2001:db8:1234:5678::1  -                  7  rack=7"
        );
    }

    #[test]
    fn what_came_from_another_host_does_not_move_the_cursor() {
        let hostile = "a\x1b[2J\u{9b}1A\r\nb\tc";
        let columns = [Column::left("WHAT"), Column::left("LIST")];

        let text =
            table(page(None), &columns, &[vec![hostile.into(), Cell::list([hostile.to_owned()])]]);

        assert_eq!(text, "WHAT           LIST\na [2J 1A  b c  a [2J 1A  b c");
        assert!(!text.chars().any(|char| char.is_control() && char != '\n'), "{text:?}");
    }

    #[test]
    fn lists_are_shortened_before_columns_are_left_out() {
        assert_eq!(
            table(page(Some(80)), &COLUMNS, &[row("a", 9)]),
            "NAME  ADDRESS                MEMBERS             COUNT  LABELS\n\
             a     2001:db8:1234:5678::1  host-0, host-1, +7      7  rack=7"
        );
        assert_eq!(
            table(page(Some(60)), &COLUMNS, &[row("a", 9)]),
            "NAME  ADDRESS                MEMBERS             COUNT\n\
             a     2001:db8:1234:5678::1  host-0, host-1, +7      7"
        );
        assert_eq!(
            table(page(Some(40)), &COLUMNS, &[row("a", 9)]).lines().next(),
            Some("NAME  ADDRESS                COUNT")
        );
    }

    #[test]
    fn names_are_shortened_last_and_addresses_never() {
        let text = table(page(Some(50)), &COLUMNS, &[row(&"n".repeat(63), 9)]);

        assert!(text.lines().all(|line| width(line) <= 50), "{text}");
        assert!(text.contains("nnn…  2001:db8:1234:5678::1"), "{text}");
    }

    #[test]
    fn sentences_are_wrapped_between_words() {
        let columns = [Column::left("PROBLEM"), Column::prose("WHAT")];
        let rows =
            vec![vec!["control-away".into(), "no word from 192.0.2.1:7443, ".repeat(5).into()]];

        let text = table(page(Some(60)), &columns, &rows);

        assert!(text.lines().all(|line| width(line) <= 60), "{text}");
        assert_eq!(text.matches("192.0.2.1:7443").count(), 5, "{text}");
    }

    #[test]
    fn wide_has_columns_of_its_own() {
        let columns = [Column::name("NAME"), Column::left("ID").wide()];
        let rows = vec![vec!["a".into(), "0a".into()]];

        assert_eq!(table(page(None), &columns, &rows), "NAME\na");
        assert_eq!(
            table(Page { wide: true, ..page(Some(40)) }, &columns, &rows),
            "NAME  ID\na     0a"
        );
    }
}
