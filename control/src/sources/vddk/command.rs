//! The command line of nbdkit.

use std::ffi::OsString;
use std::path::Path;

use super::settings::{Access, Credentials, Disk, Settings};
use super::version::NbdkitVersion;
use crate::child::{Launch, SECRET_DESCRIPTOR};

/// All that is handed on of our environment. `LD_LIBRARY_PATH` is the plugin's to set, and whatever
/// else there is may be a secret, such as the password that we were given.
pub(super) const ENVIRONMENT: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ"];

/// nbdkit for a disk, with its password to come by a pipe.
pub(super) fn launch(
    settings: &Settings,
    disk: &Disk,
    credentials: &Credentials,
    version: NbdkitVersion,
    socket: &Path,
) -> Launch {
    let mut launch = Launch::new(&settings.nbdkit);
    launch.only_env(ENVIRONMENT);
    // Its words are sorted by what they say; names of files are in UTF-8, as the server has them.
    launch.env("LC_ALL", "C.UTF-8");
    if let Access::Snapshot { .. } = disk.access {
        launch.arg("-r");
    }
    launch.args(["-f", "--exit-with-parent", "-U"]).arg(socket);
    if version.one_request_at_a_time().is_some() {
        launch.arg("--threads=1");
    }
    launch.arg(&settings.plugin);
    launch.arg(format!("password=-{SECRET_DESCRIPTOR}"));
    let Credentials { server, user, thumbprint, .. } = credentials;
    add_parameters(&mut launch, settings, disk, [server, user, thumbprint]);
    launch
}

/// nbdkit that tells of its plugin when that has taken all parameters of a disk but the password,
/// and ends. The disk is none: no server is asked.
pub(super) fn look(settings: &Settings) -> Launch {
    let mut launch = Launch::new(&settings.nbdkit);
    launch.only_env(ENVIRONMENT);
    launch.env("LC_ALL", "C.UTF-8");
    launch.arg(&settings.plugin).arg("--dump-plugin");
    let disk = Disk {
        vm: "vm-1".to_owned(),
        file: "[none] none/none.vmdk".to_owned(),
        access: Access::Snapshot { id: "snapshot-1".to_owned() },
    };
    add_parameters(&mut launch, settings, &disk, ["localhost", "none", "none"]);
    launch
}

/// Those of a disk, but for the password.
fn add_parameters(
    launch: &mut Launch,
    settings: &Settings,
    disk: &Disk,
    [server, user, thumbprint]: [&str; 3],
) {
    if let Some(libdir) = &settings.libdir {
        launch.arg(joined("libdir=", libdir));
    }
    launch.arg(format!("server={server}"));
    launch.arg(format!("user={user}"));
    launch.arg(format!("thumbprint={thumbprint}"));
    launch.arg(format!("vm=moref={}", disk.vm));
    if let Access::Snapshot { id } = &disk.access {
        launch.arg(format!("snapshot={id}"));
    }
    launch.arg(format!("transports={}", settings.transports));
    launch.arg(format!("compression={}", settings.compression.word()));
    launch.args(settings.extra.iter().map(ToString::to_string));
    launch.arg(format!("file={}", disk.file));
}

fn joined(key: &str, path: &Path) -> OsString {
    let mut word = OsString::from(key);
    word.push(path);
    word
}
