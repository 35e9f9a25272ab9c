//! What control must answer a stranger, computed beside it.

use std::collections::{BTreeMap, BTreeSet};

use overlay_proto::Code;

/// The networks that are not hidden, and what the stranger has on them.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Whether the stranger made each network.
    pub(super) networks: BTreeMap<String, bool>,
    pub(super) entered: BTreeSet<String>,
    /// The networks that are linked, in both orders.
    pub(super) links: BTreeSet<(String, String)>,
}

impl Model {
    pub(super) fn create(&mut self, name: &str) -> Result<(), Code> {
        match name {
            "secret" => Err(Code::NotAllowed),
            name if self.networks.contains_key(name) => Err(Code::NameTaken),
            name => {
                self.networks.insert(name.to_owned(), true);
                Ok(())
            }
        }
    }

    pub(super) fn change(&self, name: &str) -> Result<(), Code> {
        match self.networks.get(name) {
            None => Err(Code::NotFound),
            Some(false) => Err(Code::NotAllowed),
            Some(true) => Ok(()),
        }
    }

    pub(super) fn link(&mut self, one: &str, other: &str) -> Result<(), Code> {
        self.pair(one, other)?;
        for (one, other) in [(one, other), (other, one)] {
            self.links.insert((one.to_owned(), other.to_owned()));
        }

        Ok(())
    }

    pub(super) fn unlink(&mut self, one: &str, other: &str) -> Result<(), Code> {
        self.pair(one, other)?;
        for (one, other) in [(one, other), (other, one)] {
            self.links.remove(&(one.to_owned(), other.to_owned()));
        }

        Ok(())
    }

    /// Only whoever made both networks links or unlinks them.
    fn pair(&self, one: &str, other: &str) -> Result<(), Code> {
        self.known(one)?;
        self.known(other)?;
        if one == other {
            return Err(Code::InvalidInput);
        }
        self.change(one)?;

        self.change(other)
    }

    /// Only the admin's network has an endpoint, which is the admin's.
    pub(super) fn remove(&mut self, name: &str, force: bool) -> Result<(), Code> {
        match self.networks.get(name) {
            None => return Err(Code::NotFound),
            Some(false) => return Err(if force { Code::NotAllowed } else { Code::InUse }),
            Some(true) => {}
        }
        self.networks.remove(name);
        self.entered.remove(name);
        self.links.retain(|(one, other)| one != name && other != name);

        Ok(())
    }

    pub(super) fn enter(&mut self, name: &str) -> Result<(), Code> {
        self.known(name)?;
        self.entered.insert(name.to_owned());

        Ok(())
    }

    pub(super) fn known(&self, name: &str) -> Result<(), Code> {
        if self.networks.contains_key(name) { Ok(()) } else { Err(Code::NotFound) }
    }
}
