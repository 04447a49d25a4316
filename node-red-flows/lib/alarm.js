// An alarm that single anomalies do not raise, and that does not flicker.
//
// The rule counts seconds, not readings, so that it means the same for a machine with fifty readings a second and for one with four
// a minute. It rises where most readings of a time are anomalies, and ends where few of a longer time are: between the two it stays.

/** Share of anomalies from which the alarm rises, and below which it ends. */
const RISE = 0.6;
const END = 0.2;

const CLOCK_STEP = 5;

/** The state of an alarm: plain data. `seconds` counts the readings of each second, so it does not grow with their rate. */
export const newAlarm = () => ({ on: false, since: 0, seconds: [] });

/**
 * Counts a reading, and returns whether the alarm changed.
 *
 * `rule` has `on` and `off`, in seconds, and `count`, the least number of anomalies. Where a machine has fewer readings in that
 * time, the rule looks further back, until `count` anomalies are the share that raises the alarm: fewer readings would raise it by
 * chance.
 */
export function judge(alarm, isAnomaly, rule, now) {
  const second = Math.floor(now / 1000);
  // After the clock of this computer was set back, nothing before counts.
  if (alarm.seconds.at(-1)?.second > second + CLOCK_STEP) alarm.seconds = [];
  const last = alarm.seconds.at(-1);
  if (last && last.second >= second) {
    last.all += 1;
    last.bad += isAnomaly ? 1 : 0;
  } else {
    alarm.seconds.push({ second, all: 1, bad: isAnomaly ? 1 : 0 });
  }
  const least = Math.ceil(rule.count / RISE);
  const [start, end] = [readingsOf(alarm, rule.on, least), readingsOf(alarm, rule.off, least)];
  alarm.seconds.splice(0, alarm.seconds.length - Math.max(start.length, end.length) - 1);

  const before = alarm.on;
  const lasts = second - alarm.seconds[0].second + 1 >= rule.on;
  if (lasts && start.bad >= rule.count && start.bad >= RISE * start.all) alarm.on = true;
  else if (end.bad <= END * end.all) alarm.on = false;
  if (alarm.on !== before) alarm.since = now;
  return alarm.on !== before;
}

/** The readings of the last seconds, or of more until there are `least`. `length` is the number of entries. */
function readingsOf({ seconds }, span, least) {
  const sum = { all: 0, bad: 0, length: 0 };
  const now = seconds.at(-1).second;
  for (let i = seconds.length - 1; i >= 0; i -= 1) {
    if (seconds[i].second <= now - span && sum.all >= least) break;
    sum.all += seconds[i].all;
    sum.bad += seconds[i].bad;
    sum.length += 1;
  }
  return sum;
}
