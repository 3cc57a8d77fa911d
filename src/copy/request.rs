//! What was asked for, checked: nothing is opened, made or started here but the files that say
//! what to copy.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use blockferry_control::tunnel::TunnelSettings;
use blockferry_dataplane::digest::DigestAlgorithm;
use blockferry_dataplane::nbd::{Address, NbdUri, without_passwords};
use blockferry_dataplane::{Extent, LaneSettings, MoverSettings, PayloadChoice};

use super::apart::{self, file_id, file_key};
use super::beside::{areas, base, single_file};
use super::lanes_file;
use super::options::CopyOptions;
use super::settings::{lane_settings, mover_settings, wanted_tunnel};
use super::words::{self, Words};
use crate::exit::Refusal;
use crate::inherited::{Stream, is_closed};

/// Changed areas in memory at most, of all lanes together, at 16 bytes each. A longer list is
/// merged over its smallest gaps, which copies more and never less.
const MAX_AREAS: usize = 4 << 20;
/// Changed areas of one lane at most.
const MAX_LANE_AREAS: usize = 1 << 20;

/// An end of a lane, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// An NBD URI.
    Uri(Box<NbdUri>),
    /// A file of any kind.
    Path(PathBuf),
    /// A server to run.
    Command(Vec<OsString>),
    /// Standard input or output.
    Standard,
    /// `null:`.
    Null,
}

impl Place {
    /// Its name in messages: what the user wrote.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Uri(uri) => uri.to_string(),
            Self::Path(path) => path.display().to_string(),
            Self::Command(group) => words::shown(group),
            Self::Standard => "-".into(),
            Self::Null => "null:".into(),
        }
    }
}

/// A lane that was asked for.
#[derive(Debug)]
pub(crate) struct LaneRequest {
    pub(crate) source: Place,
    pub(crate) target: Place,
    pub(crate) settings: LaneSettings,
}

/// All that was asked for.
#[derive(Debug)]
pub(crate) struct CopyRequest {
    pub(crate) lanes: Vec<LaneRequest>,
    pub(crate) mover: MoverSettings,
    /// The way to the targets, where it is not a direct one.
    pub(crate) tunnel: Option<TunnelSettings>,
    /// Folders to make before the lanes start.
    pub(crate) folders: Vec<PathBuf>,
    /// What the user should know and that stops nothing.
    pub(crate) warnings: Vec<String>,
}

impl CopyRequest {
    /// Checks the options and reads the lists of lanes and areas.
    ///
    /// # Errors
    /// Wrong usage, in one line each.
    pub(crate) fn of(options: &CopyOptions, words: &Words) -> anyhow::Result<Self> {
        check_together(options)?;
        let mut lanes = Vec::new();
        match (&options.lanes, &options.source, &options.target) {
            (None, Some(source), Some(target)) => {
                let source = place(source, words)?;
                let target = place(target, words)?;
                check_pair(&source, &target)?;
                let mut settings = lane_settings(options);
                if let Some(path) = &options.changed {
                    settings.extent = Extent::Areas(areas(path, MAX_LANE_AREAS)?);
                }
                settings.source_bytes = options.source_size;
                settings.base = options.base_manifest.as_deref().map(base).transpose()?;
                settings.manifest = single_file("--manifest", options.manifest.as_deref())?;
                settings.journal = single_file("--resume", options.resume.as_deref())?;
                lanes.push(LaneRequest { source, target, settings });
            }
            (Some(path), None, None) => lanes = lanes_of_file(path, options)?,
            (Some(_), ..) => {
                return Err(Refusal::usage(
                    "--lanes names the sources and targets: take it or SOURCE TARGET",
                ));
            }
            (None, None, _) => {
                return Err(Refusal::usage(
                    "SOURCE and TARGET are missing; see blockferry copy --help",
                ));
            }
            (None, Some(_), None) => {
                return Err(Refusal::usage("TARGET is missing; see blockferry copy --help"));
            }
        }
        check_lanes(&lanes, options)?;
        apart::check(&lanes, options)?;
        let many = options.lanes.is_some();
        let folders = [&options.manifest, &options.resume].into_iter().flatten();
        Ok(Self {
            warnings: warnings(&lanes),
            lanes,
            mover: mover_settings(options)?,
            tunnel: wanted_tunnel(options)?,
            folders: folders.filter(|_| many).cloned().collect(),
        })
    }
}

