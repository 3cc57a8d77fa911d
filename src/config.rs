//! A file in place of options, for what runs as a service: `--config FILE`.
//!
//! ```text
//!  FILE (TOML) ──► a word for each key ──► before the words of the command line ──► clap
//! ```
//!
//! A key is the long name of an option, so that there is one list of what can be set, with one
//! meaning, one check and one page of help. What is wrong is told with its line.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, CommandFactory};
use toml::{Spanned, Value};

use crate::cli::Cli;
use crate::exit::Refusal;
use crate::hub::NamedFolder;

/// The option that names the file.
const OPTION: &str = "--config";
/// Bytes of such a file at most; there are some forty options.
const MAX_BYTES: u64 = 1 << 20;
/// Options that mean nothing in a file.
const NOT_IN_FILES: [&str; 3] = ["config", "help", "version"];

/// Words of a command line, some of which stand in a file.
#[derive(Debug)]
pub(crate) struct Configured {
    /// All of them.
    pub(crate) words: Vec<OsString>,
    path: PathBuf,
    text: String,
    /// Where each key of the file stands.
    places: BTreeMap<String, Range<usize>>,
}

/// A part of the file, and what is wrong with it.
struct Wrong {
    at: Option<Range<usize>>,
    what: String,
}

impl Configured {
    /// Reads the file that the words name; nothing where they name none.
    ///
    /// # Errors
    /// Wrong usage, in one line with the place of the first fault.
    pub(crate) fn of(words: &[OsString]) -> anyhow::Result<Option<Self>> {
        let [_program, group, name, rest @ ..] = words else { return Ok(None) };
        let command = Cli::command();
        let found = |command: &clap::Command, word: &OsStr| {
            command.find_subcommand(word).filter(|_| word.to_str().is_some()).cloned()
        };
        let command = found(&command, group).and_then(|command| found(&command, name));
        let Some(command) = command else { return Ok(None) };
        let takes_file = command.get_arguments().any(|arg| arg.get_long() == Some(&OPTION[2..]));
        let Some(path) = named(rest).filter(|_| takes_file) else { return Ok(None) };
        let shown = path.display();
        let text =
            read(&path).map_err(|error| Refusal::usage(format!("{OPTION} {shown}: {error}")))?;
        let mut configured =
            Self { words: words[..3].to_vec(), path, text, places: BTreeMap::new() };
        configured.take(&command).map_err(|wrong| configured.refusal(wrong))?;
        // Behind those of the file, over which they go.
        configured.words.extend_from_slice(rest);
        Ok(Some(configured))
    }

    /// What is wrong with an option, if it is one of the file and not of the command line.
    pub(crate) fn refused(&self, error: &clap::Error, typed: &[OsString]) -> Option<anyhow::Error> {
        let name = option_of(error)?;
        let is_typed = typed.iter().filter_map(|word| word.to_str()).any(|word| {
            word.strip_prefix("--").and_then(|word| word.split('=').next()) == Some(name)
        });
        let at = self.places.get(name).filter(|_| !is_typed)?.clone();
        Some(self.refusal(Wrong { at: Some(at), what: in_one_line(error) }))
    }

    /// Checks the file that a key names, where one does.
    ///
    /// # Errors
    /// Wrong usage, with the line of the key.
    pub(crate) fn check<E: std::fmt::Display>(
        &self,
        key: &str,
        path: Option<&Path>,
        check: impl FnOnce(&Path) -> Result<(), E>,
    ) -> anyhow::Result<()> {
        let (Some(at), Some(path)) = (self.places.get(key), path) else { return Ok(()) };
        check(path)
            .map_err(|error| self.refusal(Wrong { at: Some(at.clone()), what: error.to_string() }))
    }

