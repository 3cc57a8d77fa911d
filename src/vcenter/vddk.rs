//! Options of what serves a VM's disks: nbdkit, its plugin and VMware's library.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use blockferry_control::sources::vddk::{
    Compression, ExtraParameter, Settings, SourceError, VddkSource,
};
use clap::builder::{StringValueParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Args, Command};

use crate::exit::{About, Exit, Refusal};

const VDDK: &str = "How nbdkit reads its disks";
const NBDKIT: &str = "nbdkit";
const PLUGIN: &str = "vddk";
/// For private folders of nbdkit, where there is nothing better.
const RUNTIME: &str = "blockferry";

/// How disks are served.
#[derive(Args, Clone, Debug)]
pub(crate) struct VddkOptions {
    /// nbdkit, by name or path
    #[arg(long, value_name = "PROGRAM", default_value = NBDKIT, help_heading = VDDK)]
    nbdkit: OsString,

    /// Its plugin for VMware's disks, by name or path
    #[arg(long, value_name = "PLUGIN", default_value = PLUGIN, help_heading = VDDK)]
    vddk_plugin: OsString,

    /// The folder of VMware's library (VDDK), as it is unpacked
    #[arg(long, value_name = "DIR", help_heading = VDDK)]
    vddk_libdir: Option<PathBuf>,

    /// Ways to the disk in the order of preference, with colons between them
    #[arg(long, value_name = "LIST", help_heading = VDDK)]
    vddk_transports: Option<String>,

    /// How data is packed on its way, which takes the hosts CPU: none, zlib, fastlz or skipz
    #[arg(long, value_name = "KIND", default_value = "none", help_heading = VDDK)]
    vddk_compression: Compression,

    /// A further parameter of the plugin; once for each
    #[arg(long, value_name = "KEY=VALUE", value_parser = Unshown, help_heading = VDDK)]
    vddk_param: Vec<ExtraParameter>,

    #[command(flatten)]
    runtime: RuntimeOption,
}

/// Where sockets are.
#[derive(Args, Clone, Debug)]
pub(crate) struct RuntimeOption {
    /// A folder for sockets, with a short path; by default in $XDG_RUNTIME_DIR or /run
    #[arg(long, value_name = "DIR", help_heading = VDDK)]
    vddk_runtime: Option<PathBuf>,
}

/// A further parameter. Its refusal does not show the value, as it would by itself: that may be a
/// password.
#[derive(Clone, Debug)]
struct Unshown;

impl TypedValueParser for Unshown {
    type Value = ExtraParameter;

    fn parse_ref(
        &self,
        command: &Command,
        option: Option<&Arg>,
        value: &OsStr,
    ) -> Result<ExtraParameter, clap::Error> {
        let text = StringValueParser::new().parse_ref(command, option, value)?;
        text.parse().map_err(|error: SourceError| {
            let words = format!("--vddk-param: {error}\n");
            let mut refused = clap::Error::raw(ErrorKind::ValueValidation, words).with_cmd(command);
            if let Some(option) = option {
                let option = ContextValue::String(option.to_string());
                refused.insert(ContextKind::InvalidArg, option);
            }
            refused
        })
    }
}

impl VddkOptions {
    /// As settings, once all that they name was found: before anything is changed at a server.
    ///
    /// # Errors
    /// Wrong usage, or what of it cannot be told, which is a matter of this side.
    pub(crate) fn looked_at(&self, side: Exit) -> anyhow::Result<Settings> {
        let settings = self.settings()?;
        VddkSource::check(&settings).or_else(|error| {
            let exit = if error.is_wrong_request() { Exit::Usage } else { side };
            Err(Refusal::of(exit, error.to_string())).about_any(options_of(&error))
        })?;
        Ok(settings)
    }

    /// Whether nothing is said of it.
    pub(crate) fn is_plain(&self) -> bool {
        self.nbdkit == NBDKIT
            && self.vddk_plugin == PLUGIN
            && self.vddk_libdir.is_none()
            && self.vddk_transports.is_none()
            && self.vddk_compression == Compression::default()
            && self.vddk_param.is_empty()
            && self.runtime.vddk_runtime.is_none()
    }

    /// As settings.
    ///
    /// # Errors
    /// No folder for sockets.
    fn settings(&self) -> anyhow::Result<Settings> {
        let usual = Settings::new(self.runtime.folder()?);
        Ok(Settings {
            nbdkit: self.nbdkit.clone(),
            plugin: self.vddk_plugin.clone(),
            libdir: self.vddk_libdir.clone(),
            transports: self.vddk_transports.clone().unwrap_or(usual.transports.clone()),
            compression: self.vddk_compression,
            extra: self.vddk_param.clone(),
            ..usual
        })
    }
}

/// The options whose values an error is about.
fn options_of(error: &SourceError) -> Vec<String> {
    let option = match error {
        SourceError::ProgramMissing { .. }
        | SourceError::VersionUnknown { .. }
        | SourceError::TooOld { .. } => "nbdkit",
        SourceError::PluginMissing { .. } | SourceError::OtherPlugin { .. } => "vddk-plugin",
        SourceError::ParameterRefused { .. } => "vddk-param",
        SourceError::LibraryMissing { .. } => "vddk-libdir",
        SourceError::Folder { .. } | SourceError::SocketPath { .. } => "vddk-runtime",
        _ => return Vec::new(),
    };
    vec![option.to_owned()]
}

impl RuntimeOption {
    /// The folder, which need not be there.
    ///
    /// # Errors
    /// None was named, and this user has none.
    pub(crate) fn folder(&self) -> anyhow::Result<PathBuf> {
        if let Some(folder) = &self.vddk_runtime {
            return Ok(folder.clone());
        }
        if rustix::process::geteuid().is_root() {
            return Ok(PathBuf::from("/run").join(RUNTIME));
        }
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
        runtime.map(|folder| PathBuf::from(folder).join(RUNTIME)).ok_or_else(|| {
            Refusal::usage(
                "there is no $XDG_RUNTIME_DIR for the sockets of nbdkit: name a folder of your own \
                 with --vddk-runtime",
            )
        })
    }
}
