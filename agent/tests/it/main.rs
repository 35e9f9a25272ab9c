//! The agent as a program: started, asked, misused, stopped. No cluster and no privilege is needed.

mod harness;
mod hostile;
mod starting;
mod unjoined;
