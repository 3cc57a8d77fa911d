//! The repositories of a hub, by name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::error::SubmitError;
use crate::catalog::{CatalogError, PointId, Points};
use crate::repository::{HubLock, Repository, RepositoryError};

/// What a repository is called in the API: 1 to 64 of a-z, 0-9, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(String);

impl RepositoryName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const MAX_BYTES: usize = 64;
        let fits = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
        };
        if (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err("the name of a repository is 1 to 64 of a-z, 0-9, - and _".into())
        }
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The repositories that a hub works in. No other hub can while this is held.
#[derive(Debug, Default)]
pub struct Repositories {
    by_name: BTreeMap<RepositoryName, (Repository, HubLock)>,
}

impl Repositories {
    /// Opens them, makes those that are not there, and cleans up after the dead.
    ///
    /// # Errors
    /// When one cannot be had, another hub has it, or it is there under two names.
    pub fn open(
        folders: impl IntoIterator<Item = (RepositoryName, PathBuf)>,
    ) -> Result<Self, RepositoryError> {
        let mut by_name: BTreeMap<RepositoryName, (Repository, HubLock)> = BTreeMap::new();
        for (name, folder) in folders {
            let repository = Repository::open_or_create(&folder)?;
            if let Some((first, _)) =
                by_name.iter().find(|(_, (ours, _))| ours.is_same(&repository))
            {
                return Err(RepositoryError::TwoNames {
                    root: repository.root().to_path_buf(),
                    first: first.to_string(),
                    second: name.to_string(),
                });
            }
            let lock = repository.lock_for_hub()?;
            repository.clean_up()?;
            by_name.insert(name, (repository, lock));
        }
        Ok(Self { by_name })
    }

    /// The one of this name, or the only one.
    ///
    /// # Errors
    /// [`SubmitError`], with the names that there are.
    pub fn named(
        &self,
        name: Option<&RepositoryName>,
    ) -> Result<(&RepositoryName, &Repository), SubmitError> {
        let known = || self.by_name.keys().cloned().collect();
        let mut all = self.iter();
        match (name, all.next(), all.next()) {
            (_, None, _) => Err(SubmitError::NoRepository),
            (None, Some(only), None) => Ok(only),
            (None, Some(_), Some(_)) => Err(SubmitError::WhichRepository { known: known() }),
            (Some(name), ..) => self.iter().find(|(known, _)| *known == name).ok_or_else(|| {
                SubmitError::UnknownRepository { asked: name.clone(), known: known() }
            }),
        }
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&RepositoryName, &Repository)> {
        self.by_name.iter().map(|(name, (repository, _lock))| (name, repository))
    }

    /// The one that has this point: the one of this name, or the only one. A copy of a repository
    /// has the points of the other, so an id alone may not tell which is meant.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchPoint`] when none has it, and [`SubmitError::WhichCopy`] when several
    /// have and none was named.
    pub fn with_point(
        &self,
        point: PointId,
        name: Option<&RepositoryName>,
    ) -> Result<(&RepositoryName, &Repository), SubmitError> {
        let chosen: Vec<_> = match name {
            Some(name) => vec![self.named(Some(name))?],
            None => self.iter().collect(),
        };
        let mut having = Vec::new();
        for (name, repository) in chosen {
            match repository.catalog().point(point) {
                Ok(_) => having.push((name, repository)),
                Err(CatalogError::NoSuchPoint(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match having[..] {
            [] => Err(CatalogError::NoSuchPoint(point).into()),
            [only] => Ok(only),
            _ => {
                let having = having.iter().map(|(name, _)| (*name).clone()).collect();
                Err(SubmitError::WhichCopy { point, having })
            }
        }
    }
}
