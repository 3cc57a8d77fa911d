//! Starting a child.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{self, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use super::process::{Child, Process};
use super::stderr::Said;
use crate::program;

/// Stack of a child's starter, which reads lines and waits.
const STARTER_STACK_BYTES: usize = 128 << 10;

/// The child as `$@` behind the id of its parent. One whose parent died before it asked to hear
/// of that must not begin.
const PLAIN_SCRIPT: &str = r#"[ "$PPID" = "$1" ] || exit 1; shift; exec "$@""#;
/// The same for a server whose listener arrives as standard input and moves to descriptor 3, the
/// first one of socket activation.
const ACTIVATION_SCRIPT: &str = r#"[ "$PPID" = "$1" ] || exit 1; shift
export LISTEN_PID=$$; exec "$@" 3<&0 </dev/null"#;

/// The same for a program that reads a secret from descriptor 3, where its standard input goes.
const SECRET_SCRIPT: &str = r#"[ "$PPID" = "$1" ] || exit 1; shift; exec "$@" 3<&0 </dev/null"#;

/// Where a child finds the pipe of [`Streams::Secret`].
pub(crate) const SECRET_DESCRIPTOR: u32 = 3;

/// What a child has on its descriptors 0, 1 and 3.
#[derive(Debug)]
pub(crate) enum Streams {
    /// A listening socket on descriptor 3, by systemd's socket activation, and nothing else.
    Activation(OwnedFd),
    /// A server's one connection as standard input and output.
    Connection(OwnedFd),
    /// Nothing to read; what it writes to standard output is read by us.
    Output,
    /// A pipe on descriptor 3, to be read to its end, and nothing else.
    Secret(OwnedFd),
}

/// Why a child could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// No such program.
    #[error("cannot run {program}: no such command")]
    NotFound {
        /// Its name.
        program: String,
    },
    /// The system could not do it.
    #[error("cannot run {program}: {what}: {error}")]
    System {
        /// Its name.
        program: String,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// A program that is about to run.
#[derive(Debug)]
pub(crate) struct Launch {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    /// What it has of ours; all, if this is not set.
    handed_on: Option<&'static [&'static str]>,
    /// The signal that it gets when we die.
    death_signal: &'static str,
}

impl Launch {
    /// A program by name or path.
    pub(crate) fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            handed_on: None,
            death_signal: "TERM",
        }
    }

    /// Makes our death its death, without a chance to put its things in order. For programs that
    /// may not heed SIGTERM: qemu-nbd forgets one that comes before it serves.
    pub(crate) fn killed_with_us(&mut self) -> &mut Self {
        self.death_signal = "KILL";
        self
    }

    /// Adds an argument.
    pub(crate) fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub(crate) fn args<A: AsRef<OsStr>>(
        &mut self,
        arguments: impl IntoIterator<Item = A>,
    ) -> &mut Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    pub(crate) fn env(&mut self, name: &'static str, value: impl Into<OsString>) -> &mut Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Hands only these variables of our environment on to it.
    pub(crate) fn only_env(&mut self, names: &'static [&'static str]) -> &mut Self {
        self.handed_on = Some(names);
        self
    }

    /// Starts it. `on_line` gets each line of its stderr, on a thread of the child's own.
    ///
    /// # Errors
    /// When there is no such program, or no process or thread can be had.
    pub(crate) fn start(
        self,
        streams: Streams,
        on_line: impl Fn(&str) + Send + 'static,
    ) -> Result<(Child, Option<ChildStdout>), LaunchError> {
        let shown = self.program.to_string_lossy().into_owned();
        let Some(path) = program::find(&self.program) else {
            return Err(LaunchError::NotFound { program: shown });
        };
        let failed = |what| {
            let program = shown.clone();
            move |error| LaunchError::System { program, what, error }
        };
        let mut command = self.command(path.as_os_str(), streams).map_err(failed("its socket"))?;

        let said = Said::default();
        let heard = said.clone();
        let (started, start) = mpsc::sync_channel(1);
        let (reading, last_words) = mpsc::channel();
        let (holding, released) = mpsc::channel();
        thread::Builder::new()
            .name("child-starter".into())
            .stack_size(STARTER_STACK_BYTES)
            .spawn(move || {
                let spawned = command.spawn();
                // Our copies of its descriptors go, so that its end is the end of its connections.
                drop(command);
                let stderr = match spawned {
                    Ok(mut child) => {
                        let stderr = child.stderr.take();
                        // Nobody waits for the answer only after a panic; the child then ends
                        // with this thread.
                        let _ = started.send(Ok(child));
                        stderr
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                        return;
                    }
                };
                if let Some(stderr) = stderr {
                    heard.read(stderr, on_line);
                }
                drop(reading);
                // The child would be told that its parent died: stay until it is let go.
                let _let_go: Result<(), _> = released.recv();
            })
            .map_err(failed("starting a thread for it"))?;
        let mut child = match start.recv() {
            Ok(spawned) => spawned.map_err(failed("starting it"))?,
            Err(mpsc::RecvError) => {
                return Err(failed("starting it")(io::Error::other("its starter is gone")));
            }
        };
        let output = child.stdout.take();
        Ok((Child::new(shown, Process::new(child), said, last_words, holding), output))
    }

    fn command(self, path: &OsStr, streams: Streams) -> io::Result<Command> {
        let script = match streams {
            Streams::Activation(_) => ACTIVATION_SCRIPT,
            Streams::Connection(_) | Streams::Output => PLAIN_SCRIPT,
            Streams::Secret(_) => SECRET_SCRIPT,
        };
        let parent = process::id().to_string();
        let mut words: Vec<OsString> = Vec::with_capacity(self.arguments.len() + 10);
        if let Some(setpriv) = program::find("setpriv".as_ref()) {
            // The child learns of our death whatever the cause. Without setpriv only the end of
            // its connection tells it.
            words.extend([setpriv.into(), "--pdeathsig".into()]);
            words.extend([self.death_signal.into(), "--".into()]);
        }
        words.extend(["/bin/sh".into(), "-c".into(), script.into(), "sh".into(), parent.into()]);
        words.push(path.to_owned());
        words.extend(self.arguments);

        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        if let Some(names) = self.handed_on {
            let ours = names.iter().filter_map(|name| Some((name, env::var_os(name)?)));
            command.env_clear().envs(ours);
        }
        command.envs(self.environment);
        command.env_remove("LISTEN_FDS").env_remove("LISTEN_PID").env_remove("LISTEN_FDNAMES");
        match streams {
            Streams::Activation(listener) => {
                command.env("LISTEN_FDS", "1").stdin(listener).stdout(Stdio::null());
            }
            Streams::Connection(connection) => {
                let copy = connection.try_clone()?;
                command.stdin(connection).stdout(copy);
            }
            Streams::Output => {
                command.stdin(Stdio::null()).stdout(Stdio::piped());
            }
            Streams::Secret(pipe) => {
                command.stdin(pipe).stdout(Stdio::null());
            }
        }
        // A group of its own: Ctrl-C reaches us alone, so that we can drain before it ends.
        command.stderr(Stdio::piped()).process_group(0);
        Ok(command)
    }
}
