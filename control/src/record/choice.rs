//! What is chosen for one backup of a VM, as it is asked for.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::backup::SnapshotChoice;

/// How the snapshot of a VM is made, and what is believed of it; what is not here is as the options
/// of the node's `node serve` say.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChoiceRecord {
    /// Whether the guest is asked to put its data in order: none, try or require.
    #[schema(pattern = "^(none|try|require)$", example = "try")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiesce: Option<String>,
    /// The share of what change tracking (CBT) calls unchanged that is read all the same, and
    /// compared with the newest point, in percent.
    #[schema(minimum = 0, maximum = 100, example = 5)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_percent: Option<u8>,
    /// Whether change tracking is turned on where it is off and no snapshot stands in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_cbt: Option<bool>,
}

impl From<&SnapshotChoice> for ChoiceRecord {
    fn from(choice: &SnapshotChoice) -> Self {
        Self {
            quiesce: choice.quiesce.map(|policy| policy.as_str().to_owned()),
            audit_percent: choice.audit_percent,
            enable_cbt: choice.enable_tracking,
        }
    }
}

impl ChoiceRecord {
    /// It, checked.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn choice(&self) -> Result<SnapshotChoice, String> {
        let quiesce = self.quiesce.as_deref().map(str::parse).transpose();
        let audit_percent = self.audit_percent;
        if let Some(percent) = audit_percent.filter(|percent| *percent > 100) {
            return Err(format!("audit_percent: {percent} is not in 0..=100"));
        }
        Ok(SnapshotChoice {
            quiesce: quiesce.map_err(|what| format!("quiesce: {what}"))?,
            audit_percent,
            enable_tracking: self.enable_cbt,
        })
    }
}
