//! The policy of the cluster.

use overlay_core::policy::{ClusterPolicy, FilterMode, MAX_POLICY};

use super::error::ConversionError;
use super::field::wire_enum;
use crate::v1;

impl From<FilterMode> for v1::PolicyMode {
    fn from(mode: FilterMode) -> Self {
        match mode {
            FilterMode::Enforced => Self::Enforced,
            FilterMode::Shadow => Self::Shadow,
        }
    }
}

impl From<ClusterPolicy> for v1::ClusterPolicy {
    fn from(policy: ClusterPolicy) -> Self {
        Self {
            revision: policy.revision,
            mode: v1::PolicyMode::from(policy.mode).into(),
            text: policy.text,
        }
    }
}

impl TryFrom<v1::ClusterPolicy> for ClusterPolicy {
    type Error = ConversionError;

    fn try_from(policy: v1::ClusterPolicy) -> Result<Self, ConversionError> {
        if policy.revision == 0 {
            return Err(ConversionError::Missing("policy.revision"));
        }

        Ok(Self {
            revision: policy.revision,
            mode: policy_mode(policy.mode)?,
            text: policy_text(policy.text)?,
        })
    }
}

/// Tells the live policy, or that there is none, as far as a node sees it.
pub fn visible_policy(policy: Option<&ClusterPolicy>) -> v1::ShowPolicyResponse {
    let applied = |policy: &ClusterPolicy| v1::AppliedPolicy {
        revision: policy.revision,
        mode: v1::PolicyMode::from(policy.mode).into(),
        live: true,
        ..v1::AppliedPolicy::default()
    };

    v1::ShowPolicyResponse {
        policy: policy.map(applied),
        document: String::new(),
        text: policy.map(|policy| policy.text.clone()).unwrap_or_default(),
        partial: true,
    }
}

/// Converts the mode of a policy.
///
/// # Errors
///
/// [`ConversionError::PolicyMode`] if this version does not know it.
pub fn policy_mode(mode: i32) -> Result<FilterMode, ConversionError> {
    match wire_enum(mode) {
        v1::PolicyMode::Enforced => Ok(FilterMode::Enforced),
        v1::PolicyMode::Shadow => Ok(FilterMode::Shadow),
        v1::PolicyMode::Unspecified => Err(ConversionError::PolicyMode),
    }
}

/// Checks the size of a policy document.
///
/// # Errors
///
/// [`ConversionError::PolicySize`].
pub fn policy_text(text: String) -> Result<String, ConversionError> {
    if text.len() <= MAX_POLICY {
        Ok(text)
    } else {
        Err(ConversionError::PolicySize { len: text.len(), max: MAX_POLICY })
    }
}