fn check_together(options: &CopyOptions) -> anyhow::Result<()> {
    let digest = options.digest.0;
    let spliced = options.payload == PayloadChoice::Splice;
    let over_base = options.base_manifest.is_some();
    let refusal = if over_base && spliced {
        "--base-manifest has to look at the payload, which --payload splice does not: take auto \
         or pooled"
    } else if over_base && digest != Some(DigestAlgorithm::Blake3) {
        "--base-manifest decides by digests what is not written, and only those of blake3 will \
         do: add --digest blake3"
    } else if over_base && options.destination_is_zero {
        "--base-manifest says what the target holds, and --destination-is-zero that it holds \
         nothing: take one of them"
    } else if options.manifest.is_some() && digest.is_none() {
        "--manifest needs to know which digests to make: add --digest crc32c, xxh3 or blake3"
    } else if spliced && digest.is_some() {
        "--digest has to look at the payload, which --payload splice does not: take auto or pooled"
    } else if spliced && options.sparse.is_some_and(|size| size > 0) {
        "--sparse has to look at the payload, which --payload splice does not: take auto or pooled"
    } else {
        return Ok(());
    };
    Err(Refusal::usage(refusal))
}

/// What is wrong with two ends, whatever their options.
fn check_pair(source: &Place, target: &Place) -> anyhow::Result<()> {
    if *source == Place::Null {
        return Err(Refusal::usage(
            "null: is a target, and cannot be read; take a file or an export",
        ));
    }
    if let (Place::Path(from), Place::Path(to)) = (source, target)
        && let (Some(from), Some(to)) = (file_id(from), file_id(to))
        && from == to
    {
        // nbdcopy empties the file and calls that success.
        return Err(Refusal::usage(format!(
            "{} and {} are the same file, which the copy would empty",
            source.name(),
            target.name()
        )));
    }
    Ok(())
}

fn check_lanes(lanes: &[LaneRequest], options: &CopyOptions) -> anyhow::Result<()> {
    let uses = |wanted: fn(&Place) -> bool| {
        lanes.iter().any(|lane| wanted(&lane.source) || wanted(&lane.target))
    };
    if options.payload == PayloadChoice::Splice {
        let ends =
            lanes.iter().flat_map(|lane| [("source", &lane.source), ("target", &lane.target)]);
        for (side, place) in ends {
            let what = match place {
                Place::Uri(_) | Place::Command(_) | Place::Null => continue,
                Place::Path(_) => "a file or device",
                Place::Standard => "a stream",
            };
            return Err(Refusal::usage(format!(
                "--payload splice moves data between sockets, and the {side} {} is {what}: \
                 take auto or pooled",
                place.name()
            )));
        }
    }
    if options.tunnel.is_some() || options.node.is_some() {
        for lane in lanes {
            if !matches!(lane.target, Place::Uri(_)) {
                return Err(Refusal::usage(format!(
                    "a tunnel leads to NBD exports of the far end, and {} is none: write TARGET as \
                     an NBD URI",
                    lane.target.name()
                )));
            }
        }
    }
    let to_standard_output = lanes.iter().any(|lane| lane.target == Place::Standard);
    let from_standard_input = lanes.iter().any(|lane| lane.source == Place::Standard);
    let refusal = if from_standard_input && is_closed(Stream::Input) {
        "SOURCE - reads standard input, which is closed: give it a pipe or a file"
    } else if to_standard_output && is_closed(Stream::Output) {
        "TARGET - writes to standard output, which is closed: give it a pipe or a file"
    } else if options.json && is_closed(Stream::Output) {
        "--json prints to standard output, which is closed: give it a pipe or a file"
    } else if options.json && to_standard_output {
        "--json prints to standard output, where TARGET - puts the data: take a file as TARGET"
    } else if options.resume.is_some() && uses(|place| *place == Place::Standard) {
        "--resume cannot go on in a stream, which has no place to go back to: take a file"
    } else if options.source_size.is_some() && from_standard_input {
        "--source-size is about a source that is larger than its disk, and a stream ends where it \
         ends: leave it out"
    } else if options.base_manifest.is_some() && uses(|place| *place == Place::Standard) {
        "--base-manifest leaves out what is there already, and a stream has no place for that: \
         take a file"
    } else if options.server_stdio && !uses(|place| matches!(place, Place::Command(_))) {
        "--server-stdio is about [ COMMAND ... ], and there is none"
    } else {
        return Ok(());
    };
    Err(Refusal::usage(refusal))
}

