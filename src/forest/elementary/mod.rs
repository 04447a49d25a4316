//! `ln` and `2^-x` with the bits of glibc, on every platform.
//!
//! scikit-learn's scores come from the C library's `log` and `pow`, whose last bit differs between
//! libraries. The bits here are those of glibc 2.28 and newer on a processor with fused
//! multiply-add, which most of PyOD's users run. The method is that of Szabolcs Nagy's
//! [optimized routines](https://github.com/ARM-software/optimized-routines), which glibc uses: a
//! table brings the argument close to 1 or 0, and a polynomial does the rest. Each `mul_add` stands
//! where the compiler of glibc fuses; its result is the same with and without the instruction.

mod tables;

use fearless_simd::Level;

use super::level::at_level;
use tables::{LN, POWERS};

/// The first bits of ln 2: few enough that a product with the exponent of a number is exact.
const LN_2_HIGH: f64 = 0.693_147_180_559_890_3;
/// The rest of ln 2.
const LN_2_LOW: f64 = 5.497_923_018_708_371e-14;

/// `a * b + c`, rounded once.
#[inline(always)]
fn mul_add(level: Level, a: f64, b: f64, c: f64) -> f64 {
    // Without the instruction, the function of MinGW's C library rounds twice.
    #[cfg(all(windows, target_env = "gnu", target_arch = "x86_64"))]
    if level.as_avx2().is_none() && level.as_avx512().is_none() {
        return libm::fma(a, b, c);
    }
    let _ = level;
    a.mul_add(b, c)
}

/// The natural logarithm.
///
/// Has the bits of glibc for all positive normal numbers. Any other number goes to the C library.
pub(crate) fn ln(x: f64) -> f64 {
    let level = Level::new();
    at_level(
        level,
        #[inline(always)]
        || ln_at(level, x),
    )
}

#[inline(always)]
fn ln_at(level: Level, x: f64) -> f64 {
    /// The bits of 0.6875, where the first interval of the table starts.
    const FIRST: u64 = 0x3fe6_0000_0000_0000;
    /// ln(1 + r) - r, as a polynomial from r² on.
    const A: [f64; 5] = [
        -0.500_000_000_000_000_1,
        0.333_333_333_318_255_93,
        -0.249_999_999_962_295_5,
        0.200_003_045_118_144_96,
        -0.166_670_548_276_276_67,
    ];
    if !x.is_normal() || x < 0.0 {
        return x.ln();
    }
    if (0.9375..1.064_697_265_625).contains(&x) {
        return ln_near_1(level, x);
    }
    // With x = z * 2^k and r = z / c - 1, ln(x) = k ln(2) + ln(c) + ln(1 + r).
    let bits = x.to_bits();
    let from_first = bits.wrapping_sub(FIRST);
    let (reciprocal, ln_c) = LN[(from_first >> 45) as usize % LN.len()];
    let k = ((from_first as i64) >> 52) as f64;
    let z = f64::from_bits(bits.wrapping_sub(from_first & 0xfff0_0000_0000_0000));
    let r = mul_add(level, z, reciprocal, -1.0);
    let known = mul_add(level, k, LN_2_HIGH, ln_c);
    let high = known + r;
    let low = mul_add(level, k, LN_2_LOW, known - high + r);
    let r2 = r * r;
    let upper = mul_add(
        level,
        mul_add(level, r, A[4], A[3]),
        r2,
        mul_add(level, r, A[2], A[1]),
    );
    mul_add(level, r * r2, upper, mul_add(level, A[0], r2, low)) + high
}

