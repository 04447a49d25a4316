//! The inner loops of a tree: from the planes of its levels to sums of path lengths.

use fearless_simd::Level;

use super::{Aligned, LEVELS, Plane, ROWS, Tree, WORDS};

/// How many path lengths fit into the registers of AVX-512. Trees that are grown from different values
/// have fewer.
pub(super) const FEW: usize = 32;

/// Makes bit `i` of byte `b` of plane `p` bit `p` of byte `b` of plane `i`.
#[inline(always)]
pub(super) fn transpose(planes: &mut [Plane; LEVELS]) {
    for (distance, mask) in [
        (4, 0x0F0F_0F0F_0F0F_0F0F_u64),
        (2, 0x3333_3333_3333_3333),
        (1, 0x5555_5555_5555_5555),
    ] {
        for i in (0..LEVELS).filter(|i| i & distance == 0) {
            for word in 0..WORDS {
                let (a, b) = (planes[i].0[word], planes[i + distance].0[word]);
                planes[i].0[word] = (a & mask) | ((b & mask) << distance);
                planes[i + distance].0[word] = ((a >> distance) & mask) | (b & !mask);
            }
        }
    }
}

/// Adds the path length of each row's leaf to its sum.
#[inline(always)]
pub(super) fn add_path_lengths(
    level: Level,
    tree: &Tree,
    leaves: &[Plane; LEVELS],
    sums: &mut Aligned<[f64; ROWS]>,
) {
    #[cfg(target_arch = "x86_64")]
    if let (Some(avx512), true) = (level.as_avx512(), tree.has_few_lengths) {
        add_few_lengths(avx512, tree, leaves, sums);
        return;
    }
    let _ = level;
    let Some(lengths) = tree.lengths.first_chunk::<FEW>() else {
        return;
    };
    if tree.has_few_lengths {
        // The remainder keeps the index in bounds.
        add_each(leaves, sums, |leaf| {
            lengths[usize::from(tree.leaves.0[usize::from(leaf)]) % FEW]
        });
    } else {
        add_each(leaves, sums, |leaf| {
            tree.lengths[usize::from(tree.leaves.0[usize::from(leaf)])]
        });
    }
}

#[inline(always)]
fn add_each(leaves: &[Plane; LEVELS], sums: &mut Aligned<[f64; ROWS]>, length: impl Fn(u8) -> f64) {
    for (leaves, sums) in leaves.iter().zip(sums.0.as_chunks_mut::<64>().0) {
        for (byte, sums) in sums.as_chunks_mut::<WORDS>().0.iter_mut().enumerate() {
            for (sum, word) in sums.iter_mut().zip(leaves.0) {
                *sum += length((word >> (8 * byte)) as u8);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel! {
    /// Looks the path lengths up in registers: first the number of a length, then the length.
    #[inline]
    fn add_few_lengths(
        _avx512: Avx512,
        tree: &Tree,
        leaves: &[Plane; LEVELS],
        sums: &mut Aligned<[f64; ROWS]>,
    ) {
        use fearless_simd::{SimdBase, SimdInto, f64x8, u8x64};
        use std::arch::x86_64::{
            __m512d, __m512i, _mm512_add_pd, _mm512_mask_blend_epi8, _mm512_mask_blend_pd,
            _mm512_movepi8_mask, _mm512_permutex2var_epi8, _mm512_permutex2var_pd, _mm512_set1_epi64,
            _mm512_setr_epi64, _mm512_srli_epi64, _mm512_test_epi64_mask,
        };

        let (numbers, _) = tree.leaves.0.as_chunks::<64>();
        let numbers = |i: usize| -> __m512i { u8x64::from_slice(_avx512, &numbers[i]).into() };
        let (n0, n1, n2, n3) = (numbers(0), numbers(1), numbers(2), numbers(3));
        let (lengths, _) = tree.lengths.as_chunks::<8>();
        let lengths = |i: usize| -> __m512d { f64x8::from_slice(_avx512, &lengths[i]).into() };
        let (l0, l1, l2, l3) = (lengths(0), lengths(1), lengths(2), lengths(3));
        for (leaves, sums) in leaves.iter().zip(sums.0.as_chunks_mut::<64>().0) {
            let [a, b, c, d, e, f, g, h] = leaves.0.map(u64::cast_signed);
            let leaf = _mm512_setr_epi64(a, b, c, d, e, f, g, h);
            // The highest bit of a leaf tells the halves of the table apart.
            let low = _mm512_permutex2var_epi8(n0, leaf, n1);
            let high = _mm512_permutex2var_epi8(n2, leaf, n3);
            let mut number = _mm512_mask_blend_epi8(_mm512_movepi8_mask(leaf), low, high);
            for sums in sums.as_chunks_mut::<8>().0 {
                // Bits above the four lowest do not count.
                let low = _mm512_permutex2var_pd(l0, number, l1);
                let high = _mm512_permutex2var_pd(l2, number, l3);
                let is_high = _mm512_test_epi64_mask(number, _mm512_set1_epi64(16));
                let length = _mm512_mask_blend_pd(is_high, low, high);
                let sum: __m512d = f64x8::from_slice(_avx512, sums).into();
                let sum: f64x8<_> = _mm512_add_pd(sum, length).simd_into(_avx512);
                sum.store_slice(sums);
                number = _mm512_srli_epi64::<8>(number);
            }
        }
    }
}
