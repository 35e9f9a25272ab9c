//! Conversion of the links between networks.

use overlay_core::network::{MAX_GATEWAYS, MAX_LINKS};
use overlay_core::{LinkAccess, NetworkLink};

use super::error::ConversionError;
use super::field::{bounded, field, fields, wire_enum};
use super::network::{network_prefix, network_prefix6};
use crate::v1;

impl From<LinkAccess> for v1::LinkAccess {
    fn from(access: LinkAccess) -> Self {
        match access {
            LinkAccess::Defaults => Self::Defaults,
            LinkAccess::PolicyOnly => Self::PolicyOnly,
        }
    }
}

/// Converts what passes over a link.
///
/// # Errors
///
/// [`ConversionError::Missing`] for a value that this build does not know.
pub fn link_access(number: i32) -> Result<LinkAccess, ConversionError> {
    match wire_enum::<v1::LinkAccess>(number) {
        v1::LinkAccess::Defaults => Ok(LinkAccess::Defaults),
        v1::LinkAccess::PolicyOnly => Ok(LinkAccess::PolicyOnly),
        v1::LinkAccess::Unspecified => Err(ConversionError::Missing("link.access")),
    }
}

impl From<NetworkLink> for v1::NetworkLink {
    fn from(link: NetworkLink) -> Self {
        Self {
            network: link.network.to_string(),
            name: link.name.to_string(),
            prefix: link.prefix.to_string(),
            prefix6: link.prefix6.map(|prefix| prefix.to_string()).unwrap_or_default(),
            access: v1::LinkAccess::from(link.access).into(),
            gateways: link.gateways.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Converts the links of a network.
pub(super) fn links(links: Vec<v1::NetworkLink>) -> Result<Vec<NetworkLink>, ConversionError> {
    bounded("links", links.len(), MAX_LINKS)?;

    links.into_iter().map(TryInto::try_into).collect()
}

impl TryFrom<v1::NetworkLink> for NetworkLink {
    type Error = ConversionError;

    fn try_from(link: v1::NetworkLink) -> Result<Self, ConversionError> {
        Ok(Self {
            network: field("link.network", &link.network)?,
            name: field("link.name", &link.name)?,
            prefix: network_prefix(&link.prefix)?,
            prefix6: network_prefix6(&link.prefix6)?,
            access: link_access(link.access)?,
            gateways: fields("link.gateways", &link.gateways, MAX_GATEWAYS)?,
        })
    }
}