    /// Makes a word of each key.
    fn take(&mut self, command: &clap::Command) -> Result<(), Wrong> {
        let keys: BTreeMap<Spanned<String>, Spanned<Value>> =
            toml::from_str(&self.text).map_err(|error| Wrong {
                at: error.span(),
                // It may have several lines.
                what: error.message().split_whitespace().collect::<Vec<_>>().join(" "),
            })?;
        let folder = self.path.parent().unwrap_or(Path::new("")).to_owned();
        // In the order of the file: the first fault is the one that is told.
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in keys {
            let at = key.span();
            let key = key.into_inner();
            let option = command
                .get_arguments()
                .find(|arg| arg.get_long() == Some(&key) && !NOT_IN_FILES.contains(&key.as_str()));
            let option = option.ok_or_else(|| Wrong {
                at: Some(at.clone()),
                what: format!(
                    "there is no key {key}; the keys are the long options of blockferry {}",
                    self.words[1..3]
                        .iter()
                        .map(|word| word.to_string_lossy())
                        .collect::<Vec<_>>()
                        .join(" ")
                ),
            })?;
            let span = value.span();
            let words = words(option, &key, value.into_inner(), &folder);
            self.words.extend(words.map_err(|what| Wrong { at: Some(span), what })?);
            self.places.insert(key, at);
        }
        Ok(())
    }

    fn refusal(&self, wrong: Wrong) -> anyhow::Error {
        let place = wrong.at.map_or_else(String::new, |at| {
            let before = &self.text[..self.text.floor_char_boundary(at.start)];
            format!("line {}: ", before.matches('\n').count() + 1)
        });
        Refusal::usage(format!("{}: {place}{}", self.path.display(), wrong.what))
    }
}

/// The long name of the option that an error is about.
pub(crate) fn option_of(error: &clap::Error) -> Option<&str> {
    let option = match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(option) => option,
        ContextValue::Strings(options) => options.first()?,
        _ => return None,
    };
    Some(option.split([' ', '=']).next()?.trim_start_matches("--"))
}

/// What an error says, without what is said of usage.
pub(crate) fn in_one_line(error: &clap::Error) -> String {
    let said = error.to_string();
    let said = said.lines().map(str::trim).take_while(|line| !line.is_empty());
    said.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned()
}

/// The text of a regular file that is not endless: who reads a pipe waits for whoever writes it.
fn read(path: &Path) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    let mut file = fs::File::open(path)?.take(MAX_BYTES + 1);
    file.read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
    }
    Ok(text)
}

/// The file that the words name; the last counts, as with all options.
fn named(words: &[OsString]) -> Option<PathBuf> {
    let mut named = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == OPTION {
            named = words.next().map(PathBuf::from);
        } else if let Some(path) = word.to_str().and_then(|word| word.strip_prefix("--config=")) {
            named = Some(path.into());
        }
    }
    named
}

/// A key as words of the command line, for the option that it sets.
pub(crate) fn words(
    option: &Arg,
    key: &str,
    value: Value,
    folder: &Path,
) -> Result<Vec<OsString>, String> {
    let name = option.get_long().unwrap_or(key);
    let one = |value: Value| -> Result<OsString, String> {
        let text = match value {
            Value::String(text) => text,
            Value::Integer(number) => number.to_string(),
            other => {
                return Err(format!("{key} is a text or a whole number, and not {}", kind(&other)));
            }
        };
        let mut word = OsString::from(format!("--{name}="));
        word.push(in_folder(option.get_value_parser(), &text, folder));
        Ok(word)
    };
    match (option.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(true)) => Ok(vec![format!("--{name}").into()]),
        (ArgAction::SetTrue, Value::Boolean(false)) => Ok(Vec::new()),
        (ArgAction::SetTrue, other) => {
            Err(format!("{key} is true or false, and not {}", kind(&other)))
        }
        (ArgAction::Append, Value::Array(values)) => values.into_iter().map(one).collect(),
        (_, value) => one(value).map(|word| vec![word]),
    }
}

