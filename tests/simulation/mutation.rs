//! Deliberate breakages: each takes one guard away, between a core and what surrounds it.
//!
//! They prove that the simulator sees: for each of them there is an invariant that must fall.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// A process publishes before its sources have spoken.
    PublishesBeforeLoaded,
    /// The network loses one message inside a stream.
    LosesAWord,
    /// What is held of another life of the peer counts as of this one.
    MixesEpochs,
    /// What was remembered of names is not read back at a start.
    ForgetsClaims,
    /// What was allocated is not taken from the pool.
    AllocatesTwice,
    /// A stream to a relationship that has ended is dialled all the same.
    DialsTheRemoved,
    /// A removal is told to nobody but the store.
    KeepsTheRemoved,
    /// Something that is not exported is in the view.
    ExportsMore,
    /// Time passes and membership is not told.
    StopsTheClock,
    /// A commit is acknowledged and lost.
    ForgetsACommit,
    /// A delta reaches a gateway without what was removed.
    KeepsRemovedParts,
    /// Generations begin anew with each life.
    ForgetsGenerations,
}

impl Mutation {
    /// All of them, each with the invariants of which one must fall.
    pub(crate) const ALL: &'static [(Self, &'static [&'static str])] = &[
        (Self::PublishesBeforeLoaded, &["a_restart_withdraws_nothing"]),
        (Self::LosesAWord, &["what_was_reached_is_a_view_that_was"]),
        (Self::MixesEpochs, &["what_was_reached_is_a_view_that_was", "what_is_held_is_durable"]),
        (Self::ForgetsClaims, &["t5_a_claim_is_not_taken_over"]),
        (Self::AllocatesTwice, &["an_address_belongs_to_one_service"]),
        (Self::DialsTheRemoved, &["a_removed_peer_is_not_dialled"]),
        (Self::KeepsTheRemoved, &["a_removed_peer_contributes_nothing"]),
        (Self::ExportsMore, &["t7_only_what_was_exported_is_visible"]),
        (Self::StopsTheClock, &["silence_is_never_fresh"]),
        (Self::ForgetsACommit, &["what_is_held_is_durable"]),
        (Self::KeepsRemovedParts, &["deltas_equal_the_full_state"]),
        (Self::ForgetsGenerations, &["generations_only_grow"]),
    ];
}
