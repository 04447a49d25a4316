import { login } from '../../lib/login.js';

export default function connectToTheBroker({ env }) {
  return { action: 'connect', broker: login(env) };
}
