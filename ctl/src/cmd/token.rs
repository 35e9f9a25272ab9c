//! `overlayctl token`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use overlay_proto::{Code, Refusal, v1};
use serde::Serialize;

use super::Context;
use crate::failure::Outcome;
use crate::output::{ListArgs, Page, Report, labels};
use crate::time;
use crate::values::{label, number};
use crate::view::{TokenView, Tokens};

const CREATE_EXAMPLE: &str = "\
The line holds a secret that is shown only now. Standard output gets the line and nothing else.

Examples:
  overlayctl token create
  overlayctl token create --ttl 24h --uses 20 --label rack=7
  overlayctl token create --role worker --label role=db
  overlayctl token create | ssh host-b sudo overlayctl join -";
const TOKEN_EXAMPLE: &str = "\
Examples:
  overlayctl token create --ttl 24h --uses 20
  overlayctl token                                    the same as `token ls`
  overlayctl token rm 0123456789abcdef";
const LS_EXAMPLE: &str = "\
Examples:
  overlayctl token ls
  overlayctl token ls --format '{{.ID}} {{.Used}}/{{.Uses}}'";
const RM_EXAMPLE: &str = "\
Examples:
  overlayctl token rm 0123456789abcdef
  overlayctl token rm $(overlayctl token ls -q)       all of them";

/// What a node may ask of control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleArg {
    /// its own endpoints, and networks: it makes and removes them, and says who may enter its own
    Node,
    /// its own endpoints, and no networks: those that others made it uses
    Worker,
    /// everything: tokens and other nodes too
    Admin,
}

impl From<RoleArg> for v1::Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Node => Self::Node,
            RoleArg::Worker => Self::Worker,
            RoleArg::Admin => Self::Admin,
        }
    }
}

/// Make, list and revoke the tokens by which hosts join
#[derive(Debug, Args)]
#[command(visible_alias = "tokens", args_conflicts_with_subcommands = true, after_help = TOKEN_EXAMPLE)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: Option<Token>,
    #[command(flatten)]
    list: ListArgs,
}

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
enum Token {
    Create(Create),
    Ls(Ls),
    Rm(Rm),
}

/// Make a join line
#[derive(Debug, Args)]
#[command(after_help = CREATE_EXAMPLE)]
struct Create {
    /// How long it is good for
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = time::parse)]
    ttl: Duration,
    /// How many hosts it admits
    #[arg(long, default_value = "1", value_parser = |text: &str| number(text, 1, 1_000_000))]
    uses: u32,
    /// What those hosts may ask of control
    #[arg(long, value_enum, default_value = "node")]
    role: RoleArg,
    /// A label that those hosts get, for --nodes of networks; may be repeated
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
}

/// List the tokens, without their secrets
#[derive(Debug, Args)]
#[command(visible_alias = "list", after_help = LS_EXAMPLE)]
struct Ls {
    #[command(flatten)]
    list: ListArgs,
}

/// Revoke tokens; hosts that have joined stay
#[derive(Debug, Args)]
#[command(visible_aliases = ["revoke", "remove"], after_help = RM_EXAMPLE)]
struct Rm {
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

    fn names(&self) -> Option<Vec<String>> {
        Some(vec![self.token.id.clone()])
    }

    fn ids(&self) -> Option<Vec<String>> {
        Some(vec![self.join.clone()])
    }
}

impl TokenArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self.command.unwrap_or(Token::Ls(Ls { list: self.list })) {
            Token::Create(create) => create.run(context).await,
            Token::Ls(Ls { list }) => {
                let tokens = async || {
                    Ok(Tokens::from(
                        context.agent().await?.list_tokens(v1::ListTokensRequest {}).await?,
                    ))
                };
                context.list(&list, tokens).await
            }
            Token::Rm(Rm { ids }) => {
                let mut agent = context.agent().await?;
                let revoke = async |id: &str| {
                    agent.revoke_token(v1::RevokeTokenRequest { id: id.to_owned() }).await.map(drop)
                };
                context.remove_each(ids, revoke).await
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
        let token =
            response.token.ok_or_else(|| Refusal::new(Code::Fault, "the answer holds no token"))?;
        let created = Created { join: response.join_line, token: token.into() };
        context.output.show(&created)?;
        let token = &created.token;
        context.output.step(format_args!(
            "for {} as {}, labels {}; expires {}",
            if token.uses == 1 { "1 host".to_owned() } else { format!("{} hosts", token.uses) },
            token.role,
            labels(&token.labels),
            time::deadline(crate::output::now(), token.expires_unix),
        ));

        Ok(())
    }
}
