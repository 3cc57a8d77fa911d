//! The thread that writes: all that waits, in one transaction.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rusqlite::Connection;

use super::failure::{Failure, Outcome, storage};
use crate::catalog::error::{CatalogError, StorageError};

/// Requests of one transaction: bounds how long the first one waits for the others.
const MAX_BATCH: usize = 128;

/// Owns the connection that writes. Dropped, it carries out what was asked for before, and ends.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    requests: Option<mpsc::Sender<Box<dyn Request>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(path: &Path, connection: Connection) -> Result<Self, StorageError> {
        let (requests, waiting) = mpsc::channel();
        let own = path.to_owned();
        let thread = thread::Builder::new()
            .name("catalog".to_owned())
            .spawn(move || run(&own, &connection, &waiting))
            .map_err(|error| StorageError::Other {
                path: path.to_owned(),
                detail: format!("starting its thread: {error}"),
            })?;
        Ok(Self { path: path.to_owned(), requests: Some(requests), thread: Some(thread) })
    }

    /// Has `work` done, and waits until it is durable.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let (reply, answer) = mpsc::sync_channel(1);
        let request = Box::new(Ask { work: Some(work), done: None, reply });
        let requests = self.requests.as_ref().expect("only dropping takes it");
        // Either fails only when the thread is no more: a request panicked in it.
        let ended = || StorageError::Other {
            path: self.path.clone(),
            detail: "its thread ended before".to_owned(),
        };
        requests.send(request).map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it was answered as an error to whoever asked.
            let _ = thread.join();
        }
    }
}

/// Something to do inside a transaction, and somebody who waits for its end.
trait Request: Send {
    /// Does it as a whole or not at all. An error is SQLite's, not a refusal.
    fn run(&mut self, connection: &Connection, path: &Path) -> Result<(), StorageError>;

    /// Says what became of it, after the transaction's end.
    fn answer(self: Box<Self>, committed: Result<(), StorageError>);
}

struct Ask<F, T> {
    work: Option<F>,
    done: Option<Result<T, CatalogError>>,
    reply: mpsc::SyncSender<Result<T, CatalogError>>,
}

impl<F, T> Request for Ask<F, T>
where
    F: FnOnce(&Connection) -> Outcome<T> + Send,
    T: Send,
{
    fn run(&mut self, connection: &Connection, path: &Path) -> Result<(), StorageError> {
        let Some(work) = self.work.take() else { return Ok(()) };
        let statement = |text: &str| connection.execute_batch(text).map_err(|e| storage(path, &e));
        statement("SAVEPOINT request")?;
        let outcome = work(connection);
        let result = match &outcome {
            Ok(_) => statement("RELEASE request"),
            Err(failure) => {
                // After some errors SQLite has rolled the whole transaction back already.
                if !connection.is_autocommit() {
                    statement("ROLLBACK TO request; RELEASE request")?;
                }
                match failure {
                    Failure::Sql(error) => Err(storage(path, error)),
                    Failure::Refused(_) => Ok(()),
                }
            }
        };
        self.done = Some(outcome.map_err(|failure| failure.at(path)));
        result
    }

    fn answer(self: Box<Self>, committed: Result<(), StorageError>) {
        let answer = match (self.done, committed) {
            (Some(Err(error)), _) => Err(error),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (_, Err(error)) => Err(error.into()),
            (None, Ok(())) => unreachable!("what was committed has run"),
        };
        // Whoever asked waits for it; a thread that was ended meanwhile needs no answer.
        let _ = self.reply.send(answer);
    }
}

fn run(path: &Path, connection: &Connection, waiting: &mpsc::Receiver<Box<dyn Request>>) {
    while let Ok(first) = waiting.recv() {
        let mut batch = VecDeque::from([first]);
        batch.extend(waiting.try_iter().take(MAX_BATCH - 1));
        let committed = transaction(path, connection, batch.iter_mut());
        for request in batch {
            request.answer(committed.clone());
        }
    }
}

/// One transaction for a batch. A fault of one request that left the transaction whole is its
/// own; one that did not is everybody's.
fn transaction<'a>(
    path: &Path,
    connection: &Connection,
    batch: impl Iterator<Item = &'a mut Box<dyn Request>>,
) -> Result<(), StorageError> {
    let statement = |text: &str| connection.execute_batch(text).map_err(|e| storage(path, &e));
    statement("BEGIN IMMEDIATE")?;
    let mut result = Ok(());
    for request in batch {
        if let Err(error) = request.run(connection, path)
            && connection.is_autocommit()
        {
            result = Err(error);
            break;
        }
    }
    let result = result.and_then(|()| statement("COMMIT"));
    if result.is_err() && !connection.is_autocommit() {
        // Its own error would say less than the one that led here.
        let _ = statement("ROLLBACK");
    }
    result
}
