//! An answer that is the content of a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;

/// Bytes of a file that are read and sent at once.
const CHUNK_BYTES: usize = 256 << 10;

/// The first `length` bytes of a file; `held` is kept until they have been sent.
pub(crate) fn of_file(file: File, length: u64, held: impl Send + 'static) -> Response {
    let lent = unfold((Arc::new(file), 0, held), move |(file, offset, held)| async move {
        if offset == length {
            return None;
        }
        let read = Arc::clone(&file);
        let chunk = tokio::task::spawn_blocking(move || chunk(&read, offset, length)).await;
        let chunk = chunk.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        let next = chunk.as_ref().map_or(length, |chunk| offset + chunk.len() as u64);
        Some((chunk, (file, next, held)))
    });
    let head = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    (head, Body::from_stream(lent)).into_response()
}

/// The bytes from `offset` on, some of them.
fn chunk(file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let left = usize::try_from(length - offset).unwrap_or(CHUNK_BYTES);
    let mut chunk = vec![0; left.min(CHUNK_BYTES)];
    file.read_exact_at(&mut chunk, offset)?;
    Ok(chunk)
}
