//! Tasks: what is not done when it is answered.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::fault::Fault;
use super::shared::Shared;
use super::trouble::Trouble;
use super::value::{Kind, Reference, Value};

/// Longer than any test, and short enough to be added to a clock.
const LOOK: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Success,
    Error,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) method: &'static str,
    pub(crate) entity: Reference,
    pub(crate) entity_name: String,
    pub(crate) state: State,
    pub(crate) cancelled: bool,
    pub(crate) cancelable: bool,
    pub(crate) result: Value,
    pub(crate) error: Option<Fault>,
    pub(crate) queued: SystemTime,
    pub(crate) completed: Option<SystemTime>,
    pub(crate) started_at: Instant,
    pub(crate) ended_at: Option<Instant>,
}

impl Task {
    /// Its property `info`.
    pub(crate) fn info(&self, id: &str) -> Value {
        let state = match self.state {
            State::Running => "running",
            State::Success => "success",
            State::Error => "error",
        };
        let progress = (self.state == State::Running).then(|| Value::int(0));
        let reason =
            Value::Object("TaskReasonUser", vec![("userName", Value::text("VSPHERE.LOCAL\\u"))]);
        let name = self.method;
        let operation = name.trim_end_matches("_Task");
        let first = operation[..1].to_ascii_lowercase();
        let description = format!("{}.{first}{}", self.entity.kind.name(), &operation[1..]);
        Value::Object(
            "TaskInfo",
            vec![
                ("key", Value::text(id)),
                ("task", Value::Reference(Reference::new(Kind::Task, id))),
                ("name", Value::text(name)),
                ("descriptionId", Value::text(description)),
                ("entity", Value::Reference(self.entity.clone())),
                ("entityName", Value::text(&*self.entity_name)),
                ("state", Value::Plain("TaskInfoState", state.to_owned())),
                ("cancelled", Value::boolean(self.cancelled)),
                ("cancelable", Value::boolean(self.cancelable)),
                ("error", Value::or_unset(self.error.as_ref().map(Fault::localized))),
                ("result", self.result.clone()),
                ("progress", Value::or_unset(progress)),
                ("reason", reason),
                ("queueTime", Value::time(self.queued)),
                ("startTime", Value::time(self.queued)),
                ("completeTime", Value::or_unset(self.completed.map(Value::time))),
                ("eventChainId", Value::int(1)),
            ],
        )
    }
}

/// Starts a task of a VM and answers with it. While another one works on the same VM, it fails at
/// once, as it does with the real ones.
pub(crate) fn start(
    shared: &Arc<Shared>,
    method: &'static str,
    machine: &str,
    work: impl FnOnce(&Arc<Shared>) -> Result<Value, Fault> + Send + 'static,
) -> Result<Value, Fault> {
    let troubles = shared.troubles_of_task(method);
    let sticks = troubles.iter().find_map(|trouble| match trouble {
        Trouble::TaskSticks { cancelable, .. } => Some(*cancelable),
        _ => None,
    });
    let entity = Reference::new(Kind::VirtualMachine, machine);
    let (id, busy) = shared.change(|world| {
        let id = world.name("task");
        let machine = world.machine_mut(machine)?;
        let busy = machine.busy.is_some();
        if !busy {
            machine.busy = Some(id.clone());
        }
        let entity_name = machine.name.clone();
        let cancelable = sticks.unwrap_or(false);
        let task = Task::new(method, entity.clone(), entity_name, cancelable);
        world.tasks.insert(id.clone(), task);
        Ok((id, busy))
    })?;
    if busy {
        let message = "Another task is already in progress.";
        end(shared, &id, None, Err(Fault::new("TaskInProgress", message)));
        return Ok(Value::Reference(Reference::new(Kind::Task, id)));
    }
    let (shared, machine, answer) = (Arc::clone(shared), machine.to_owned(), id.clone());
    let running = Arc::clone(&shared);
    let thread = thread::spawn(move || {
        let ended = run(&running, &id, &troubles, work);
        end(&running, &id, Some(&machine), ended);
    });
    shared.keep_thread(thread);
    Ok(Value::Reference(Reference::new(Kind::Task, answer)))
}

