// Why a broker cannot be reached: tries once, as an MQTT 3.1.1 client, and says which step fails.
//
// Node-RED shows the same text for all of them, "Connection failed to broker".

const TIMEOUT = 5_000;

/** What the codes of Node.js mean to the person who set the connection up. */
const CAUSES = {
  ENOTFOUND: 'no route: the name of the host is not known; check MQTT_HOST and the DNS server',
  EAI_AGAIN: 'no route: the name of the host cannot be looked up; check the network and the DNS server',
  ECONNREFUSED: 'no route: nothing listens on this port; check MQTT_PORT, and whether the broker runs',
  EHOSTUNREACH: 'no route: the host cannot be reached; check the network and its firewall',
  ENETUNREACH: 'no route: the network cannot be reached; check the network and its firewall',
  ETIMEDOUT: 'no route: the host does not answer; check the address and the firewall',
  ECONNRESET: 'the broker closed the connection; check whether this port speaks TLS (MQTT_TLS)',
  ERR_TLS_CERT_ALTNAME_INVALID: 'name: the certificate is for another host; use the name in the certificate as MQTT_HOST',
  CERT_HAS_EXPIRED: "expired: the broker's certificate is too old; renew it, or set this computer's clock",
  CERT_NOT_YET_VALID: "expired: the broker's certificate is not valid yet; set this computer's clock",
  DEPTH_ZERO_SELF_SIGNED_CERT: 'authority: the certificate signed itself; set MQTT_CA to the file of this certificate',
  SELF_SIGNED_CERT_IN_CHAIN: "authority: the broker's certificate is signed by an unknown authority; set MQTT_CA to its file",
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "authority: the broker's certificate is signed by an unknown authority; set MQTT_CA to its file",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "authority: the broker's certificate is signed by an unknown authority; set MQTT_CA to its file",
  CERT_SIGNATURE_FAILURE: "authority: the broker's certificate is signed by another authority; set MQTT_CA to the right file",
  EPROTO: 'TLS: the port does not speak TLS; check MQTT_PORT, or set MQTT_TLS to false for a broker without TLS',
  ERR_SSL_WRONG_VERSION_NUMBER: 'TLS: the port does not speak TLS; check MQTT_PORT, or set MQTT_TLS to false for a broker without TLS',
  ENOENT: 'authority: the file MQTT_CA does not exist',
};

/** Why a broker that answers refuses, by the return code of its CONNACK (MQTT 3.1.1, section 3.2.2.3). */
const REFUSALS = {
  1: 'the broker does not speak MQTT 3.1.1',
  2: 'the broker refuses the client id',
  3: 'the broker is not available now',
  4: 'refused login: wrong user name or password; check MQTT_USER and MQTT_PASSWORD',
  5: 'refused login: this user may not connect; check MQTT_USER and MQTT_PASSWORD',
};

function connectPacket(clientId, user, password) {
  const field = (text) => {
    const bytes = Buffer.from(text);
    return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes]);
  };
  // A clean session, and a login if there is one.
  const flags = 2 | (user ? 0x80 : 0) | (user && password ? 0x40 : 0);
  const fields = [field('MQTT'), Buffer.from([4, flags, 0, 60]), field(clientId)];
  if (user) fields.push(field(user));
  if (user && password) fields.push(field(password));
  const rest = Buffer.concat(fields);
  const length = rest.length < 128 ? [rest.length] : [(rest.length & 127) | 128, rest.length >> 7];
  return Buffer.concat([Buffer.from([0x10, ...length]), rest]);
}

/**
 * Tries to connect, and resolves to the cause in words, or to '' if the broker accepts the connection.
 *
 * `target` has `url`, `ca` (the path of a file, or ''), `user` and `password`. `modules` are Node.js' `net`, `tls` and `fs`,
 * which a function node gets by name.
 */
export function connectionProblem(target, { net, tls, fs }) {
  return new Promise((resolve) => {
    let socket = null;
    const end = (cause) => {
      clearTimeout(timer);
      socket?.destroy();
      resolve(cause);
    };
    const failed = (error) => end(CAUSES[error.code] ?? error.message);
    const timer = setTimeout(() => end(CAUSES.ETIMEDOUT), TIMEOUT);
    let reply = Buffer.alloc(0);
    try {
      const { protocol, hostname, port } = new URL(target.url);
      const secure = protocol === 'mqtts:';
      const options = { host: hostname, port: Number(port) || (secure ? 8883 : 1883) };
      const login = () => socket.write(connectPacket(`iforest-check-${Date.now().toString(36)}`, target.user, target.password));
      if (secure) {
        const ca = target.ca ? { ca: fs.readFileSync(target.ca) } : {};
        socket = tls.connect({ ...options, servername: net.isIP(hostname) ? '' : hostname, ...ca }, login);
      } else {
        socket = net.connect(options, login);
      }
    } catch (error) {
      failed(error);
      return;
    }
    socket.on('error', failed);
    socket.on('data', (bytes) => {
      reply = Buffer.concat([reply, bytes]);
      if (reply.length < 4) return;
      if (reply[0] !== 0x20) end('the broker does not speak MQTT on this port; check MQTT_PORT');
      else end(reply[3] === 0 ? '' : (REFUSALS[reply[3]] ?? `the broker refuses the connection with code ${reply[3]}`));
    });
    // Some brokers close the connection in place of a refusal.
    socket.on('close', () => end('the broker closed the connection; check MQTT_USER, MQTT_PASSWORD, and whether this port speaks TLS'));
  });
}
