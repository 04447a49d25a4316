//! Runs code with the widest vector instructions of the processor, and fused multiply-add.

use fearless_simd::Level;
#[cfg(target_arch = "x86_64")]
use fearless_simd::Simd;

/// Runs `work`, compiled for the instructions of the level.
///
/// `work` and what it calls must be inlined: otherwise they are compiled for any processor. The
/// results have the same bits on all levels, because the compiler neither fuses nor reorders
/// operations.
#[inline(always)]
pub(super) fn at_level<R>(level: Level, work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(avx512) = level.as_avx512() {
            return avx512.vectorize(work);
        }
        if let Some(avx2) = level.as_avx2() {
            return avx2.vectorize(work);
        }
    }
    // Elsewhere the compiler uses the vector instructions that every processor has.
    let _ = level;
    work()
}

/// The levels of this processor that evaluation distinguishes, for tests.
#[cfg(test)]
pub(super) fn levels() -> Vec<Level> {
    let levels = std::iter::once(Level::baseline());
    #[cfg(target_arch = "x86_64")]
    let levels = {
        let best = Level::new();
        let avx = best.as_avx2().map(Level::Avx2);
        levels.chain(avx).chain(best.as_avx512().map(Level::Avx512))
    };
    levels.collect()
}