/// As [`ln`], for numbers near 1, whose logarithms need more digits than the table has.
#[inline(always)]
fn ln_near_1(level: Level, x: f64) -> f64 {
    /// ln(1 + r) - r, as a polynomial from r² on.
    const B: [f64; 11] = [
        -0.5,
        0.333_333_333_333_335_2,
        -0.249_999_999_999_984_32,
        0.199_999_999_993_203_28,
        -0.166_666_666_699_297_06,
        0.142_857_150_765_608_68,
        -0.124_999_978_639_825_55,
        0.111_107_120_329_360_46,
        -0.100_004_867_578_181_93,
        0.091_819_940_061_954_67,
        -0.083_283_630_622_893_41,
    ];
    /// Splits a number into halves whose products are exact.
    const HALF: f64 = 134_217_728.0;
    let r = x - 1.0;
    let r2 = r * r;
    let r3 = r * r2;
    let first = mul_add(level, r2, B[3], mul_add(level, r, B[2], B[1]));
    let second = mul_add(level, r2, B[6], mul_add(level, r, B[5], B[4]));
    let third = mul_add(
        level,
        r3,
        B[10],
        mul_add(level, r2, B[9], mul_add(level, r, B[8], B[7])),
    );
    let upper = mul_add(level, mul_add(level, third, r3, second), r3, first);
    // r - r² / 2, in two numbers.
    let r_high = mul_add(level, -HALF, r, mul_add(level, r, HALF, r));
    let r_low = r - r_high;
    let square = r_high * r_high;
    let high = mul_add(level, square, B[0], r);
    let low = mul_add(
        level,
        B[0] * r_low,
        r + r_high,
        mul_add(level, square, B[0], r - high),
    );
    high + mul_add(level, upper, r3, low)
}

/// `2^-x`, which is C's `pow(2.0, -x)`, for `x` from 0 to [`MAX_EXPONENT`], and the last of these
/// powers beyond: no anomaly score is that small.
///
/// For loops within [`at_level`] at this level, where it is a few instructions.
#[inline(always)]
pub(super) fn power_of_half(level: Level, x: f64) -> f64 {
    /// ln 2 in two numbers, as `pow` computes the logarithm of its base.
    const LN_2: f64 = std::f64::consts::LN_2;
    const LN_2_REST: f64 = 2.319_046_813_846_28e-17;
    /// 128 / ln 2, and ln(2) / 128 in two numbers.
    const PER_LN_2: f64 = 184.664_965_233_787_3;
    const STEP_HIGH: f64 = 0.005_415_212_348_111_709;
    const STEP_LOW: f64 = 1.286_402_311_163_834_6e-14;
    /// Adding it rounds to a whole number, which is then in the last bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    /// e^r - 1 - r, as a polynomial from r² on.
    const C: [f64; 4] = [
        0.499_999_999_999_967_86,
        0.166_666_666_666_658_86,
        0.041_666_680_841_067_4,
        0.008_333_335_853_059_549,
    ];
    let y = -x.min(MAX_EXPONENT);
    // 2^y is e^(y ln 2).
    let high = y * LN_2;
    let low = mul_add(level, y, LN_2_REST, mul_add(level, LN_2, y, -high));
    // With high + low = k ln(2) / 128 + r, the result is 2^(k / 128) e^r.
    let rounded = mul_add(level, high, PER_LN_2, ROUND);
    let k = rounded.to_bits();
    let whole = rounded - ROUND;
    let r = mul_add(
        level,
        whole,
        -STEP_LOW,
        mul_add(level, whole, -STEP_HIGH, high),
    ) + low;
    let (rest, bits) = POWERS[k as usize % POWERS.len()];
    let power = f64::from_bits(bits.wrapping_add(k << 45));
    let r2 = r * r;
    let lower = mul_add(level, mul_add(level, r, C[1], C[0]), r2, rest + r);
    let upper = mul_add(level, mul_add(level, r, C[3], C[2]), r2 * r2, lower);
    mul_add(level, power, upper, power)
}

