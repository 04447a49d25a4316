/** The user name and password from the environment, for the action "connect" of the MQTT nodes; none where none is set. */
export function login(env) {
  const [username, password] = [env.get('MQTT_USER'), env.get('MQTT_PASSWORD')];
  return username ? { username, password } : {};
}

/**
 * The client id of a flow. The broker keeps readings for this client while it is away, so it must stay the same over restarts.
 *
 * A copy of the flow, and the same flow on another computer, have another id: a broker ends the older connection of two with the same
 * id. So has a flow with another topic: the broker would go on sending what the old subscription of the session matches.
 */
export function clientId(flow, host, topic) {
  let hash = 0x811c9dc5;
  for (const character of topic) hash = Math.imul(hash ^ character.codePointAt(0), 0x01000193) >>> 0;
  return `iforest-${flow}-${host}-${hash.toString(16)}`;
}
