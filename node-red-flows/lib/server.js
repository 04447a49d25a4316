/** The headers of a request to iforest-server: the key from the environment, if there is one. */
export function serverHeaders(env) {
  const key = env.get('IFOREST_KEY');
  return key ? { authorization: `Bearer ${key}` } : {};
}