/// Beyond it, `2^-x` would need the care of numbers that are almost 0.
const MAX_EXPONENT: f64 = 512.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forest::level::levels;

    // Hashes of glibc's results, as `tests/reference/elementary.c` prints them.
    const LN_WHOLE: u64 = 0xf898_6b02_7c10_159c;
    const LN_ANY: u64 = 0xd2ae_834d_c97a_3a59;
    const POWER_QUOTIENTS: u64 = 0xdd27_fd81_697f_ab4d;
    const POWER_ANY: u64 = 0x454f_dc0d_1d50_29eb;

    /// FNV-1a over words.
    struct Hash(u64);

    impl Hash {
        fn new() -> Self {
            Self(0xcbf2_9ce4_8422_2325)
        }

        fn add(&mut self, result: f64) {
            self.0 = (self.0 ^ result.to_bits()).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        }
    }

    #[test]
    fn logarithms_of_whole_numbers_have_the_bits_of_glibc() {
        let mut hash = Hash::new();
        for n in 1..=1 << 20 {
            hash.add(ln(f64::from(n)));
        }
        assert_eq!(hash.0, LN_WHOLE);
    }

    #[test]
    fn logarithms_of_any_number_have_the_bits_of_glibc() {
        let mut random = Random(1);
        let mut hash = Hash::new();
        for _ in 0..1_000_000 {
            let bits = random.next();
            hash.add(ln(f64::from_bits((bits >> 2) + (1 << 52))));
            // Near 1.
            hash.add(ln(0.9 + 0.2 * ((bits >> 11) as f64 / (1u64 << 53) as f64)));
        }
        assert_eq!(hash.0, LN_ANY);
        assert_eq!(ln(0.0), f64::NEG_INFINITY);
        assert_eq!(ln(f64::INFINITY), f64::INFINITY);
        assert!(ln(-1.0).is_nan() && ln(f64::NAN).is_nan());
    }

    #[test]
    fn powers_of_scores_have_the_bits_of_glibc() {
        const BLOCK: usize = 1000;
        let averages: Vec<f64> = (3..1027)
            .map(f64::from)
            .map(|n| 2.0 * (ln(n - 1.0) + 0.577_215_664_901_532_9) - 2.0 * (n - 1.0) / n)
            .collect();
        let mut random = Random(2);
        // What the path lengths of 100 trees, whole edges and averages of leaves, may add up to,
        // divided by their average.
        let mut quotient = || {
            let bits = random.next();
            let average = |shift: u32, count: u64| averages[(bits >> shift & (count - 1)) as usize];
            let whole = |shift: u32, count: u64| (bits >> shift & (count - 1)) as f64;
            let leaves = whole(27, 64) * average(10, 64) + whole(33, 16) * average(16, 1024);
            (whole(37, 1024) + leaves) / (100.0 * average(0, 1024))
        };
        let mut hash = Hash::new();
        let mut powers = [0.0; BLOCK];
        let level = Level::new();
        for _ in 0..100_000_000 / BLOCK {
            powers.fill_with(&mut quotient);
            at_level(
                level,
                #[inline(always)]
                || {
                    for power in &mut powers {
                        *power = power_of_half(level, *power);
                    }
                },
            );
            for power in powers {
                hash.add(power);
            }
        }
        assert_eq!(hash.0, POWER_QUOTIENTS);
    }

    #[test]
    fn powers_have_the_bits_of_glibc_at_every_level() {
        for level in levels() {
            let mut random = Random(3);
            let mut hash = Hash::new();
            for _ in 0..1_000_000 {
                let u = (random.next() >> 11) as f64 / (1u64 << 53) as f64;
                for x in [512.0 * u, u * u * u * u * u * u * u * u] {
                    hash.add(at_level(
                        level,
                        #[inline(always)]
                        || power_of_half(level, x),
                    ));
                }
            }
            assert_eq!(hash.0, POWER_ANY, "{level:?}");
        }
    }

    #[test]
    fn powers_are_exact_where_they_can_be() {
        let power_of_half = |x| power_of_half(Level::new(), x);
        for whole in 0..=512 {
            assert_eq!(power_of_half(f64::from(whole)), 2f64.powi(-whole));
        }
        assert_eq!(power_of_half(0.5), std::f64::consts::FRAC_1_SQRT_2);
        assert_eq!(power_of_half(f64::MIN_POSITIVE), 1.0);
        assert_eq!(power_of_half(f64::INFINITY), 2f64.powi(-512));
    }
}
