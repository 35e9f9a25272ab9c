//! Docker networks across hosts: on two real engines, with the commands that people type.

mod boot;
mod firewall;
mod hostile;
mod life;
mod lost;
mod names;
mod networks;
mod pair;
mod prefixes;
mod protocol;
mod removal;
mod settings;
mod slow;
mod span;
mod speed;
mod upgrade;
mod way_out;

pub(super) use boot::run as boot;
pub(super) use firewall::run as firewall;
pub(super) use hostile::run as hostile;
pub(super) use life::{churn, kills};
pub(super) use lost::run as lost;
pub(super) use names::run as names;
pub(super) use networks::run as networks;
pub(super) use prefixes::run as prefixes;
pub(super) use protocol::run as protocol;
pub(super) use removal::run as removal;
pub(super) use settings::run as settings;
pub(super) use slow::{STAGES as SLOW_STAGES, run as slow};
pub use span::FIRST_HOUR;
pub(super) use span::run as span;
pub(super) use speed::run as speed;
pub(super) use upgrade::run as upgrade;
pub(super) use way_out::run as way_out;
