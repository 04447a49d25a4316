import { serverHeaders } from '../../lib/server.js';

export default function buildTheRequest({ msg, env }) {
  return { payload: { value: msg.payload }, headers: serverHeaders(env), requestTimeout: 10000 };
}
