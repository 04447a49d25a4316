// How old a reading is, although the clock that timed it may be wrong.
//
// The time between measurement and arrival varies where readings are late: a backlog arrives within seconds, with ages from
// minutes to nothing. Where the clocks differ, it stays the same. So the least age of each second of arrival is kept, and
// where these stay within STEADY for SPAN, they are the difference between the clocks.

const SECONDS_KEPT = 10;
const SPAN = 10_000;
const STEADY = 2_000;

/** The state of `observe`: plain data, so that it can be stored. */
export const newClock = () => ({ seconds: [] });

/** Takes note of a reading that arrived; both times are milliseconds since 1970. */
export function observe(clock, timestamp, arrived) {
  const age = arrived - timestamp;
  const second = Math.floor(arrived / 1000);
  const last = clock.seconds.at(-1);
  if (last?.second === second) {
    last.age = Math.min(last.age, age);
    return;
  }
  clock.seconds.push({ second, age });
  if (clock.seconds.length > SECONDS_KEPT) clock.seconds.shift();
}

/** By how many milliseconds the clock of the readings is behind, where that is more than the limit and steady; else 0. */
export function difference(clock, limit) {
  const { seconds } = clock;
  if (seconds.length < 3 || (seconds.at(-1).second - seconds[0].second) * 1000 < SPAN - 1000) return 0;
  const ages = seconds.map(({ age }) => age).sort((a, b) => a - b);
  const middle = ages[Math.floor(ages.length / 2)];
  return ages.at(-1) - ages[0] <= STEADY && Math.abs(middle) > limit ? middle : 0;
}
