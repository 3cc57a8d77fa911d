//! nbdkit, as a source that makes its data up or a target that forgets them.

use std::time::Duration;

use blockferry_dataplane::Endpoint;
use blockferry_dataplane::nbd::{NbdUri, TlsParams};

use super::error::BenchError;
use crate::child::{Child, Launch, Streams};
use crate::export::{Listener, NotReady, wait_ready};

/// Time from the start of nbdkit to the end of the first handshake.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// The packages with nbdkit in them.
const PACKAGE: &str = "nbdkit (the package nbdkit)";

/// What a source has in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceData {
    /// Every 8 bytes hold their own offset: quickly made, and no block is like another.
    #[default]
    Pattern,
    /// Random bytes, which take the source more CPU.
    Random,
}

impl SourceData {
    /// Its name on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pattern => "pattern",
            Self::Random => "random",
        }
    }

    /// nbdkit's words for a source of this size.
    pub(super) fn plugin(self, size_bytes: u64) -> [String; 2] {
        [self.word().to_owned(), format!("size={size_bytes}")]
    }
}

/// nbdkit's words for a target of this size that forgets.
pub(super) fn sink(size_bytes: u64) -> [String; 2] {
    ["null".to_owned(), format!("size={size_bytes}")]
}

/// A running nbdkit. It is ended when this is dropped.
#[derive(Debug)]
pub(super) struct Servant {
    child: Child,
    listener: Listener,
    uri: NbdUri,
}

impl Servant {
    /// Starts one, and waits until it answers.
    pub(super) fn start(
        plugin: &[String],
        threads: u16,
        listener: Listener,
    ) -> Result<Self, BenchError> {
        let mut launch = Launch::new("nbdkit");
        launch.killed_with_us();
        launch.arg(format!("--threads={threads}")).args(plugin);
        let socket =
            listener.descriptor().map_err(BenchError::system("handing a socket to nbdkit"))?;
        let (child, _none) = launch
            .start(Streams::Activation(socket), |_| {})
            .map_err(|error| BenchError::launch(error, PACKAGE))?;
        if let Err(reason) = wait_ready(&listener, "", &child, START_DEADLINE) {
            return Err(not_ready(reason, &child));
        }
        let uri = NbdUri {
            tls: false,
            address: listener.address(),
            export: String::new(),
            user: None,
            tls_params: TlsParams::default(),
            ignored: Vec::new(),
        };
        Ok(Self { child, listener, uri })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it is.
    pub(super) fn uri(&self) -> &NbdUri {
        &self.uri
    }

    /// The same as an end of a lane.
    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::nbd_over(self.uri.clone(), std::sync::Arc::new(self.listener.clone()))
    }
}

fn not_ready(reason: NotReady, child: &Child) -> BenchError {
    let program = child.program().to_owned();
    let why = match reason {
        NotReady::Exited => child.exit_reason(Duration::ZERO).unwrap_or_default(),
        NotReady::TimedOut { waiting_for } => {
            format!("no {waiting_for} within {START_DEADLINE:?}")
        }
        NotReady::Handshake(error) => error.to_string(),
        NotReady::System(error) => error.to_string(),
    };
    BenchError::Server { program, why }
}
