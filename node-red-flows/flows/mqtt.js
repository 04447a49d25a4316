/** The settings of a flow's connection to the broker. The tab makes one address of them: `MQTT_URL`. */
export const MQTT = [
  {
    name: 'MQTT_URL',
    jsonata:
      '($tls := $lowercase($env("$parent.MQTT_TLS")) != "false"; $host := $env("$parent.MQTT_HOST"); $port := $env("$parent.MQTT_PORT"); ($tls ? "mqtts://" : "mqtt://") & ($host != "" ? $host : "YOUR-CLUSTER.s1.eu.hivemq.cloud") & ":" & ($port != "" ? $port : $tls ? "8883" : "1883"))',
  },
  { name: 'MQTT_HOST', shown: 'YOUR-CLUSTER.s1.eu.hivemq.cloud', text: 'the broker' },
  { name: 'MQTT_TLS', shown: 'true', text: 'false: plain MQTT, for a broker in your own network' },
  { name: 'MQTT_PORT', shown: '8883, or 1883 without TLS', text: '' },
  {
    name: 'MQTT_CA',
    fallback: '',
    text: "PEM file of the authority that signed the broker's certificate; none: the well-known authorities, which HiveMQ Cloud needs",
  },
  { name: 'MQTT_USER', fallback: '', text: 'name for the broker' },
  { name: 'MQTT_PASSWORD', fallback: '', text: 'password for the broker' },
];

/** The configuration nodes of the connection. */
export function mqttNodes({ tls, broker }) {
  return [
    tlsNode(tls, 'Verified TLS', '${MQTT_CA}'),
    {
      id: broker,
      type: 'mqtt-broker',
      name: 'MQTT broker',
      broker: '${MQTT_URL}',
      port: '',
      tls,
      clientid: '',
      // The node "connect to the broker" does: Node-RED reads the login from a flow only where the flow is deployed, not
      // where it is a file.
      autoConnect: false,
      usetls: true,
      protocolVersion: '4',
      keepalive: '60',
      cleansession: true,
      autoUnsubscribe: true,
      birthTopic: '',
      birthQos: '0',
      birthRetain: 'false',
      birthPayload: '',
      birthMsg: {},
      closeTopic: '',
      closeQos: '0',
      closeRetain: 'false',
      closePayload: '',
      closeMsg: {},
      willTopic: '',
      willQos: '0',
      willRetain: 'false',
      willPayload: '',
      willMsg: {},
      userProps: '',
      // In seconds, for MQTT 5.
      sessionExpiry: '86400',
      credentials: { user: '${MQTT_USER}', password: '${MQTT_PASSWORD}' },
    },
  ];
}

/** A connection that checks the certificate of the other side, against the authorities in a file, or the well-known ones. */
export function tlsNode(id, name, ca) {
  return {
    id,
    type: 'tls-config',
    name,
    cert: '',
    key: '',
    ca,
    certname: '',
    keyname: '',
    caname: '',
    servername: '',
    verifyservercert: true,
    alpnprotocol: '',
  };
}

/** The settings of the connection to iforest-server, in flows that send requests. */
export const SERVER = [
  {
    name: 'IFOREST_URL',
    fallback: 'http://localhost:5000',
    text: 'address of iforest-server; with /models/NAME appended, this tab uses the model of that name',
  },
  { name: 'IFOREST_KEY', fallback: '', text: 'key for iforest-server, if it has a file of API keys' },
  {
    name: 'IFOREST_CA',
    fallback: '',
    text: 'PEM file of the authority that signed the certificate of iforest-server, if IFOREST_URL begins with https',
  },
];

/** The modules of Node.js that the node "connect to the broker" of the bridges uses. */
export const CONNECT_LIBS = ['os', 'net', 'tls', 'fs'].map((module) => ({ var: module, module }));