fn place(word: &OsStr, words: &Words) -> anyhow::Result<Place> {
    if let Some(group) = words.group(word) {
        return Ok(Place::Command(group.to_vec()));
    }
    if word == "-" {
        return Ok(Place::Standard);
    }
    named_place(word).map_err(Refusal::usage)
}

/// What a word means that is neither `-` nor a group.
pub(crate) fn named_place(word: &OsStr) -> Result<Place, String> {
    let text = word.to_string_lossy();
    if text.is_empty() {
        return Err("an empty word is neither a file nor a URI".into());
    }
    if text == "null:" {
        return Ok(Place::Null);
    }
    if let Some(scheme) = other_scheme(&text) {
        return Err(format!(
            "{}: {scheme}:// is not spoken here; write nbd://HOST[:PORT]/EXPORT, or ./ before the \
             name of a file",
            without_passwords(&text)
        ));
    }
    if !looks_like_uri(&text) {
        return Ok(Place::Path(word.into()));
    }
    match text.parse::<NbdUri>() {
        Ok(uri) => Ok(Place::Uri(Box::new(uri))),
        Err(error) => Err(format!("{}: {error}", without_passwords(&text))),
    }
}

/// The scheme of a URI that is none of NBD. Taken for a file, it would be made as one.
fn other_scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    (is_scheme && !looks_like_uri(text)).then_some(scheme)
}