/// Paths mean the same wherever the command is run from: they begin where the file is.
fn in_folder(parser: &ValueParser, text: &str, folder: &Path) -> OsString {
    if parser.type_id() == TypeId::of::<PathBuf>() {
        return folder.join(text).into();
    }
    if parser.type_id() == TypeId::of::<NamedFolder>()
        && let Ok(named) = text.parse::<NamedFolder>()
    {
        let mut word = OsString::from(format!("{}=", named.name));
        word.push(folder.join(named.folder));
        return word;
    }
    text.into()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a number",
        Value::Float(_) => "a number with a point",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(text: &str, typed: &[&str]) -> anyhow::Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hub.toml");
        fs::write(&path, text).unwrap();
        let mut words = vec!["blockferry", "hub", "serve", "--config", path.to_str().unwrap()];
        words.extend(typed);
        let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
        let configured = Configured::of(&words)?.unwrap();
        let matches = Cli::command().try_get_matches_from(&configured.words);
        if let Err(error) = matches {
            let typed: Vec<OsString> = typed.iter().map(OsString::from).collect();
            return Err(configured.refused(&error, &typed).unwrap_or_else(|| error.into()));
        }
        let root = format!("{}/", folder.path().display());
        let shown = configured.words[3..].iter();
        Ok(shown.map(|word| word.to_string_lossy().replace(&root, "DIR/")).collect())
    }

    fn refused(text: &str) -> String {
        let error = configured(text, &[]).unwrap_err().to_string();
        error.split_once("hub.toml: ").unwrap().1.to_owned()
    }

    #[test]
    fn a_key_is_an_option_whose_paths_begin_where_the_file_is() {
        let text = "state = 'state'\nlisten = '127.0.0.1:1'\nbeyond-loopback = false\nverbose = true\n\
                    repository = ['r', 'weekly=/w', 'x=y/z']\nnode-deadline = '1m'\n";
        let words = configured(text, &["--listen", "127.0.0.1:2"]).unwrap();
        let expected = [
            "--state=DIR/state",
            "--listen=127.0.0.1:1",
            "--verbose",
            "--repository=default=DIR/r",
            "--repository=weekly=/w",
            "--repository=x=DIR/y/z",
            "--node-deadline=1m",
            "--config",
            "DIR/hub.toml",
            "--listen",
            "127.0.0.1:2",
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, says) in [
            ("\nstaet = 'x'\n", "line 2: there is no key staet"),
            ("config = 'x'\n", "line 1: there is no key config"),
            ("state = 'x'\nstate = 'y'\n", "line 2: duplicate key"),
            (
                "state = 'x'\n\n[tunnel]\n",
                "line 3: tunnel is a text or a whole number, and not a table",
            ),
            ("state = \n", "line 1: "),
            (
                "state = 's'\nnone = 1\n",
                "line 2: there is no key none; the keys are the long options of blockferry hub serve",
            ),
            (
                "node-deadline = 4.5\n",
                "line 1: node-deadline is a text or a whole number, and not a number with a point",
            ),
            ("node-deadline = '0s'\n", "line 1: invalid value '0s'"),
            ("verbose = 'yes'\n", "line 1: verbose is true or false, and not a text"),
            ("state = true\n", "line 1: state is a text or a whole number, and not true or false"),
            ("\n\nlisten = 'here'\n", "line 3: invalid value 'here' for '--listen <ADDR>'"),
            ("ports = '5-1'\n", "line 1: invalid value '5-1' for '--ports <A-B>'"),
        ] {
            let error = refused(text);
            assert!(error.starts_with(says), "{text}: {error}");
            assert_eq!(error.lines().count(), 1);
        }
    }

    #[test]
    fn what_was_typed_is_not_blamed_on_the_file() {
        let error = configured("listen = '127.0.0.1:1'\n", &["--listen=here"]).unwrap_err();
        assert!(!error.to_string().contains("hub.toml"), "{error}");
    }
}
