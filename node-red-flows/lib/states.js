const REPEAT = 60_000;

/**
 * Whether a state of a machine is to be published: where it differs from the last one, and once a minute as long as it stays.
 * `states` is a plain object, the state of this function.
 */
export function isNews(states, name, state, now) {
  const before = states[name];
  if (before?.state === state && now - before.at < REPEAT) return false;
  states[name] = { state, at: now };
  return true;
}
