//! Tasks: what a server does after it has answered.

use std::thread;
use std::time::{Duration, Instant};

use super::config::references;
use super::error::VsphereError;
use super::fault::{Fault, FaultKind};
use super::patience::Patience;
use super::session::Session;
use super::xml::{Body, Element, Moref, XmlError};
use crate::backup::Cancellation;

/// How often it is asked, at first. Then it is an eighth of the time that has passed.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);
const WAIT: &str = "Task.info";

/// How a task ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// It did what it should: its result, if it has one.
    Done(Option<Moref>),
    /// It did not.
    Failed(Fault),
    /// It was cancelled, for whoever asked does not want it any more.
    CalledOff,
    /// It was cancelled, for it took too long.
    Late,
    /// It goes on, cancelled or not.
    Stuck,
}

/// How a task stands.
enum Standing {
    Busy,
    Done(Option<Moref>),
    Failed(Fault),
}

impl Session {
    /// Begins a task.
    pub(super) fn begin_task(&self, body: &Body) -> Result<Moref, VsphereError> {
        let answer = self.ask(body)?;
        let task = answer.need("returnval").and_then(Moref::of);
        task.map_err(|error| self.strange(body.name(), &error))
    }

    /// Waits for the end of a task, and cancels it when its time is over or it is called off.
    pub(super) fn wait(
        &self,
        task: &Moref,
        deadline: Duration,
        called_off: &Cancellation,
    ) -> Result<Ended, VsphereError> {
        self.wait_with(task, deadline, called_off, None)
    }

    /// The same; a server that is away is waited for no longer than this patience lasts.
    pub(super) fn wait_with(
        &self,
        task: &Moref,
        deadline: Duration,
        called_off: &Cancellation,
        away: Option<&mut Patience>,
    ) -> Result<Ended, VsphereError> {
        let over = || called_off.is_cancelled();
        match self.watch(task, Instant::now() + deadline, &over, away)? {
            Standing::Done(result) => return Ok(Ended::Done(result)),
            Standing::Failed(fault) => return Ok(Ended::Failed(fault)),
            Standing::Busy => {}
        }
        let was_called_off = called_off.is_cancelled();
        // Some tasks cannot be cancelled, or have ended by now. Both are seen in what follows.
        let _asked = self.renewed(|| self.ask(&Body::call("CancelTask", task)));
        let grace = Instant::now() + self.server().deadlines.cancel;
        Ok(match self.watch(task, grace, &|| false, None)? {
            Standing::Done(result) => Ended::Done(result),
            Standing::Failed(fault) if fault.kind != FaultKind::RequestCanceled => {
                Ended::Failed(fault)
            }
            Standing::Failed(_) if was_called_off => Ended::CalledOff,
            Standing::Failed(_) => Ended::Late,
            Standing::Busy => Ended::Stuck,
        })
    }

    /// Looks at a task until it has ended, the time is over, or it is called off.
    fn watch(
        &self,
        task: &Moref,
        end: Instant,
        called_off: &dyn Fn() -> bool,
        mut away: Option<&mut Patience>,
    ) -> Result<Standing, VsphereError> {
        let begin = Instant::now();
        loop {
            match self.renewed(|| self.standing(task)) {
                Ok(Standing::Busy) => away.iter_mut().for_each(|away| away.is_served()),
                // A server that is out of reach for a while goes on with it nevertheless.
                Err(error) if error.is_passing() && Instant::now() < end => {
                    if away.as_mut().is_some_and(|away| !away.after(&error)) {
                        return Err(error);
                    }
                }
                other => return other,
            }
            let now = Instant::now();
            if now >= end || called_off() {
                return Ok(Standing::Busy);
            }
            let pause = (now.duration_since(begin) / 8).clamp(FIRST_PAUSE, LAST_PAUSE);
            thread::sleep(pause.min(end.saturating_duration_since(now)));
        }
    }

    /// Waits until a task has ended, however, or this time is over.
    pub(super) fn until_ended(&self, task: &Moref, most: Duration) -> Result<(), VsphereError> {
        match self.watch(task, Instant::now() + most, &|| false, None) {
            // It has been forgotten, so it has ended.
            Err(error) if error.is_gone() => Ok(()),
            watched => watched.map(|_| ()),
        }
    }

    fn standing(&self, task: &Moref) -> Result<Standing, VsphereError> {
        let object = self.properties(task, &["info"])?;
        let read = || {
            let info = object.get("info");
            let info = info.ok_or_else(|| XmlError::Unexpected("a task has no info".into()))?;
            standing(info)
        };
        read().map_err(|error| self.strange(WAIT, &error))
    }

    /// Those of the recent tasks of an object, a `what`, that have not ended and do something that
    /// `is_meant` by its id, as `VirtualMachine.createSnapshot`. Whatever such a task may make is to be
    /// looked for afterwards, or one that ends in between is missed.
    pub(super) fn pending(
        &self,
        object: &Moref,
        what: &'static str,
        is_meant: impl Fn(&str) -> bool,
    ) -> Result<Vec<Moref>, VsphereError> {
        let properties = self.properties(object, &["recentTask"])?;
        let recent = properties.get("recentTask").map(references).transpose();
        let recent = recent.map_err(|error| self.strange(what, &error))?;
        let mut pending = Vec::new();
        for task in &recent.unwrap_or_default() {
            match self.properties(task, &["info"]) {
                Ok(object) => {
                    let info = object.get("info");
                    let busy = matches!(
                        info.and_then(|info| info.value("state")),
                        Some("running" | "queued")
                    );
                    let kind = info.and_then(|info| info.value("descriptionId"));
                    if busy && kind.is_some_and(&is_meant) {
                        pending.push(task.clone());
                    }
                }
                // It has been forgotten since it was listed.
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pending)
    }

    /// The error that a task's end is, with the call that began it.
    pub(super) fn not_done(
        &self,
        call: &'static str,
        task: &Moref,
        deadline: Duration,
        ended: Ended,
    ) -> VsphereError {
        let (server, task) = (self.wire().server().to_owned(), task.id.clone());
        let deadline_s = deadline.as_secs();
        match ended {
            Ended::Failed(fault) => {
                VsphereError::TaskFailed { server, call, task, fault: Box::new(fault) }
            }
            Ended::Stuck => VsphereError::TaskStuck { server, call, task, deadline_s },
            Ended::Done(_) | Ended::CalledOff | Ended::Late => {
                VsphereError::TaskLate { server, call, task, deadline_s }
            }
        }
    }
}

fn standing(info: &Element) -> Result<Standing, XmlError> {
    match info.need("state")?.text() {
        "queued" | "running" => Ok(Standing::Busy),
        "success" => {
            // A result may be a value; only references are of use to us.
            let result = info.child("result").filter(|it| it.object().is_some());
            Ok(Standing::Done(result.map(Moref::of).transpose()?))
        }
        "error" => Ok(Standing::Failed(Fault::of_method(info.need("error")?))),
        state => Err(XmlError::Unexpected(format!("a task is {state:.40}"))),
    }
}
