//! Audit records, and what came of verifying them.

use overlay_core::instant::rfc3339;
use overlay_proto::audit::{AuditRecord, AuditRow, Head, Who};
use overlay_proto::{Code, Refusal};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{pairs, sample};
use crate::output::{Column, Page, Report, table};

/// One audit record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AuditView {
    pub(crate) number: u64,
    time: String,
    /// The name of the node, or who else it was.
    who: String,
    /// The id of the node, or of the token.
    id: Option<String>,
    role: Option<String>,
    certificate: Option<String>,
    from: Option<String>,
    what: String,
    which: String,
    revision: u64,
    rows: Vec<AuditRow>,
    omitted_rows: u64,
    details: Map<String, Value>,
}

impl AuditView {
    /// Reads a record; what cannot be read is shown as such.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        match serde_json::from_slice::<AuditRecord>(bytes) {
            Ok(record) => record.into(),
            Err(_) => Self::unreadable(),
        }
    }

    fn unreadable() -> Self {
        Self {
            number: 0,
            time: "-".to_owned(),
            who: "-".to_owned(),
            id: None,
            role: None,
            certificate: None,
            from: None,
            what: "altered".to_owned(),
            which: "this record cannot be read: `overlayctl audit verify`".to_owned(),
            revision: 0,
            rows: Vec::new(),
            omitted_rows: 0,
            details: Map::new(),
        }
    }
}

impl From<AuditRecord> for AuditView {
    fn from(record: AuditRecord) -> Self {
        let (time, which, who) = (record.time(), record.subject(), record.who.word());
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let (id, role, certificate) = match record.who {
            Who::Node { id, role, certificate, .. } => (Some(id), some(role), some(certificate)),
            Who::Token { id } => (Some(id), None, None),
            Who::Operator | Who::Control | Who::Stranger => (None, None, None),
        };

        Self {
            number: record.number,
            time,
            who,
            id,
            role,
            certificate,
            from: record.from.map(|address| address.to_string()),
            what: record.what,
            which,
            revision: record.revision,
            rows: record.rows,
            omitted_rows: record.omitted.map_or(0, |omitted| omitted.rows),
            details: record.details.into_iter().collect(),
        }
    }
}

fn dash(text: &Option<String>) -> String {
    text.clone().unwrap_or_else(|| "-".to_owned())
}

/// What came from another host does not move this terminal's cursor.
fn plain(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// A record that was just made.
impl Report for AuditView {
    fn text(&self, _: Page) -> String {
        let from = self.from.as_deref().unwrap_or("-");
        let line = format!(
            "{:>6}  {}  {}  {from}  {}  {}",
            self.number, self.time, self.who, self.what, self.which
        );

        plain(line.trim_end())
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(vec![self.number.to_string()])
    }
}

/// A listing of records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct AuditLog(pub(crate) Vec<AuditView>);

/// Number, who, what and which always stay.
const COLUMNS: [Column; 6] = [
    Column::right("NO"),
    Column::left("TIME").leaves(2),
    Column::name("WHO"),
    Column::left("FROM").leaves(1),
    Column::left("WHAT"),
    Column::prose("WHICH"),
];

impl Report for AuditLog {
    fn text(&self, page: Page) -> String {
        let row = |record: &AuditView| {
            vec![
                record.number.to_string().into(),
                record.time.clone().into(),
                record.who.clone().into(),
                dash(&record.from).into(),
                record.what.clone().into(),
                record.which.clone().into(),
            ]
        };

        table(page, &COLUMNS, &self.0.iter().map(row).collect::<Vec<_>>())
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.0.iter().map(|record| record.number.to_string()).collect())
    }

    fn sample() -> Option<Value> {
        sample(AuditView::unreadable())
    }
}

/// Records with all that they tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct AuditDetails(pub(crate) Vec<AuditView>);

impl Report for AuditDetails {
    fn text(&self, page: Page) -> String {
        let one = |record: &AuditView| record.details_text(page);

        self.0.iter().map(one).collect::<Vec<_>>().join("\n\n")
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.0.iter().map(|record| record.number.to_string()).collect())
    }

    fn sample() -> Option<Value> {
        sample(AuditView::unreadable())
    }
}

