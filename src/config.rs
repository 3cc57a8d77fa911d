//! A file in place of options, for what runs as a service: `--config FILE`.
//!
//! ```text
//!  FILE (TOML) ──► a word for each key ──► before the words of the command line ──► clap
//! ```
//!
//! A key is the long name of an option, so that there is one list of what can be set, with one
//! meaning, one check and one page of help. What is wrong is told with its line: by clap, or by
//! whoever works with the value and says which option an error is about ([`About`](crate::exit::About)).

use std::any::TypeId;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, CommandFactory};
use toml::{Spanned, Value};

use crate::cli::Cli;
use crate::exit::{Exit, Refusal};
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
    /// How many of them were typed, behind those of the file.
    typed: usize,
    path: PathBuf,
    text: String,
    /// The keys of the file, in its order.
    keys: Vec<Key>,
}

/// A key of the file.
#[derive(Debug)]
struct Key {
    name: String,
    at: Range<usize>,
    /// What it is on a command line.
    words: Vec<OsString>,
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
            Self { words: words[..3].to_vec(), typed: rest.len(), path, text, keys: Vec::new() };
        configured.take(&command).map_err(|wrong| configured.refusal(Exit::Usage, wrong))?;
        let of_file = configured.keys.iter().flat_map(|key| key.words.clone());
        configured.words.extend(of_file);
        // Behind those of the file, over which they go.
        configured.words.extend_from_slice(rest);
        Ok(Some(configured))
    }

    /// What clap has against an option, if it is one of the file and not of the command line.
    pub(crate) fn refused(&self, error: &clap::Error) -> Option<anyhow::Error> {
        let options = options_of(error);
        let (key, what) = match error.kind() {
            ErrorKind::MissingRequiredArgument => {
                let key = self.key_that_needs(&options)?;
                let missing = options.join(", ");
                (key, format!("{} needs {missing} as well", key.name))
            }
            _ => (self.key_of([*options.first()?])?, in_one_line(error)),
        };
        Some(self.refusal(Exit::Usage, Wrong { at: Some(key.at.clone()), what }))
    }

    /// An error with the place of the value that it is about, if that stands in the file and not on
    /// the command line.
    pub(crate) fn placed(&self, error: anyhow::Error) -> anyhow::Error {
        let Some(refusal) = error.downcast_ref::<Refusal>() else { return error };
        let key = self.key_of(refusal.options().iter().map(String::as_str));
        let Some(key) = key else { return error };
        let what = format!("{error:#}");
        self.refusal(refusal.exit, Wrong { at: Some(key.at.clone()), what })
    }

    /// The first key of the file that is one of these options, and counts.
    fn key_of<'a>(&self, options: impl IntoIterator<Item = &'a str>) -> Option<&Key> {
        let options: Vec<_> = options.into_iter().collect();
        self.keys.iter().find(|key| options.contains(&key.name.as_str()) && !self.is_typed(key))
    }

    /// The key for which one of these options is missing. clap does not tell; but a key that is
    /// alone lacks all that it needs. What needs the least besides needs it itself.
    fn key_that_needs(&self, missing: &[&str]) -> Option<&Key> {
        let lacks = |key: &Key| {
            let words = self.words[..3].iter().chain(&key.words);
            let error = Cli::command().try_get_matches_from(words).err()?;
            let lacking = options_of(&error);
            let is_it = error.kind() == ErrorKind::MissingRequiredArgument
                && lacking.iter().any(|option| missing.contains(option));
            is_it.then_some(lacking.len())
        };
        let keys = self.keys.iter().filter(|key| !self.is_typed(key));
        let keys = keys.filter_map(|key| Some((lacks(key)?, key)));
        keys.min_by_key(|(count, _)| *count).map(|(_, key)| key)
    }

    fn is_typed(&self, key: &Key) -> bool {
        let typed = &self.words[self.words.len() - self.typed..];
        typed.iter().filter_map(|word| word.to_str()).any(|word| {
            word.strip_prefix("--").and_then(|word| word.split('=').next()) == Some(&key.name)
        })
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
            let words = words.map_err(|what| Wrong { at: Some(span), what })?;
            self.keys.push(Key { name: key, at, words });
        }
        Ok(())
    }

    fn refusal(&self, exit: Exit, wrong: Wrong) -> anyhow::Error {
        let place = wrong.at.map_or_else(String::new, |at| {
            let before = &self.text[..self.text.floor_char_boundary(at.start)];
            format!("line {}: ", before.matches('\n').count() + 1)
        });
        Refusal::of(exit, format!("{}: {place}{}", self.path.display(), wrong.what))
    }
}

