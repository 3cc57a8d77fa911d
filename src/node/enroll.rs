//! `blockferry node enroll`.

use std::io::{self, Read};
use std::path::Path;

use anyhow::Context as _;
use blockferry_control::node::{NodeError, NodeFolder};
use blockferry_control::tunnel::{EnrollmentCode, TunnelAddress};
use serde_json::json;

use super::options::EnrollOptions;
use super::secret;
use crate::exit::{Exit, Refusal};
use crate::output::{line, print_json};

/// `blockferry node enroll`.
///
/// # Errors
/// What kept it from being done, in one line.
pub(super) fn command(options: &EnrollOptions) -> anyhow::Result<Exit> {
    let hub: TunnelAddress =
        options.hub.parse().map_err(|what| Refusal::usage(format!("--hub: {what}")))?;
    let folder = NodeFolder::at(&options.state.folder()?);
    let code = code(&options.code)?;
    let record = folder.enroll(&hub, &code, options.deadline).map_err(|error| match error {
        NodeError::Enroll(_) => Refusal::of(Exit::Target, error.to_string()),
        other => other.into(),
    })?;
    line(&format!("this machine is node {} of the hub at {}", record.name, record.hub));
    if options.json {
        print_json(&json!({ "node": record.name, "hub": record.hub }))?;
    }
    Ok(Exit::Done)
}

fn code(path: &Path) -> anyhow::Result<EnrollmentCode> {
    let (text, shown) = if path == Path::new("-") {
        let mut text = String::new();
        let read = io::stdin().lock().take(secret::MAX_BYTES).read_to_string(&mut text);
        read.context("reading the code from standard input")?;
        (text, "standard input".to_owned())
    } else {
        (secret::read("--code", path)?, path.display().to_string())
    };
    text.parse().map_err(|what| Refusal::usage(format!("{shown}: {what}")))
}
