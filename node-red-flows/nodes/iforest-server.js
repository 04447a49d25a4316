import { createClient } from '../lib/client.js';

function register(RED) {
  /** The connection to iforest-server, shared by the nodes that use it. */
  function IforestServer(config) {
    RED.nodes.createNode(this, config);
    const tls = {};
    const tlsNode = config.tls && RED.nodes.getNode(config.tls);
    if (tlsNode) tlsNode.addTLSOptions(tls);
    try {
      this.client = createClient({ url: config.url || 'http://localhost:5000', key: this.credentials?.key, tls });
    } catch (error) {
      const detail = error.code === 'ERR_INVALID_URL' ? '' : ` and ${error.message}`;
      this.error(`the address of iforest-server must be like http://localhost:5000${detail}, got ${config.url}`);
    }
    this.on('close', () => this.client?.close());
  }
  RED.nodes.registerType('iforest-server', IforestServer, { credentials: { key: { type: 'password' } } });
}

// Node-RED 4 requires this file, and Node-RED 5 imports it.
export { register as default, register as 'module.exports' };