impl AuditView {
    fn details_text(&self, page: Page) -> String {
        let who = match (&self.id, &self.role) {
            (Some(id), Some(role)) => format!("{} ({role} {id})", self.who),
            (Some(id), None) => format!("{} ({id})", self.who),
            (None, _) => self.who.clone(),
        };
        let mut heads = vec![
            ("number", self.number.to_string()),
            ("time", self.time.clone()),
            ("who", who),
            ("certificate", dash(&self.certificate)),
            ("from", dash(&self.from)),
            ("what", self.what.clone()),
            ("which", self.which.clone()),
            ("revision", self.revision.to_string()),
        ];
        let details = self.details.iter().filter(|(key, _)| *key != "why");
        let told: Vec<_> = details.map(|(key, value)| (key.clone(), words(value))).collect();
        heads.extend(told.iter().map(|(key, text)| (key.as_str(), text.clone())));
        let mut text = pairs(page, &heads);
        for row in &self.rows {
            text.push_str(&row_text(row));
        }
        if self.omitted_rows > 0 {
            text.push_str(&format!("\n\nand {} rows more", self.omitted_rows));
        }

        text
    }
}

fn words(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Writes a row: what it is, then each field that differs.
fn row_text(row: &AuditRow) -> String {
    let what = match (&row.before, &row.after) {
        (None, _) => "made",
        (_, None) => "removed",
        (Some(_), Some(_)) => "changed",
    };
    let names = [("", &row.name), (" on ", &row.network), (" at ", &row.node)];
    let named =
        names.iter().filter_map(|(word, name)| Some(format!("{word}{}", (*name).as_ref()?)));
    let mut text = format!("\n\n{what} {} {}", row.row, plain(&named.collect::<String>()));
    text = format!("{} ({})", text.trim_end(), row.id).replace(" ()", "");
    for (sign, value) in [('-', &row.before), ('+', &row.after)] {
        match value {
            Some(Value::Object(fields)) => {
                for (key, value) in fields {
                    text.push_str(&plain_line(sign, &format!("{key}: {}", words(value))));
                }
            }
            Some(value) => text.push_str(&plain_line(sign, &words(value))),
            None => {}
        }
    }

    text
}

fn plain_line(sign: char, text: &str) -> String {
    format!("\n  {sign} {}", plain(text))
}

/// A log that is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct VerifiedAudit {
    records: u64,
    first: u64,
    last: u64,
    since: Option<String>,
    until: Option<String>,
    head: String,
    /// The number of the record that was noted, and is still the same.
    noted: Option<u64>,
}

impl VerifiedAudit {
    /// Describes a log that is whole.
    ///
    /// # Errors
    ///
    /// When the record that was noted is not kept any more.
    pub(crate) fn new(
        checkpoint: Head,
        head: Head,
        times: Option<(u64, u64)>,
        noted: Option<(Head, bool)>,
    ) -> Result<Self, Refusal> {
        let first = checkpoint.number + 1;
        if let Some((noted, false)) = noted {
            let text = format!(
                "record {} was noted and is not kept any more, so it cannot be told whether what \
                 was before it is the same; the log is whole from record {first} on: note the head \
                 more often (overlayctl audit verify -q)",
                noted.number
            );
            return Err(Refusal::new(Code::NotFound, text));
        }

        Ok(Self {
            records: head.number - checkpoint.number,
            first,
            last: head.number,
            since: times.map(|(first, _)| rfc3339(first)),
            until: times.map(|(_, last)| rfc3339(last)),
            head: head.to_string(),
            noted: noted.map(|(noted, _)| noted.number),
        })
    }
}

impl Report for VerifiedAudit {
    fn text(&self, page: Page) -> String {
        let mut rows = vec![
            ("whole", format!("records {} to {}", self.first, self.last)),
            ("since", dash(&self.since)),
            ("until", dash(&self.until)),
            ("head", self.head.clone()),
        ];
        if let Some(noted) = self.noted {
            rows.push(("noted", format!("record {noted} and all before it are what they were")));
        }

        pairs(page, &rows)
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(vec![self.head.clone()])
    }
}