/// Whether the user can only have meant a URI: `nbd`, `nbds`, with or without a transport, and a
/// colon. A file of such a name is written with `./` in front.
fn looks_like_uri(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once(':') else {
        return false;
    };
    let scheme = scheme.to_ascii_lowercase();
    let (name, transport) = scheme.split_once('+').unwrap_or((&scheme, ""));
    matches!(name, "nbd" | "nbds") && transport.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn lanes_of_file(path: &Path, options: &CopyOptions) -> anyhow::Result<Vec<LaneRequest>> {
    for (option, folder) in [("--manifest", &options.manifest), ("--resume", &options.resume)] {
        if let Some(folder) = folder.as_deref().filter(|path| path.exists() && !path.is_dir()) {
            return Err(Refusal::usage(format!(
                "{option} takes a folder with --lanes, and {} is a file",
                folder.display()
            )));
        }
    }
    let lines = lanes_file::read(path)?;
    let shared = lane_settings(options);
    let max_areas = (MAX_AREAS / lines.len()).min(MAX_LANE_AREAS);
    let mut lanes = Vec::with_capacity(lines.len());
    let mut targets: HashMap<String, usize> = HashMap::new();
    let mut sources: HashMap<String, usize> = HashMap::new();
    for (index, line) in lines.into_iter().enumerate() {
        let at = |what: String| {
            Refusal::usage(format!("{}, line {}: {what}", path.display(), line.number))
        };
        let end = |word: &str| match word {
            "-" | "[" => Err(at("a lane of many is a file, a device, a URI or null:".into())),
            word => named_place(word.as_ref()).map_err(at),
        };
        let (source, target) = (end(&line.source)?, end(&line.target)?);
        check_pair(&source, &target).map_err(|error| at(error.to_string()))?;
        let (source_key, target_key) = (place_key(&source), place_key(&target));
        if let Some(first) = source_key.as_ref().and_then(|key| targets.get(key)) {
            let source = &line.source;
            return Err(at(format!("{source} is the target of line {first}, which overwrites it")));
        }
        if let Some(first) = target_key.as_ref().and_then(|key| sources.get(key)) {
            let target = &line.target;
            return Err(at(format!("{target} is the source of line {first}: it is not to change")));
        }
        if let Some(key) = target_key
            && let Some(first) = targets.insert(key, line.number)
        {
            let target = &line.target;
            return Err(at(format!("{target} is the target of line {first} already")));
        }
        // Many lanes may read one source.
        sources.extend(source_key.map(|key| (key, line.number)));
        let mut settings = shared.clone();
        if let Some(changed) = &line.changed {
            if options.bitmap.is_some() {
                return Err(at("\"changed\" and --bitmap both say what to copy".into()));
            }
            let list = areas(changed, max_areas).map_err(|error| at(error.to_string()))?;
            settings.extent = Extent::Areas(list);
        }
        let inside = |folder: &PathBuf, kind| folder.join(format!("{index}.{kind}"));
        settings.manifest = options.manifest.as_ref().map(|folder| inside(folder, "manifest"));
        settings.journal = options.resume.as_ref().map(|folder| inside(folder, "journal"));
        // Until all lanes are done, the same command finds those that are.
        settings.keep_journal = true;
        lanes.push(LaneRequest { source, target, settings });
    }
    Ok(lanes)
}

/// The same for two names of one place; `None` for what can be had any number of times.
fn place_key(place: &Place) -> Option<String> {
    match place {
        Place::Path(path) => file_key(path),
        // However the way to the export is encrypted.
        Place::Uri(uri) => Some(match &uri.address {
            Address::Tcp { host, port } => {
                format!("tcp {} {port} {}", host.to_ascii_lowercase(), uri.export)
            }
            Address::Unix { path } => {
                let path = path.canonicalize().or_else(|_| std::path::absolute(path));
                format!("unix {path:?} {}", uri.export)
            }
        }),
        Place::Command(_) | Place::Standard | Place::Null => None,
    }
}

fn warnings(lanes: &[LaneRequest]) -> Vec<String> {
    let ends = lanes.iter().flat_map(|lane| [&lane.source, &lane.target]);
    ends.filter_map(|end| match end {
        Place::Uri(uri) => {
            // Where TLS is asked for, pre-shared keys are refused by it.
            let refused = |name: &str| uri.tls && name == "tls-psk-file";
            let ignored: Vec<&str> =
                uri.ignored.iter().map(String::as_str).filter(|name| !refused(name)).collect();
            (!ignored.is_empty())
                .then(|| format!("{uri}: {} of the URI means nothing here", ignored.join(", ")))
        }
        _ => None,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nbd_schemes_are_uris() {
        for uri in
            ["nbd://h", "nbds://h", "nbd+unix:///?socket=s", "NBD://h", "nbd:h", "nbd+vsock://1"]
        {
            assert!(looks_like_uri(uri), "{uri}");
        }
        for file in ["http://h", "disk", "./nbd:x", "nbdx:y", "C:\\disk", "nbd", "", "nbd+x/y:z"] {
            assert!(!looks_like_uri(file), "{file}");
        }
    }

    #[test]
    fn uris_that_mean_the_same_have_the_same_key() {
        let key = |uri: &str| place_key(&named_place(uri.as_ref()).unwrap());
        assert_eq!(key("nbd://host/a"), key("NBD://host:10809/a"));
        assert_eq!(key("nbd://host/a"), key("nbds://me@HOST/a?tls-verify-peer=false"));
        assert_eq!(key("nbd+unix:///a?socket=s"), key("nbd+unix:///a?socket=./s"));
        assert_ne!(key("nbd://host/a"), key("nbd://host/b"));
    }
}
