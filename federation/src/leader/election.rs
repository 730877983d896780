//! What a candidate does next, by what it finds in the store and by the time; pure.

use std::time::{Duration, Instant};

use super::Leader;
use crate::model::Label;
use crate::store::Revision;

/// What is at the key of the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// None if a newer program wrote what this one cannot read.
    pub(super) leader: Option<Leader>,
    pub(super) revision: Revision,
    /// Somebody keeps it alive, or it will go.
    pub(super) leased: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Take the lead if the key is still at this revision.
    Claim(Revision),
    Follow(Option<Leader>),
}

/// Nobody is pushed aside; what a candidate left behind itself, and what a backup brought without a
/// lease, nobody keeps.
pub(super) fn step(found: Option<Found>, own_name: &Label) -> Step {
    match found {
        None => Step::Claim(Revision::ABSENT),
        Some(Found { revision, leased: false, .. }) => Step::Claim(revision),
        Some(Found { leader: Some(leader), revision, .. }) if leader.name == *own_name => {
            Step::Claim(revision)
        }
        Some(Found { leader, .. }) => Step::Follow(leader),
    }
}

/// How long a lead is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tenure {
    ttl: Duration,
    /// When the request was sent that the store last confirmed: the lease cannot end before that
    /// moment and its time.
    confirmed: Instant,
}

impl Tenure {
    pub(super) fn new(ttl: Duration, asked: Instant) -> Self {
        Self { ttl, confirmed: asked }
    }

    pub(super) fn confirm(&mut self, asked: Instant) {
        self.confirmed = asked;
    }

    /// Two renewals may fail before the lead is lost.
    pub(super) fn renew_at(&self) -> Instant {
        self.confirmed + self.ttl / 3
    }

    pub(super) fn lost_at(&self) -> Instant {
        self.confirmed + self.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    fn found(name: &str, leased: bool) -> Found {
        let leader =
            Leader { name: name.try_into().unwrap(), addresses: Vec::new(), since: Timestamp::from_unix(1) };
        Found { leader: Some(leader), revision: Revision(7), leased }
    }

    #[test]
    fn only_what_nobody_keeps_is_claimed() {
        let us = Label::try_from("a").unwrap();
        assert_eq!(step(None, &us), Step::Claim(Revision::ABSENT));
        assert_eq!(step(Some(found("b", true)), &us), Step::Follow(found("b", true).leader));
        assert_eq!(step(Some(found("b", false)), &us), Step::Claim(Revision(7)), "restored from a backup");
        assert_eq!(step(Some(found("a", true)), &us), Step::Claim(Revision(7)), "our own, lost sight of");
        let newer = Found { leader: None, revision: Revision(7), leased: true };
        assert_eq!(step(Some(newer), &us), Step::Follow(None));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "some moment to begin with")]
    fn a_lead_is_certain_from_the_asking_on_and_not_from_the_answer() {
        let asked = Instant::now();
        let mut tenure = Tenure::new(Duration::from_secs(9), asked);
        assert_eq!(tenure.renew_at(), asked + Duration::from_secs(3));
        assert_eq!(tenure.lost_at(), asked + Duration::from_secs(9));
        tenure.confirm(asked + Duration::from_secs(3));
        assert_eq!(tenure.lost_at(), asked + Duration::from_secs(12));
    }
}
