// The course of a value, in points for a chart that fit the rate of the machine.

// A little less than half a second, at which the page asks.
const SHORTEST = 400;
const STEPS_KEPT = 15;
const SHORTEST_GAP = 1500;
const LONGEST_FRESH = 10_000;

/** The state: plain data. */
export const newTrend = () => ({ lastAt: 0, steps: [], open: null, gap: true });

/** Adds a reading: its values by name, of which some may be null. */
export function add(trend, values, now) {
  if (trend.lastAt > 0) {
    trend.steps.push(now - trend.lastAt);
    if (trend.steps.length > STEPS_KEPT) trend.steps.shift();
  }
  trend.lastAt = now;
  trend.open ??= { at: now, values: {} };
  for (const [name, value] of Object.entries(values)) {
    if (!Number.isFinite(value)) continue;
    const of = (trend.open.values[name] ??= { min: value, max: value, sum: 0, count: 0 });
    of.min = Math.min(of.min, value);
    of.max = Math.max(of.max, value);
    of.sum += value;
    of.count += 1;
  }
}

/** The usual time between two readings in milliseconds; 0 while nothing is known. */
export function step({ steps }) {
  if (steps.length === 0) return 0;
  return [...steps].sort((a, b) => a - b)[Math.floor(steps.length / 2)];
}

/** Whether the last reading is as recent as those of this machine usually are. */
export const isFresh = (trend, now) => trend.lastAt > 0 && now - trend.lastAt < Math.max(LONGEST_FRESH, 3 * step(trend));

/**
 * The point of the interval that has ended: `{ name: { min, mean, max } }`, `'gap'` where readings stay away, once, or null.
 *
 * An interval lasts half a second, so a machine with fewer readings has a point for each.
 */
export function next(trend, now) {
  if (trend.open && now - trend.open.at >= SHORTEST) {
    const { values } = trend.open;
    trend.open = null;
    trend.gap = false;
    return Object.fromEntries(Object.entries(values).map(([name, { min, max, sum, count }]) => [name, { min, mean: sum / count, max }]));
  }
  if (trend.open || trend.gap || now - trend.lastAt < Math.max(SHORTEST_GAP, 3 * step(trend))) return null;
  trend.gap = true;
  return 'gap';
}
