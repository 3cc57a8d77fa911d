//! Points of a hub.

use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use super::error::ClientError;
use super::http::{HubClient, escaped};
use crate::catalog::{PointId, VmName};
use crate::hub::RepositoryName;
use crate::record::PointRecord;

/// Points of one answer at most, of each repository.
const MOST: u32 = 1000;

/// Which points; all where nothing is set.
#[derive(Clone, Debug, Default)]
pub struct PointsWanted {
    /// Those of this VM.
    pub vm: Option<VmName>,
    /// Those in this repository of the hub.
    pub repository: Option<RepositoryName>,
}

#[derive(Deserialize)]
struct PointList {
    points: Vec<PointRecord>,
}

/// The call about one point.
pub(super) fn call(point: PointId, repository: Option<&RepositoryName>) -> String {
    match repository {
        Some(name) => format!("/points/{point}?repository={}", escaped(name.as_str())),
        None => format!("/points/{point}"),
    }
}

impl HubClient {
    /// The newest points, a thousand of each repository at most.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn points(&self, wanted: &PointsWanted) -> Result<Vec<PointRecord>, ClientError> {
        let mut call = format!("/points?limit={MOST}");
        if let Some(vm) = &wanted.vm {
            call += &format!("&vm={}", escaped(vm.as_str()));
        }
        if let Some(repository) = &wanted.repository {
            call += &format!("&repository={}", escaped(repository.as_str()));
        }
        self.ask::<PointList>(Method::GET, &call, None).map(|list| list.points)
    }

    /// Deletes a point, in the repository of this name if one is named.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when others stand on it, it is in use, or several repositories have
    /// it and none was named.
    pub fn delete_point(
        &self,
        point: PointId,
        repository: Option<&RepositoryName>,
    ) -> Result<(), ClientError> {
        self.ask::<Value>(Method::DELETE, &call(point, repository), None).map(|_deleted| ())
    }
}
