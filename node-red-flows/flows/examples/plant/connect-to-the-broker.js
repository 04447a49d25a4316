export { default, start } from '../../2-mqtt-bridge/connect-to-the-broker.js';