/// As [`start`], for what is no VM yet.
pub(crate) fn start_beside(
    shared: &Arc<Shared>,
    method: &'static str,
    entity: Reference,
    work: impl FnOnce(&Arc<Shared>) -> Result<Value, Fault> + Send + 'static,
) -> Result<Value, Fault> {
    let troubles = shared.troubles_of_task(method);
    let id = shared.change(|world| {
        let id = world.name("task");
        world.tasks.insert(id.clone(), Task::new(method, entity, String::new(), false));
        Ok(id)
    })?;
    let (running, answer) = (Arc::clone(shared), id.clone());
    let thread = thread::spawn(move || {
        let ended = run(&running, &id, &troubles, work);
        end(&running, &id, None, ended);
    });
    shared.keep_thread(thread);
    Ok(Value::Reference(Reference::new(Kind::Task, answer)))
}

/// Asks a task to end; one that cannot be cancelled says so.
pub(crate) fn cancel(shared: &Shared, id: &str) -> Result<Value, Fault> {
    shared.change(|world| {
        let missing = || Fault::not_found(&Reference::new(Kind::Task, id));
        let task = world.tasks.get_mut(id).ok_or_else(missing)?;
        if !task.cancelable {
            return Err(Fault::new(
                "NotSupported",
                "The operation is not supported on the object.",
            ));
        }
        if task.state != State::Running {
            let message = "The operation is not allowed in the current state.";
            return Err(Fault::new("InvalidState", message));
        }
        task.cancelled = true;
        Ok(Value::Unset)
    })
}

impl Task {
    fn new(method: &'static str, entity: Reference, entity_name: String, cancelable: bool) -> Self {
        Self {
            method,
            entity,
            entity_name,
            state: State::Running,
            cancelled: false,
            cancelable,
            result: Value::Unset,
            error: None,
            queued: SystemTime::now(),
            completed: None,
            started_at: Instant::now(),
            ended_at: None,
        }
    }
}

fn run(
    shared: &Arc<Shared>,
    id: &str,
    troubles: &[Trouble],
    work: impl FnOnce(&Arc<Shared>) -> Result<Value, Fault>,
) -> Result<Value, Fault> {
    for trouble in troubles {
        match trouble {
            Trouble::TaskSlow { by, .. } => wait(shared, id, *by)?,
            Trouble::TaskSticks { .. } => wait(shared, id, Duration::MAX)?,
            Trouble::TaskFails { failure, .. } => return Err(failure.fault()),
            _ => {}
        }
    }
    work(shared)
}

/// Waits; a cancelled task ends here, and so does one whose server goes.
fn wait(shared: &Shared, id: &str, duration: Duration) -> Result<(), Fault> {
    let started = Instant::now();
    loop {
        let (seen, cancelled) = {
            let world = shared.world();
            (world.revision, world.tasks.get(id).is_none_or(|task| task.cancelled))
        };
        if cancelled || shared.is_closing() {
            return Err(Fault::new("RequestCanceled", "The task was canceled by a user."));
        }
        let left = duration.saturating_sub(started.elapsed());
        if left.is_zero() || shared.is_released(id) {
            return Ok(());
        }
        shared.wait_for_change(seen, left.min(LOOK));
    }
}

fn end(shared: &Shared, id: &str, machine: Option<&str>, ended: Result<Value, Fault>) {
    shared.note(|world| {
        if let Some(machine) = machine.and_then(|id| world.machines.get_mut(id)) {
            machine.busy = None;
        }
        let task = world.tasks.get_mut(id).expect("tasks are kept");
        task.completed = Some(SystemTime::now());
        task.ended_at = Some(Instant::now());
        match ended {
            Ok(result) => {
                task.state = State::Success;
                task.result = result;
            }
            Err(fault) => {
                task.state = State::Error;
                task.error = Some(fault);
            }
        }
    });
}
