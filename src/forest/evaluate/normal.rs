//! The ranges of normal values of a forest over one feature whose scores know distances.

use crate::total_order::{f32_from_key, f32_to_key};

/// The ranges `(low, high]` of values whose depth is normal, in ascending order.
///
/// `depth` must be convex between two neighbouring `edges`, which must be ascending and finite, and
/// `is_normal` true from some depth on. So of two neighbouring edges, the values between may be
/// normal near both and not in the middle.
pub(super) fn normal_ranges(
    edges: &[f32],
    depth: impl Fn(f32) -> f64,
    is_normal: impl Fn(f64) -> bool,
) -> Vec<(f32, f32)> {
    let search = Search { depth, is_normal };
    let mut ranges = Ranges(Vec::new());
    let ends = edges.iter().copied().chain([f32::INFINITY]);
    let mut low = f32::NEG_INFINITY;
    for high in ends {
        // The forest's path is the same for all values in (low, high].
        let (first, last) = match (low, high) {
            (f32::NEG_INFINITY, high) => (f32::NEG_INFINITY, high),
            (low, high) => (low.next_up(), high),
        };
        search.add(first, last, &mut ranges);
        low = high;
    }
    ranges.0
}

/// Normal ranges so far.
struct Ranges(Vec<(f32, f32)>);

impl Ranges {
    /// Adds the values from `first` to `last`, both inclusive.
    fn push(&mut self, first: f32, last: f32) {
        let low = first.next_down();
        match self.0.last_mut() {
            Some(range) if range.1 == low => range.1 = last,
            _ => self.0.push((low, last)),
        }
    }
}

struct Search<D, N> {
    depth: D,
    is_normal: N,
}

impl<D: Fn(f32) -> f64, N: Fn(f64) -> bool> Search<D, N> {
    fn is_normal(&self, value: f32) -> bool {
        (self.is_normal)((self.depth)(value))
    }

    /// Adds the normal values from `first` to `last`, between which the depth is convex.
    fn add(&self, first: f32, last: f32, ranges: &mut Ranges) {
        match (self.is_normal(first), self.is_normal(last)) {
            // The depth is nowhere greater than at both ends.
            (false, false) => {}
            (true, false) => ranges.push(first, self.last_like(first, last)),
            (false, true) => ranges.push(self.last_like(last, first), last),
            (true, true) => match self.dip(first, last) {
                None => ranges.push(first, last),
                Some(dip) => {
                    ranges.push(first, self.last_like(first, dip));
                    ranges.push(self.last_like(last, dip), last);
                }
            },
        }
    }

    /// Of the values from `from` towards `to`, which differ in whether they are normal, the last that
    /// is like `from`.
    fn last_like(&self, from: f32, to: f32) -> f32 {
        let wanted = self.is_normal(from);
        let (mut like, mut unlike) = (i64::from(f32_to_key(from)), i64::from(f32_to_key(to)));
        while (unlike - like).abs() > 1 {
            let middle = like + (unlike - like) / 2;
            if self.is_normal(value(middle)) == wanted {
                like = middle;
            } else {
                unlike = middle;
            }
        }
        value(like)
    }

    /// A value between two normal ones that is not normal.
    fn dip(&self, first: f32, last: f32) -> Option<f32> {
        let (low, high) = (i64::from(f32_to_key(first)), i64::from(f32_to_key(last)));
        if high - low < 2 {
            return None;
        }
        let middle = middle(first, last).unwrap_or_else(|| value(low + (high - low) / 2));
        let [at_first, at_middle, at_last] = [first, middle, last].map(&self.depth);
        if !(self.is_normal)(at_middle) {
            return Some(middle);
        }
        // The line through two points is below a convex function on both sides of them.
        let (left, right) = (
            f64::from(middle) - f64::from(first),
            f64::from(last) - f64::from(middle),
        );
        let least_left = at_middle - (at_last - at_middle) * (left / right);
        let least_right = at_middle - (at_first - at_middle) * (right / left);
        let may_dip = |least: f64| !(self.is_normal)(least);
        // At most one of the halves dips.
        if may_dip(least_left)
            && let Some(dip) = self.dip(first, middle)
        {
            return Some(dip);
        }
        if may_dip(least_right) {
            return self.dip(middle, last);
        }
        None
    }
}

/// A value half-way between two others; `None` if none lies there.
fn middle(first: f32, last: f32) -> Option<f32> {
    let middle = ((f64::from(first) + f64::from(last)) / 2.0) as f32;
    (first < middle && middle < last).then_some(middle)
}

fn value(key: i64) -> f32 {
    f32_from_key(key as i32)
}
