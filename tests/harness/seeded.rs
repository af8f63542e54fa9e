//! Chance that a test prints and can be given again.

/// A small generator (splitmix64): the same seed gives the same numbers.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// The generator of the seed in `LOGWEIR_SEED`, or of one that differs from run to run; prints it.
    #[must_use]
    pub fn from_environment() -> Self {
        let seed = std::env::var("LOGWEIR_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        println!("LOGWEIR_SEED={seed}");
        Self(seed)
    }

    /// A number below `bound` (exclusive), which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
