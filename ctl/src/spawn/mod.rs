//! Starts, awaits and ends control and the agent: under systemd where it runs the host, else as
//! background processes.

mod background;
mod control_user;
mod door;
mod foreground;
mod init_system;
mod last_words;
mod launch;
mod manner;
mod notify;
mod options;
mod pause;
mod program;
mod running;
mod start;
mod started;
mod stop;
mod supervise;
mod systemd;
mod units;

pub(crate) use launch::Launch;
pub(crate) use manner::{Manner, log_place};
pub(crate) use options::{AgentOptions, ControlOptions, ServiceOptions};
pub(crate) use pause::{is_unit, pause};
pub(crate) use program::find as find_program;
pub(crate) use running::runs;
pub(crate) use started::{Origin, Started};
pub(crate) use stop::stop;
pub(crate) use supervise::{Ending, supervise};
