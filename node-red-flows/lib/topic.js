// Names of machines in MQTT topics.
import { isName } from './name.js';

const levels = (filter) => filter.replace(/^\$share\/[^/]+\//, '').split('/');

/**
 * The name of the machine that a topic belongs to: what the `+` of the filter stand for, joined by hyphens. Null if the topic does not
 * match, or if iforest-server does not accept the name for a model.
 */
export function machineOf(filter, topic) {
  const wanted = levels(filter);
  const given = topic.split('/');
  if (wanted.length !== given.length || !wanted.every((level, i) => level === '+' || level === given[i])) return null;
  const name = given.filter((_, i) => wanted[i] === '+').join('-');
  return isName(name) ? name : null;
}

/** The topic for the answer to a reading: `pattern` with what the `+` of the filter stand for in the topic of the reading. */
export function answerTopic(filter, pattern, topic) {
  const given = topic.split('/');
  const found = levels(filter).flatMap((level, i) => (level === '+' ? [given[i]] : []));
  return pattern
    .split('/')
    .map((level) => (level === '+' ? (found.shift() ?? '') : level))
    .join('/');
}
