const MINUTE = 60_000;

/** The state of `count`. */
export const newCounter = () => ({ total: 0, held: 0, reportedAt: -Infinity, reported: 0 });

/** Counts an event, and returns the line to report; null where there were `most` within a minute already. */
export function count(counter, what, now, most = 1) {
  counter.total += 1;
  if (now - counter.reportedAt < MINUTE) {
    counter.reported += 1;
    if (counter.reported <= most) return what;
    counter.held += 1;
    return null;
  }
  counter.reported = 1;
  const line = counter.held > 0 ? `${what} (and ${counter.held} more since the last report)` : what;
  counter.held = 0;
  counter.reportedAt = now;
  return line;
}
