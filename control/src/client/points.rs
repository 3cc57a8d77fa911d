//! Points of a hub.

use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use super::error::ClientError;
use super::http::{HubClient, escaped};
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
        let newest = self.page(wanted, most, None)?;
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
            match self.page(wanted, most, Some(&point.id)) {
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
    ) -> Result<Vec<PointRecord>, ClientError> {
        let mut call = format!("/points?limit={most}");
        let (vm, repository) = (&wanted.vm, &wanted.repository);
        for (name, value) in [
            ("vm", vm.as_ref().map(VmName::as_str)),
            ("repository", repository.as_ref().map(RepositoryName::as_str)),
            ("before", before),
        ] {
            if let Some(value) = value {
                call += &format!("&{name}={}", escaped(value));
            }
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
