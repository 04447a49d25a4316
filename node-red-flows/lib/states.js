const REPEAT = 60_000;
const MOST = 10_000;

/**
 * Whether a state of a machine is to be published: where it differs from the last one, and once a minute while it stays.
 * `states` is a plain object, the state of this function.
 */
export function isNews(states, name, state, now) {
  const before = states[name];
  if (before?.state === state && now - before.at < REPEAT) return false;
  // Names come from outside, so there is a bound on them.
  if (!before && Object.keys(states).length >= MOST) return false;
  states[name] = { state, at: now };
  return true;
}
