//! A kernel that is a map and rejects what the kernel rejects.

use std::net::IpAddr;

use ipnet::IpNet;

use super::converge::Kernel;
use super::error::KernelError;
use super::sysctl::{LINK_KEYS, NEIGHBOUR_FAMILIES, neighbour_retry};
use super::tables::{
    Actual, Address, Desired, Hop, LinkChange, LinkState, Route, RouteKey, Step, Sysctl,
};

/// One namespace's tables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fake {
    pub(crate) tables: Actual,
    /// How often everything was read back.
    pub(crate) lists: usize,
    next_index: u32,
}

/// The kernel's answer, an error number.
pub(crate) type Answer = Result<(), i32>;

impl Fake {
    /// Plugs a link in, down and with default parameters.
    pub(crate) fn plug(&mut self, name: &str, kind: &str) {
        self.next_index += 1;
        let link = LinkState {
            index: self.next_index,
            up: false,
            mtu: 1500,
            queue_len: 500,
            kind: kind.to_owned(),
            peer: None,
            group: 0,
        };
        self.tables.links.insert(name.to_owned(), link);
        for family in NEIGHBOUR_FAMILIES {
            self.tables.sysctls.insert(neighbour_retry(family, name), "default".to_owned());
        }
        for (family, key) in LINK_KEYS {
            self.tables.sysctls.insert(Sysctl::link(family, name, key), "default".to_owned());
        }
    }

    /// Takes a step or refuses it.
    pub(crate) fn take(&mut self, step: &Step) -> Answer {
        match step {
            Step::SetSysctl(sysctl, value) => {
                *self.tables.sysctls.get_mut(sysctl).ok_or(libc::ENOENT)? = value.clone();
                Ok(())
            }
            Step::AddRule(rule) => {
                self.tables.rules.insert(rule.clone()).then_some(()).ok_or(libc::EEXIST)
            }
            Step::RemoveRule(rule) => {
                self.tables.rules.remove(rule).then_some(()).ok_or(libc::ENOENT)
            }
            Step::SetLink(name, change) => self.set_link(name, *change),
            Step::RemoveLink(name) => self.remove_link(name),
            Step::AddAddress(address) => self.add_address(address),
            Step::RemoveAddress(address) => {
                self.tables.addresses.remove(address).then_some(()).ok_or(libc::EADDRNOTAVAIL)
            }
            Step::SetRoute(key, hop) => self.set_route(*key, hop),
            Step::RemoveRoute(key) => self.tables.routes.remove(key).map(drop).ok_or(libc::ESRCH),
            Step::MakeTun(_) | Step::Pin(_) | Step::MakeVeth(_) => Err(libc::EOPNOTSUPP),
        }
    }

    fn set_link(&mut self, name: &str, change: LinkChange) -> Answer {
        let link = self.tables.links.get_mut(name).ok_or(libc::ENODEV)?;
        match change {
            LinkChange::Mtu(mtu) => link.mtu = mtu,
            LinkChange::QueueLen(len) => link.queue_len = len,
            LinkChange::Up => link.up = true,
            LinkChange::Group(group) => link.group = group,
        }

        Ok(())
    }

    fn remove_link(&mut self, name: &str) -> Answer {
        self.tables.links.remove(name).ok_or(libc::ENODEV)?;
        self.tables.addresses.retain(|address| address.link != name);
        self.tables.routes.retain(|_, route| route.hop.link() != Some(name));
        self.tables.sysctls.retain(|sysctl, _| sysctl.link.as_deref() != Some(name));

        Ok(())
    }

    fn add_address(&mut self, address: &Address) -> Answer {
        let Address { link, address: ip } = address;
        if !self.tables.links.contains_key(link) {
            return Err(libc::ENODEV);
        }
        if matches!(ip, IpNet::V6(_))
            && self.parameter(&Sysctl::link("ipv6", link, "disable_ipv6")) == Some("1")
        {
            return Err(libc::EACCES);
        }
        let same = |other: &Address| {
            other == address
                || (matches!(ip, IpNet::V6(_))
                    && other.link == *link
                    && other.address.addr() == ip.addr())
        };
        if self.tables.addresses.iter().any(same) {
            return Err(libc::EEXIST);
        }
        self.tables.addresses.insert(address.clone());

        Ok(())
    }

    fn set_route(&mut self, key: RouteKey, hop: &Hop) -> Answer {
        if let Some(link) = hop.link() {
            let link = self.tables.links.get(link).ok_or(libc::ENODEV)?;
            if !link.up {
                return Err(libc::ENETDOWN);
            }
        }
        if let Hop::Via(link, gateway) = hop
            && !self.is_neighbour(link, *gateway)
        {
            return Err(libc::ENETUNREACH);
        }
        self.tables.routes.insert(key, Route { hop: hop.clone(), ours: true });

        Ok(())
    }

    fn is_neighbour(&self, link: &str, gateway: IpAddr) -> bool {
        let link_local = matches!(gateway, IpAddr::V6(ip) if ip.is_unicast_link_local());

        link_local
            || self.tables.routes.iter().any(|(key, route)| {
                key.prefix.contains(&gateway) && matches!(&route.hop, Hop::Link(l) if l == link)
            })
    }

    fn parameter(&self, sysctl: &Sysctl) -> Option<&str> {
        self.tables.sysctls.get(sysctl).map(String::as_str)
    }
}

impl Kernel for Fake {
    async fn list(&mut self, _desired: &Desired) -> Result<Actual, KernelError> {
        self.lists += 1;

        Ok(self.tables.clone())
    }

    async fn write(
        &mut self,
        parameters: &[(Sysctl, String)],
    ) -> Result<Vec<Result<(), KernelError>>, KernelError> {
        let mut written = Vec::new();
        for (sysctl, value) in parameters {
            written.push(self.perform(&Step::SetSysctl(sysctl.clone(), value.clone())).await);
        }

        Ok(written)
    }

    async fn perform(&mut self, step: &Step) -> Result<(), KernelError> {
        self.take(step).map_err(|errno| KernelError::Refused {
            action: "do",
            object: step.to_string(),
            namespace: "fake".to_owned(),
            source: std::io::Error::from_raw_os_error(errno),
        })
    }

    async fn settle(&mut self, _done: &[Step]) -> Result<(), KernelError> {
        Ok(())
    }
}
