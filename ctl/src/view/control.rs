//! Where a node looks for control.

use overlay_proto::v1;
use serde::Serialize;

use super::sample;
use crate::output::{Column, Page, Report, table};

/// One address of control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct ControlAddressView {
    address: String,
    source: String,
    in_use: bool,
}

impl From<v1::ControlAddress> for ControlAddressView {
    fn from(row: v1::ControlAddress) -> Self {
        Self { address: row.address, source: row.source, in_use: row.in_use }
    }
}

/// Addresses of control, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct ControlAddressList(Vec<ControlAddressView>);

impl From<v1::ListControlResponse> for ControlAddressList {
    fn from(response: v1::ListControlResponse) -> Self {
        Self(response.addresses.into_iter().map(Into::into).collect())
    }
}

const COLUMNS: [Column; 3] =
    [Column::left("ADDRESS"), Column::left("SOURCE").leaves(1), Column::left("IN USE")];

impl Report for ControlAddressList {
    fn text(&self, page: Page) -> String {
        let row = |row: &ControlAddressView| {
            let in_use = if row.in_use { "yes" } else { "-" };
            vec![row.address.clone().into(), row.source.clone().into(), in_use.into()]
        };

        table(page, &COLUMNS, &self.0.iter().map(row).collect::<Vec<_>>())
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.0.iter().map(|row| row.address.clone()).collect())
    }

    fn sample() -> Option<serde_json::Value> {
        sample(ControlAddressView::from(v1::ControlAddress::default()))
    }
}

/// What came of telling a node where control is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ControlSet {
    /// The addresses at which control answered.
    pub(crate) answered: Vec<String>,
}

impl Report for ControlSet {
    fn text(&self, _: Page) -> String {
        if self.answered.is_empty() {
            return "set; control answers at none of these addresses yet".to_owned();
        }

        format!("set; control answers at {}", self.answered.join(", "))
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.answered.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_tell_where_they_are_known_from_and_which_is_in_use() {
        let row = |address: &str, source: &str, in_use| v1::ControlAddress {
            address: address.to_owned(),
            source: source.to_owned(),
            in_use,
        };
        let addresses =
            vec![row("192.0.2.9:7443", "tunnel", true), row("192.0.2.1:7443", "join-line", false)];
        let view = ControlAddressList::from(v1::ListControlResponse { addresses });

        assert_eq!(
            view.text(Page { now: 0, width: None, wide: false }),
            "ADDRESS         SOURCE     IN USE\n192.0.2.9:7443  tunnel     yes\n192.0.2.1:7443  join-line  -"
        );
        let json = serde_json::to_value(&view).expect("JSON");
        assert_eq!(json[0]["in_use"], true);
    }
}
