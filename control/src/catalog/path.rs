//! Paths inside a repository: made from ids, and checked again when they are read back.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::id::{JobId, LayerId, PointId};
use super::name::ValueError;

/// A path below a repository's folder. Whatever a catalog holds, it cannot lead out of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelativePath(String);

impl RelativePath {
    /// Where the files of a point are.
    #[must_use]
    pub fn of_point(point: PointId) -> Self {
        Self(format!("points/{point}"))
    }

    /// Where the image of a layer is.
    #[must_use]
    pub fn of_layer(point: PointId, layer: LayerId) -> Self {
        Self(format!("points/{point}/{layer}.qcow2"))
    }

    /// Where the digest manifest of a layer is.
    #[must_use]
    pub fn of_manifest(point: PointId, layer: LayerId) -> Self {
        Self(format!("points/{point}/{layer}.manifest"))
    }

    /// Where a job keeps what is not published yet. It becomes the folder of its point, at the
    /// same depth, so that what images call their parents stays right.
    #[must_use]
    pub fn of_work(job: JobId) -> Self {
        Self(format!("work/{job}"))
    }

    /// As text, with `/` between its parts.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path as the system takes it.
    #[must_use]
    pub fn under(&self, repository: &Path) -> PathBuf {
        repository.join(&self.0)
    }
}

impl FromStr for RelativePath {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        const MAX_BYTES: usize = 1024;
        let is_part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && part.bytes().all(|byte| {
                    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
                })
        };
        if text.len() > MAX_BYTES || !text.split('/').all(is_part) {
            return Err(ValueError::new(
                "path in the repository",
                text,
                "it is relative, and its parts begin with a-z or 0-9 and go on with those, '.', \
                 '_' and '-'",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
