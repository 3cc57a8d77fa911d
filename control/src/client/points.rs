//! Points of a hub.

use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use super::error::ClientError;
use super::http::HubClient;
use crate::call::escaped;
use crate::catalog::{PointId, VmName};
use crate::hub::RepositoryName;
use crate::record::PointRecord;

/// Points of one answer at most, of each repository: what a hub gives.
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
    /// The points, by repository and in the order in which they were published.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn points(&self, wanted: &PointsWanted) -> Result<Vec<PointRecord>, ClientError> {
        self.points_by(wanted, MOST)
    }

    /// The same, with so many of each repository in one answer.
    pub(super) fn points_by(
        &self,
        wanted: &PointsWanted,
        most: u32,
    ) -> Result<Vec<PointRecord>, ClientError> {
        let newest =
            self.page(wanted, most, None, wanted.repository.as_ref().map(RepositoryName::as_str))?;
        let mut points = Vec::with_capacity(newest.len());
        for mut of_one in by_repository(newest) {
            let mut page = of_one.len();
            while u32::try_from(page).is_ok_and(|page| page == most) {
                let older = self.older(wanted, most, &of_one)?;
                page = older.len();
                of_one.splice(0..0, older);
            }
            points.append(&mut of_one);
        }
        Ok(points)
    }

    /// Those before the first one of a repository that is still there: some may have been deleted
    /// since they were told of.
    fn older(
        &self,
        wanted: &PointsWanted,
        most: u32,
        known: &[PointRecord],
    ) -> Result<Vec<PointRecord>, ClientError> {
        const GONE: u16 = 404;
        for point in known {
            // A copy of the repository would have the same point.
            match self.page(wanted, most, Some(&point.id), point.repository.as_deref()) {
                Err(ClientError::Refused { status: GONE, .. }) => {}
                other => return other,
            }
        }
        Ok(Vec::new())
    }

    fn page(
        &self,
        wanted: &PointsWanted,
        most: u32,
        before: Option<&str>,
        repository: Option<&str>,
    ) -> Result<Vec<PointRecord>, ClientError> {
        let mut call = format!("/points?limit={most}");
        for (name, value) in [
            ("vm", wanted.vm.as_ref().map(VmName::as_str)),
            ("repository", repository),
            ("before", before),
        ] {
            if let Some(value) = value {
                call += &format!("&{name}={}", escaped(value));
            }
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

/// An answer has the points of one repository after those of another.
fn by_repository(points: Vec<PointRecord>) -> Vec<Vec<PointRecord>> {
    let mut all: Vec<Vec<PointRecord>> = Vec::new();
    for point in points {
        match all.last_mut() {
            Some(of_one) if of_one[0].repository == point.repository => of_one.push(point),
            _ => all.push(vec![point]),
        }
    }
    all
}
