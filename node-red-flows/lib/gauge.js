// The scale of a gauge: the normal ranges of a model in green, what is around them in red.

const RED = '#d64545';
const GREEN = '#2e9e6b';
const GREY = '#98a5b3';

const down = (value, step) => Math.floor(value / step) * step;
const up = (value, step) => Math.ceil(value / step) * step;
// Sums of steps have digits that nobody wants to read.
const tidy = (value) => Number(value.toPrecision(12));

/**
 * The ends of the scale, and where its colours begin. `ranges` are pairs of bounds, of which the outer ones may be null.
 *
 * A value beyond the usual ends doubles the scale until it fits, so that the needle never sticks at an end.
 */
export function scale(ranges, value) {
  const bounds = ranges.flat().filter((bound) => bound !== null);
  if (bounds.length === 0) return withoutLimits(Number.isFinite(value) ? value : 0);
  const low = Math.min(...bounds);
  const high = Math.max(...bounds);
  const span = high - low || Math.abs(high) || 1;
  const step = 10 ** Math.floor(Math.log10(span));
  // Zero belongs to the scale, unless the machine runs far from it.
  const isNearZero = low >= 0 && low <= 2 * span;
  let min = isNearZero ? 0 : down(low - span / 2, step);
  let max = up(high + span, step);
  if (Number.isFinite(value)) {
    while (value > max) max = max + (max - min);
    while (value < min) min = min - (max - min);
  }
  [min, max] = [tidy(min), tidy(max)];
  const segments = [{ from: min, color: RED }];
  for (const [from, to] of ranges) {
    segments.push({ from: from === null ? min : Math.max(min, from), color: GREEN });
    if (to !== null) segments.push({ from: to, color: RED });
  }
  return { min, max, segments };
}

// Nothing is green or red then, and the scale is a power of ten.
function withoutLimits(value) {
  const max = 10 ** Math.max(1, Math.ceil(Math.log10(Math.abs(value) || 1)));
  const min = value < 0 ? -max : 0;
  return { min, max, segments: [{ from: min, color: GREY }] };
}
