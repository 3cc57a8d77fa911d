//! `blockferry hub token`.

use std::io::{self, Write};

use anyhow::Context as _;
use blockferry_control::hub::{TokenFacts, TokenId, Tokens};
use serde_json::json;

use super::options::TokenOptions;
use crate::exit::{Exit, Refusal};
use crate::output::{line, print_json, rfc3339, table};

/// `blockferry hub token`.
///
/// # Errors
/// What kept it from being done, in one line.
pub(super) fn command(options: &TokenOptions) -> anyhow::Result<Exit> {
    let tokens = Tokens::of(&options.state.folder()?);
    if options.list {
        list(&tokens.list()?, options.json)?;
    } else if let Some(id) = &options.revoke {
        let id: TokenId = id.parse().map_err(|error| Refusal::usage(format!("{error}")))?;
        tokens.revoke(&id)?;
        line(&format!("token {id} opens nothing any more"));
    } else {
        add(&tokens, options.json)?;
    }
    Ok(Exit::Done)
}

/// The secret goes to standard output and nowhere else.
fn add(tokens: &Tokens, as_json: bool) -> anyhow::Result<()> {
    let token = tokens.add()?;
    let told = if as_json {
        print_json(&json!({ "id": token.id.to_string(), "token": token.secret }))
    } else {
        writeln!(io::stdout(), "{}", token.secret).context("writing to standard output")
    };
    if let Err(unwritten) = told {
        // Nobody has seen it.
        tokens.revoke(&token.id)?;
        return Err(unwritten);
    }
    let id = token.id;
    line(&format!("this is token {id}; it is not shown again, `--revoke {id}` takes it away"));
    Ok(())
}

fn list(tokens: &[TokenFacts], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let rows: Vec<_> = tokens
            .iter()
            .map(|token| json!({ "id": token.id.to_string(), "created_ms": token.created.get() }))
            .collect();
        return print_json(&json!({ "tokens": rows }));
    }
    let rows = tokens.iter().map(|token| vec![token.id.to_string(), rfc3339(token.created)]);
    writeln!(io::stdout(), "{}", table(&["id", "created"], rows))
        .context("writing to standard output")
}
