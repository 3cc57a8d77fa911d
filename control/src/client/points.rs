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

    /// Deletes a point.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when others stand on it, or it is being read.
    pub fn delete_point(&self, point: PointId) -> Result<(), ClientError> {
        self.ask::<Value>(Method::DELETE, &format!("/points/{point}"), None).map(|_deleted| ())
    }
}