/// The long name of the option that an error is about.
pub(crate) fn option_of(error: &clap::Error) -> Option<&str> {
    options_of(error).first().copied()
}

/// The long names of the options that an error is about.
fn options_of(error: &clap::Error) -> Vec<&str> {
    let options = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(option)) => std::slice::from_ref(option),
        Some(ContextValue::Strings(options)) => options,
        _ => &[],
    };
    let names = options.iter().filter_map(|option| option.split([' ', '=']).next());
    names.map(|name| name.trim_start_matches("--")).collect()
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
    use tempfile::TempDir;

    use super::*;
    use crate::exit::About;

    fn words_with(folder: &TempDir, group: &str, text: &str, typed: &[&str]) -> Vec<OsString> {
        let path = folder.path().join(format!("{group}.toml"));
        fs::write(&path, text).unwrap();
        let words = ["blockferry", group, "serve", "--config", path.to_str().unwrap()];
        words.iter().chain(typed).map(OsString::from).collect()
    }

    fn parsed(words: &[OsString]) -> anyhow::Result<Configured> {
        let configured = Configured::of(words)?.unwrap();
        match Cli::command().try_get_matches_from(&configured.words) {
            Ok(_) => Ok(configured),
            Err(error) => Err(configured.refused(&error).unwrap_or_else(|| error.into())),
        }
    }

    fn node(text: &str, typed: &[&str]) -> anyhow::Error {
        parsed(&words_with(&tempfile::tempdir().unwrap(), "node", text, typed)).unwrap_err()
    }

    fn configured(text: &str, typed: &[&str]) -> anyhow::Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let configured = parsed(&words_with(&folder, "hub", text, typed))?;
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
    fn what_a_key_needs_and_has_not_is_told_with_its_line() {
        let refused = |text: &str, typed: &[&str]| {
            let error = node(text, typed).to_string();
            error.split_once("node.toml: ").map(|(_, said)| said.to_owned())
        };
        let of = |text: &str| refused(text, &[]).unwrap();
        assert_eq!(
            of("json = true\ntunnel = 'ssh://h'\n"),
            "line 2: tunnel needs api-port, token-file as well"
        );
        // The identity lacks more than the tunnel does: it needs that one, which is there.
        let text = "identity = 'k'\ntunnel = 'ssh://h'\ntoken-file = 't'\n";
        assert_eq!(of(text), "line 2: tunnel needs api-port as well");
        assert!(of("\nidentity = 'k'\n").starts_with("line 2: identity needs "));
        assert_eq!(of("vcenter = 'v'\nvcenter-user = 'u'\n"), {
            "line 1: vcenter needs vcenter-password-file as well"
        });
        // What is typed is not the file's fault.
        assert_eq!(refused("json = true\n", &["--tunnel=ssh://h"]), None);
    }

    #[test]
    fn an_error_about_a_value_has_its_place_unless_the_value_was_typed() {
        let placed = |typed: &[&str], option: &str| {
            let folder = tempfile::tempdir().unwrap();
            let words = words_with(&folder, "hub", "\nstate = 's'\n", typed);
            let error = Err::<(), _>(anyhow::anyhow!("inner").context("outer")).about(option);
            let error = Configured::of(&words).unwrap().unwrap().placed(error.unwrap_err());
            format!("{error:#}").replace(&format!("{}/", folder.path().display()), "")
        };
        assert_eq!(placed(&[], "state"), "hub.toml: line 2: outer: inner");
        assert_eq!(placed(&[], "listen"), "outer: inner");
        assert_eq!(placed(&["--state", "t"], "state"), "outer: inner");
    }

    #[test]
    fn what_was_typed_is_not_blamed_on_the_file() {
        let error = configured("listen = '127.0.0.1:1'\n", &["--listen=here"]).unwrap_err();
        assert!(!error.to_string().contains("hub.toml"), "{error}");
    }
}
