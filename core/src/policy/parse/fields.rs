//! A table of a document, read key by key: which keys are left tells what nobody knows.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::message::excerpt;
use crate::policy::mistake::Mistakes;

/// A table, and which of its keys have been asked for.
#[derive(Debug)]
pub(super) struct Fields<'a, 'i> {
    table: &'a DeTable<'i>,
    /// The keys of the tables that it is in, and its own.
    path: String,
    span: Range<usize>,
    known: BTreeSet<&'static str>,
}

impl<'a, 'i> Fields<'a, 'i> {
    pub(super) fn new(table: &'a DeTable<'i>, path: &str, span: Range<usize>) -> Self {
        Self { table, path: path.to_owned(), span, known: BTreeSet::new() }
    }

    /// Returns where the table is.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Returns the full name of a key.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Lists the entries, whatever their keys.
    pub(super) fn entries(
        &self,
    ) -> impl Iterator<Item = (&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>)> + use<'a, 'i>
    {
        self.table.iter()
    }

    /// Returns the value of a key that may be missing.
    pub(super) fn optional(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.known.insert(key);
        self.table.get(key)
    }

    pub(super) fn is_missing(&mut self, key: &'static str) -> bool {
        self.optional(key).is_none()
    }

    /// Returns the value of a key that must be there.
    pub(super) fn value(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<&'a Spanned<DeValue<'i>>> {
        let value = self.optional(key);
        if value.is_none() {
            let remedy = format!("add {key} = …");
            mistakes.add(self.span(), &self.path, format!("there is no {key}"), remedy);
        }

        value
    }

    /// Returns the text of a key that must be there.
    pub(super) fn text(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<Spanned<String>> {
        let value = self.value(key, mistakes)?;

        text(value, &self.path(key), mistakes)
    }

    /// Returns a switch, which is off where it is missing; `None` after a mistake.
    pub(super) fn switch(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<bool> {
        let Some(value) = self.optional(key) else { return Some(false) };
        let switch = value.get_ref().as_bool();
        if switch.is_none() {
            wrong_type(value, &self.path(key), "write true or false", mistakes);
        }

        switch
    }

    /// Returns the table of a key that may be missing.
    pub(super) fn table(&mut self, key: &'static str, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let value = self.optional(key)?;
        let path = self.path(key);
        let DeValue::Table(table) = value.get_ref() else {
            wrong_type(value, &path, "write it as a table", mistakes);
            return None;
        };

        Some(Self::new(table, &path, value.span()))
    }

    /// Returns the tables of a key that may be missing.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        most: usize,
        mistakes: &mut Mistakes<'_>,
    ) -> Vec<Self> {
        let Some(value) = self.optional(key) else { return Vec::new() };
        let (path, remedy) = (self.path(key), format!("write [[{key}]] before each"));
        let DeValue::Array(list) = value.get_ref() else {
            wrong_type(value, &path, &remedy, mistakes);
            return Vec::new();
        };
        if list.len() > most {
            let reason = format!("there are {} of them, more than {most}", list.len());
            mistakes.add(value.span(), &path, reason, "select by labels, and use ranges of ports");
            return Vec::new();
        }
        let mut tables = Vec::with_capacity(list.len());
        for value in list.iter() {
            match value.get_ref() {
                DeValue::Table(table) => tables.push(Self::new(table, &path, value.span())),
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_)
                | DeValue::Array(_) => wrong_type(value, &path, &remedy, mistakes),
            }
        }

        tables
    }

    /// Says which keys nobody asked for.
    pub(super) fn finish(self, mistakes: &mut Mistakes<'_>) {
        let known: Vec<_> = self.known.iter().copied().collect();
        for (key, _) in self.table.iter() {
            let name: &str = key.get_ref();
            if !self.known.contains(name) {
                let remedy = format!("there are {}", known.join(", "));
                let path = self.path(excerpt(name));
                mistakes.add(key.span(), &path, "there is no such key", remedy);
            }
        }
    }
}

/// Returns a text, or says that it is none.
pub(super) fn text(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<Spanned<String>> {
    let text = value.get_ref().as_str().map(|text| Spanned::new(value.span(), text.to_owned()));
    if text.is_none() {
        wrong_type(value, key, "write a text in quotes", mistakes);
    }

    text
}

/// Says that a value is of another type than it must be.
pub(super) fn wrong_type(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    remedy: &str,
    mistakes: &mut Mistakes<'_>,
) {
    let reason = format!("it is of type {}", value.get_ref().type_str());
    mistakes.add(value.span(), key, reason, remedy);
}
