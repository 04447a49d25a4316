/** The user name and password from the environment, for the action "connect" of the MQTT nodes; none where none is set. */
export function login(env) {
  const [username, password] = [env.get('MQTT_USER'), env.get('MQTT_PASSWORD')];
  return username ? { username, password } : {};
}
