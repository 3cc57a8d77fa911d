//! The vCenters of the file. A key of one is the option that `backup` has for it, without the word
//! vcenter: so there is one list of what can be set, with one meaning and one check.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::{Arg, CommandFactory, FromArgMatches};
use toml::{Spanned, Value};

use super::file::Wrong;
use crate::config::{in_one_line, option_of, words};
use crate::vcenter::{VcenterOptions, VcenterSession};

/// A table of the file: its keys, in whatever order.
pub(super) type Table = BTreeMap<Spanned<String>, Spanned<Value>>;

/// The key that is no option: what VMs call it.
const NAME: &str = "name";
/// The key of the option that names the server.
const SERVER: &str = "server";
/// Keys that no server does without.
const NEEDED: [&str; 3] = [SERVER, "user", "password-file"];

/// A vCenter of the file. Nobody is asked before a VM is sought there.
#[derive(Clone, Debug)]
pub(super) struct Vcenter {
    /// What VMs call it: its own name, or that of its server.
    pub(super) name: String,
    pub(super) session: Arc<VcenterSession>,
}

/// The key of an option.
fn key_of(option: &Arg) -> Option<&str> {
    match option.get_long()? {
        "vcenter" => Some(SERVER),
        long => Some(long.strip_prefix("vcenter-").unwrap_or(long)),
    }
}

impl Vcenter {
    /// Of a table. Paths in it begin in `folder`.
    pub(super) fn of(table: Spanned<Table>, folder: &Path) -> Result<Self, Wrong> {
        let at = table.span();
        let command = VcenterOptions::command();
        // In the order of the file: the first fault is the one that is told.
        let mut keys: Vec<_> = table.into_inner().into_iter().collect();
        keys.sort_by_key(|(key, _)| key.span().start);
        let mut places: BTreeMap<String, Range<usize>> = BTreeMap::new();
        let (mut name, mut typed) = (None, Vec::new());
        for (key, value) in keys {
            let (at, value_at) = (key.span(), value.span());
            let key = key.into_inner();
            if key == NAME {
                name = Some(name_of(value.into_inner()).map_err(|what| wrong(value_at, what))?);
                continue;
            }
            let option =
                command.get_arguments().find(|option| key_of(option) == Some(key.as_str()));
            let option = option.ok_or_else(|| wrong(at, unknown(&key, &command)))?;
            let words = words(option, &key, value.into_inner(), folder);
            typed.extend(words.map_err(|what| wrong(value_at.clone(), what))?);
            places.insert(key, value_at);
        }
        if let Some(missing) = NEEDED.iter().find(|key| !places.contains_key(**key)) {
            return Err(wrong(at, format!("missing field `{missing}`")));
        }
        let options = command
            .clone()
            .try_get_matches_from(typed)
            .and_then(|matches| VcenterOptions::from_arg_matches(&matches))
            .map_err(|error| refused(&error, &command, &places, at.clone()))?;
        let server_at = places[SERVER].clone();
        options.server.address().map_err(|what| wrong(server_at, what))?;
        if !["thumbprint", "ca"].iter().any(|key| places.contains_key(*key)) {
            let what = format!(
                "by what is {} known? give it a `thumbprint`, or a `ca`",
                options.server.name()
            );
            return Err(wrong(at, what));
        }
        Ok(Self {
            name: name.unwrap_or_else(|| options.server.name()),
            session: Arc::new(VcenterSession::new(options)),
        })
    }
}

fn wrong(at: Range<usize>, what: impl Into<String>) -> Wrong {
    Wrong { at: Some(at), what: what.into() }
}

fn name_of(value: Value) -> Result<String, &'static str> {
    match value {
        Value::String(name) if !name.trim().is_empty() => Ok(name),
        _ => Err("a name is a text that is not empty"),
    }
}

fn unknown(key: &str, command: &clap::Command) -> String {
    let known: Vec<String> = [NAME]
        .into_iter()
        .chain(command.get_arguments().filter_map(key_of))
        .map(|key| format!("`{key}`"))
        .collect();
    format!("unknown field `{key}`, expected one of {}", known.join(", "))
}

/// What is wrong with a value, at its place.
fn refused(
    error: &clap::Error,
    command: &clap::Command,
    places: &BTreeMap<String, Range<usize>>,
    table: Range<usize>,
) -> Wrong {
    let named = option_of(error);
    let option = command.get_arguments().find(|option| option.get_long() == named);
    let at = option.and_then(key_of).and_then(|key| places.get(key));
    let at = at.cloned().unwrap_or(table);
    let source = std::error::Error::source(error);
    match (error.kind(), source) {
        // By itself, the option that is none here is named.
        (ErrorKind::ValueValidation, Some(source)) => wrong(at, source.to_string()),
        (ErrorKind::ArgumentConflict, _) => {
            wrong(at, "a server is known by its `thumbprint` or by its `ca`; give one of them")
        }
        _ => wrong(at, in_one_line(error)),
    }
}
