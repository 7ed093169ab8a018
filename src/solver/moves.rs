//! The moves and pruning rules of the searches, each with a switch.
//!
//! Everything is on unless a test asks what a move is worth, or whether an exact search says the
//! same without a rule.

/// A move of a search, or a rule that prunes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Move {
    /// Eviction with several rules instead of the plain one.
    Rules,
    /// Eviction minds the room where something is made again.
    Care,
    /// An ancestor that is gone may be kept longer instead of made again.
    Keep,
    /// In large graphs several storages are evicted at a time.
    Batch,
    /// Start from an order that runs early what frees more than it makes.
    ShrinkFirst,
    /// Start from an order that finishes one result before it begins with the next.
    Branches,
    /// Start from what is best kept at the boundary.
    Closure,
    /// Start from orders in which what is live at the peak is decided anew, peak after peak.
    Recut,
    /// Start from the table over blocks of a chain.
    Chain,
    /// Start from orders that drop and make again on demand.
    Demand,
    /// Start from plans for somewhat smaller budgets.
    Smaller,
    /// Keep again what fits after an eviction.
    GiveBack,
    /// Before a simulation, look whether what would be kept can fit at all.
    QuickLook,
    /// Ruin a stretch of the order.
    RuinStretch,
    /// Ruin random runs.
    RuinRandom,
    /// Ruin the repeats of a few units next to each other.
    RuinUnits,
    /// Run something earlier or later.
    Shift,
    /// Now and then accept what is a little worse.
    Anneal,
    /// Re-solve windows exactly.
    Windows,
    /// Where nothing fits, go through all that can be live at once.
    Reach,
    /// Solve small problems exactly.
    Exact,
    /// The exact search estimates what is still to come.
    Estimate,
    /// The exact search drops values only when something is blocked.
    LateDrops,
    /// Solve what is not so small exactly, from its end.
    Regress,
    /// That search tries no other run last where one may as well be it.
    Forced,
}

impl Move {
    /// Every move there is.
    pub const ALL: [Self; 25] = [
        Self::Rules,
        Self::Care,
        Self::Keep,
        Self::Batch,
        Self::ShrinkFirst,
        Self::Branches,
        Self::Closure,
        Self::Recut,
        Self::Chain,
        Self::Demand,
        Self::Smaller,
        Self::GiveBack,
        Self::QuickLook,
        Self::RuinStretch,
        Self::RuinRandom,
        Self::RuinUnits,
        Self::Shift,
        Self::Anneal,
        Self::Windows,
        Self::Reach,
        Self::Exact,
        Self::Estimate,
        Self::LateDrops,
        Self::Regress,
        Self::Forced,
    ];
}

/// A set of moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moves(u32);

impl Default for Moves {
    fn default() -> Self {
        Self::all()
    }
}

impl Moves {
    /// Everything on.
    pub const fn all() -> Self {
        Self(u32::MAX)
    }

    /// The same without one.
    pub const fn without(self, it: Move) -> Self {
        Self(self.0 & !(1 << it as u32))
    }

    /// Whether one is on.
    pub const fn has(self, it: Move) -> bool {
        self.0 & (1 << it as u32) != 0
    }
}
