//! A hub that does what a command asks for.

use std::fs;
use std::path::PathBuf;

use blockferry_control::client::{ClientError, HubAddress, HubClient};
use blockferry_control::hub::RepositoryName;
use clap::Args;

use crate::exit::{Exit, Refusal};

/// Has the token of a hub: it is not in what a process lists as its words.
const TOKEN_VARIABLE: &str = "BLOCKFERRY_TOKEN";
const HUB: &str = "A hub";

/// Which hub, and what opens it.
#[derive(Args, Debug)]
pub(crate) struct HubOption {
    /// Have the hub at this address do it, as http://HOST:PORT
    ///
    /// --repository is then the name of one of its repositories, and can be left out where it has
    /// but one.
    #[arg(long, value_name = "URL", help_heading = HUB)]
    pub(crate) hub: Option<HubAddress>,

    /// A file with the hub's token; without it $BLOCKFERRY_TOKEN has it
    #[arg(long, value_name = "FILE", requires = "hub", help_heading = HUB)]
    token_file: Option<PathBuf>,
}

impl HubOption {
    /// A client of the hub, if one was named.
    ///
    /// # Errors
    /// When there is no token.
    pub(crate) fn client(&self) -> anyhow::Result<Option<HubClient>> {
        let Some(address) = &self.hub else { return Ok(None) };
        let client = HubClient::new(address.clone(), &self.token()?);
        client.map(Some).map_err(|error| refusal(&error))
    }

    fn token(&self) -> anyhow::Result<String> {
        let token = match &self.token_file {
            Some(path) => fs::read_to_string(path).map_err(|error| {
                Refusal::usage(format!("cannot read the token in {}: {error}", path.display()))
            })?,
            None => std::env::var(TOKEN_VARIABLE).unwrap_or_default(),
        };
        match token.trim() {
            "" => Err(Refusal::usage(format!(
                "there is no token for the hub: name the file that has it with --token-file, or \
                 set {TOKEN_VARIABLE}; `blockferry hub token` makes one"
            ))),
            token => Ok(token.to_owned()),
        }
    }
}

/// What --repository is where a hub does the work.
///
/// # Errors
/// When it is no name.
pub(crate) fn repository_name(named: Option<&PathBuf>) -> anyhow::Result<Option<RepositoryName>> {
    let Some(named) = named else { return Ok(None) };
    let name = named.to_string_lossy().parse();
    name.map(Some).map_err(|rule: String| {
        Refusal::usage(format!(
            "--repository {}: with --hub it is the name of one of the hub's repositories: {rule}",
            named.display()
        ))
    })
}

/// The error, with its exit code.
pub(crate) fn refusal(error: &ClientError) -> anyhow::Error {
    let exit = match error {
        error if error.is_cancelled() => Exit::Interrupted,
        error => Exit::of_failure(error.failure()),
    };
    Refusal::of(exit, error.to_string())
}
