//! Faults that a test plants on purpose, to show that the simulation finds what it is for. Without the feature `sabotage`
//! there are none, and asking for one is a constant.

/// Whether this build can be sabotaged: the binary of the broker refuses to be built from it.
pub const POSSIBLE: bool = cfg!(feature = "sabotage");

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// An envelope is acknowledged before it is committed.
    AckBeforeCommit,
    /// A thread counts as read up to the newest message that came live.
    WatermarkAtNewest,
    /// What became of an input is read, and believed, at a time-out.
    ScanWithoutBarrier,
    /// A part whose fate is unknown is sent again without a look.
    ResendWithoutReadBack,
    /// `-stop` ends the turn and leaves the messages that wait.
    StopForgetsQueue,
    /// Two tasks own a session, and no fence keeps them apart.
    TwoOwners,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::AckBeforeCommit,
        Self::WatermarkAtNewest,
        Self::ScanWithoutBarrier,
        Self::ResendWithoutReadBack,
        Self::StopForgetsQueue,
        Self::TwoOwners,
    ];

    /// The fault of this name, such as `AckBeforeCommit`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plant| format!("{plant:?}") == name)
    }
}

#[cfg(feature = "sabotage")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Plant>> = const { std::cell::Cell::new(None) };
}

/// Plants a fault in whatever runs on the present thread, or takes it out.
#[cfg(feature = "sabotage")]
pub fn plant(plant: Option<Plant>) {
    PLANTED.set(plant);
}

/// Whether a fault is planted.
#[cfg(feature = "sabotage")]
pub fn planted(plant: Plant) -> bool {
    PLANTED.get() == Some(plant)
}

/// Whether a fault is planted: never.
#[cfg(not(feature = "sabotage"))]
#[inline(always)]
pub const fn planted(_plant: Plant) -> bool {
    false
}
