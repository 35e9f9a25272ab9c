//! `overlayctl token`.

use std::time::Duration;

use clap::{Args, Subcommand};
use overlay_proto::{Code, Refusal, v1};
use serde::Serialize;

use super::Context;
use crate::args::{RoleArg, label};
use crate::failure::Outcome;
use crate::output::{Page, Report, labels};
use crate::time;
use crate::view::{Removed, TokenView, Tokens};

const CREATE_EXAMPLE: &str = "\
The line holds a secret that is shown only now. Standard output gets the line and nothing else.

Examples:
  overlayctl token create
  overlayctl token create --ttl 24h --uses 20 --label rack=7
  overlayctl token create | ssh host-b sudo overlayctl join -";
const LS_EXAMPLE: &str = "Example:\n  overlayctl token ls";
const RM_EXAMPLE: &str = "Example:\n  overlayctl token rm 0123456789abcdef";

/// Make, list and revoke the tokens by which hosts join
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    Create(Create),
    Ls(Ls),
    Rm(Rm),
}

/// Make a join line
#[derive(Debug, Args)]
#[command(after_help = CREATE_EXAMPLE)]
pub(crate) struct Create {
    /// How long it is good for
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = time::parse)]
    ttl: Duration,
    /// How many hosts it admits
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// What those hosts may ask of control
    #[arg(long, value_enum, default_value = "node")]
    role: RoleArg,
    /// A label that those hosts get; may be repeated
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
}

/// List the tokens, without their secrets
#[derive(Debug, Args)]
#[command(visible_alias = "list", after_help = LS_EXAMPLE)]
pub(crate) struct Ls {}

/// Revoke tokens; hosts that have joined stay
#[derive(Debug, Args)]
#[command(visible_alias = "revoke", after_help = RM_EXAMPLE)]
pub(crate) struct Rm {
    /// Their ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

/// A token with its secret.
#[derive(Serialize)]
pub(crate) struct Created {
    join: String,
    #[serde(flatten)]
    token: TokenView,
}

impl Report for Created {
    fn text(&self, _: Page) -> String {
        self.join.clone()
    }
}

impl Token {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Create(create) => create.run(context).await,
            Self::Ls(_) => {
                let tokens = context.agent().await?.list_tokens(v1::ListTokensRequest {}).await?;
                context.output.show(&Tokens::from(tokens))
            }
            Self::Rm(Rm { ids }) => {
                let mut agent = context.agent().await?;
                for id in &ids {
                    agent.revoke_token(v1::RevokeTokenRequest { id: id.clone() }).await?;
                }
                context.output.show(&Removed { removed: ids })
            }
        }
    }
}

impl Create {
    async fn run(self, context: &Context) -> Outcome {
        let request = v1::CreateTokenRequest {
            ttl_seconds: self.ttl.as_secs(),
            uses: self.uses,
            role: v1::Role::from(self.role).into(),
            labels: self.labels.into_iter().collect(),
        };
        let response = context.agent().await?.create_token(request).await?;
        let token = response.token.ok_or_else(|| Refusal::new(Code::Fault, "the answer holds no token"))?;
        let created = Created { join: response.join_line, token: token.into() };
        context.output.show(&created)?;
        let token = &created.token;
        context.output.step(format_args!(
            "for {} hosts as {}, labels {}; expires {}",
            token.uses,
            token.role,
            labels(&token.labels),
            time::deadline(crate::output::now(), token.expires_unix),
        ));

        Ok(())
    }
}
