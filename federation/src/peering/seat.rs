//! Which of the streams between two clusters is the one; pure.
//!
//! Both sides may dial, and both may do so at once. Each side sees both streams and applies the same
//! rule, so they agree without a word: the stream dialled by the smaller name stays. A stream of the
//! same dialler replaces its predecessor, since nobody dials again without a reason; and one that
//! comes from another life of the peer replaces any, since the former cannot be alive.

use std::cmp::Ordering;

use crate::model::{ClusterName, Peer, RelationshipState};

/// Who dialled a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialled {
    ByUs,
    ByPeer,
}

/// A stream, as far as the rule looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub dialled: Dialled,
    /// The peer's epoch, where it has said it already.
    pub epoch: Option<u64>,
}

impl Claim {
    /// May this stream take the place of the one that is there.
    pub fn beats(self, there: Self, us: &ClusterName, peer: &ClusterName) -> bool {
        let another_life = matches!((self.epoch, there.epoch), (Some(new), Some(old)) if new != old);
        let preferred = match us.cmp(peer) {
            Ordering::Less => Dialled::ByUs,
            Ordering::Equal | Ordering::Greater => Dialled::ByPeer,
        };
        another_life || self.dialled == there.dialled || self.dialled == preferred
    }
}

/// Do we dial: there is somebody to dial, and the stream that is there, if any, is ours to replace.
pub fn wants_dial(peer: &Peer, there: Option<Dialled>) -> bool {
    let dialable = peer.state == RelationshipState::Active && !peer.gateways.is_empty();
    dialable && there != Some(Dialled::ByPeer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ClusterName {
        text.try_into().unwrap()
    }

    fn claim(dialled: Dialled, epoch: u64) -> Claim {
        Claim { dialled, epoch: Some(epoch) }
    }

    #[test]
    fn both_sides_keep_the_stream_dialled_by_the_smaller_name() {
        use Dialled::{ByPeer, ByUs};
        let (a, b) = (name("a"), name("b"));
        // On a's side and on b's side: the stream that a dialled wins, whichever came first.
        assert!(claim(ByUs, 1).beats(claim(ByPeer, 1), &a, &b));
        assert!(!claim(ByPeer, 1).beats(claim(ByUs, 1), &a, &b));
        assert!(claim(ByPeer, 1).beats(claim(ByUs, 1), &b, &a));
        assert!(!claim(ByUs, 1).beats(claim(ByPeer, 1), &b, &a));
    }

    #[test]
    fn a_newer_stream_of_the_same_dialler_replaces_its_predecessor() {
        let (a, b) = (name("a"), name("b"));
        for (us, peer) in [(&a, &b), (&b, &a)] {
            for dialled in [Dialled::ByUs, Dialled::ByPeer] {
                assert!(claim(dialled, 1).beats(claim(dialled, 1), us, peer));
            }
        }
    }

    #[test]
    fn a_peer_that_began_anew_is_never_kept_out_by_its_former_stream() {
        let (a, b) = (name("a"), name("b"));
        assert!(claim(Dialled::ByPeer, 2).beats(claim(Dialled::ByUs, 1), &a, &b));
        let silent = Claim { dialled: Dialled::ByUs, epoch: None };
        assert!(!claim(Dialled::ByPeer, 2).beats(silent, &a, &b), "two dials at once are no new life");
    }
}
