const MINUTE = 60_000;

/** The state of `count`. */
export const newCounter = () => ({ total: 0, held: 0, reportedAt: -Infinity });

/** Counts an event, and returns the line to report: for the first event, then at most once a minute; else null. */
export function count(counter, what, now) {
  counter.total += 1;
  if (now - counter.reportedAt < MINUTE) {
    counter.held += 1;
    return null;
  }
  const line = counter.held > 0 ? `${what} (and ${counter.held} more since the last report)` : what;
  counter.held = 0;
  counter.reportedAt = now;
  return line;
}
