//! Join tokens, without their secrets.

use std::collections::BTreeMap;

use overlay_proto::v1;
use serde::Serialize;

use super::{role, sample};
use crate::output::{Cell, Column, Page, Report, table};
use crate::time;

/// One join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TokenView {
    pub(crate) id: String,
    pub(crate) role: &'static str,
    pub(crate) uses: u32,
    pub(crate) used: u32,
    pub(crate) expires: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether it admits nobody, because control was restored after it was made.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) fenced: bool,
    #[serde(skip)]
    pub(crate) expires_unix: u64,
}

impl From<v1::Token> for TokenView {
    fn from(token: v1::Token) -> Self {
        Self {
            id: token.id,
            role: role(token.role),
            uses: token.uses,
            used: token.used,
            expires: time::utc(token.expires_unix),
            labels: token.labels,
            fenced: token.fenced,
            expires_unix: token.expires_unix,
        }
    }
}

/// A listing of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Tokens(Vec<TokenView>);

impl From<v1::ListTokensResponse> for Tokens {
    fn from(response: v1::ListTokensResponse) -> Self {
        let mut rows: Vec<TokenView> = response.tokens.into_iter().map(Into::into).collect();
        rows.sort_by(|a, b| (a.expires_unix, &a.id).cmp(&(b.expires_unix, &b.id)));

        Self(rows)
    }
}

/// Id, uses and end always stay.
const COLUMNS: [Column; 5] = [
    Column::left("ID"),
    Column::left("ROLE").leaves(2),
    Column::left("USED"),
    Column::left("EXPIRES"),
    Column::left("LABELS").leaves(1),
];

impl Report for Tokens {
    fn text(&self, page: Page) -> String {
        let row = |t: &TokenView| {
            vec![
                t.id.clone().into(),
                t.role.into(),
                format!("{} of {}", t.used, t.uses).into(),
                if t.fenced {
                    "fenced".into()
                } else {
                    time::deadline(page.now, t.expires_unix).into()
                },
                Cell::labels(&t.labels),
            ]
        };

        table(page, &COLUMNS, &self.0.iter().map(row).collect::<Vec<_>>())
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.0.iter().map(|token| token.id.clone()).collect())
    }

    fn sample() -> Option<serde_json::Value> {
        sample(TokenView::from(v1::Token::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_tell_what_is_left_of_them() {
        let token = v1::Token {
            id: "01".into(),
            expires_unix: 3_700,
            uses: 3,
            used: 1,
            role: v1::Role::Admin.into(),
            labels: BTreeMap::from([("rack".into(), "2".into())]),
            fenced: false,
        };

        let tokens = Tokens::from(v1::ListTokensResponse { tokens: vec![token] });

        assert_eq!(
            tokens.text(Page { now: 100, width: None, wide: false }),
            "ID  ROLE   USED    EXPIRES  LABELS\n01  admin  1 of 3  in 1 h   rack=2"
        );
        assert_eq!(
            serde_json::to_value(tokens).expect("JSON"),
            serde_json::json!([{
                "id": "01", "role": "admin", "uses": 3, "used": 1, "expires": "1970-01-01T01:01:40Z",
                "labels": {"rack": "2"},
            }])
        );
    }
}
