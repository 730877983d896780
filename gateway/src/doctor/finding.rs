//! One thing that was looked at, and what to do about it.

use serde::Serialize;

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Good,
    /// Works, and will hurt.
    Warning,
    /// Something does not work, or will not start.
    Failure,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was looked at, in the same words for ever.
    pub check: &'static str,
    pub verdict: Verdict,
    pub cause: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_step: Option<String>,
    /// What the command ends with for this alone.
    pub exit_code: u8,
}

impl Finding {
    pub fn good(check: &'static str, cause: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Good, cause: cause.into(), next_step: None, exit_code: 0 }
    }

    pub fn warning(check: &'static str, cause: impl Into<String>, next_step: impl Into<String>) -> Self {
        let next_step = Some(next_step.into());
        Self { check, verdict: Verdict::Warning, cause: cause.into(), next_step, exit_code: 0 }
    }

    pub fn failure(check: &'static str, cause: impl Into<String>, next_step: impl Into<String>) -> Self {
        let next_step = Some(next_step.into());
        Self { check, verdict: Verdict::Failure, cause: cause.into(), next_step, exit_code: 1 }
    }
}
