// HiveMQ Edge itself does not run here: its configuration is checked as XML, against the README and the flows.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { readPayload } from '../lib/reading.js';
import { readFlow } from '../bed/node-red.mjs';

// The parser of Node-RED's XML node.
const require = createRequire(import.meta.url);
const { Parser } = createRequire(require.resolve('node-red/package.json'))('xml2js');
const parse = (xml) => new Parser({ explicitArray: false }).parseStringPromise(xml);

const config = readFileSync(new URL('../edge/config.xml', import.meta.url), 'utf8');
/** The configuration with its options, which are elements in comments. */
const whole = config.replaceAll(/<!--\s*(<(?!!)[^]*?)-->/g, '$1');
const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
const section = readme.split('\n## HiveMQ Edge\n')[1].split('\n## ')[0];
const compact = (xml) => xml.replaceAll(/<!--[^]*?-->/g, '').replaceAll(/\s+/g, '');
/** The default of a setting, which stands last in its expression. */
const fallback = (name) => /: "(.*)"$/.exec(readFlow('2-mqtt-bridge.json')[0].env.find((entry) => entry.name === name).value)[1];

test('the configuration is XML, also with its options', async () => {
  await assert.rejects(parse('<a><b></a>'), 'the parser refuses what is no XML');
  const { hivemq } = await parse(config);
  assert.deepEqual([hivemq['admin-api'], hivemq['dynamic-configuration']], [undefined, undefined]);
  const all = (await parse(whole)).hivemq;
  assert.equal(all['dynamic-configuration']['allow-mutable-configuration'], 'false');
  assert.equal(all['admin-api'].listeners['http-listener']['bind-address'], '0.0.0.0');
  assert.equal(all['mqtt-bridges']['mqtt-bridge']['forwarded-topics']['forwarded-topic']['queue-limit'], '100000');
  assert.equal(all['protocol-adapters']['protocol-adapter'].config.overrideUri, 'true');
});

test('the configuration has the elements that the README names', () => {
  const named = [...section.matchAll(/<([A-Za-z-]+)>/g)].map(([, name]) => name);
  assert.ok(new Set(named).size >= 12, `${named}`);
  for (const name of named) assert.ok(compact(whole).includes(`<${name}>`), `<${name}> in edge/config.xml`);
  for (const [element] of section.matchAll(/<([A-Za-z-]+)>[^<`]+<\/\1>/g)) assert.ok(compact(whole).includes(element), element);
});

test('the configuration has the values that the README promises', async () => {
  const { hivemq } = await parse(config);
  const queued = hivemq.mqtt['queued-messages'];
  assert.deepEqual(queued, { 'max-queue-size': '100000', strategy: 'discard-oldest' });
  const bridge = hivemq['mqtt-bridges']['mqtt-bridge'];
  const subscription = bridge['remote-subscriptions']['remote-subscription'];
  const forwarded = bridge['forwarded-topics']['forwarded-topic'];
  const adapter = hivemq['protocol-adapters']['protocol-adapter'];
  const mapping = adapter.northboundMappings.northboundMapping;
  assert.deepEqual([subscription['max-qos'], forwarded['max-qos'], mapping.maxQos], ['1', '1', '1']);
  assert.equal(bridge['remote-broker'].mqtt['session-expiry'], fallback('MAX_AGE'), 'no flag is kept longer than the flow allows');
  assert.match(section, new RegExp(`\`MAX_AGE\` \\(${fallback('MAX_AGE')} s\\)`));
  assert.deepEqual(adapter.config.opcuaToMqtt, { serverQueueSize: '10', publishingInterval: '250' });
  assert.match(section, /asks for four a second/);
  assert.equal(mapping.includeMetadata, 'true');
});

// The flows must find the readings where this configuration sends them, and return the predictions to where it subscribes.
test('the topics are those of the flows', async () => {
  const { hivemq } = await parse(config);
  const bridge = hivemq['mqtt-bridges']['mqtt-bridge'];
  const { topic } = hivemq['protocol-adapters']['protocol-adapter'].northboundMappings.northboundMapping;
  const { destination } = bridge['forwarded-topics']['forwarded-topic'];
  assert.equal(destination.replace('{#}', topic), fallback('READING_TOPIC'));
  assert.equal(bridge['remote-subscriptions']['remote-subscription'].filters['mqtt-topic-filter'], `${fallback('ANOMALY_TOPIC')}/#`);
});

test("the README's message with a quality is read as it says", () => {
  const line = section.split('\n').find((text) => text.startsWith('    {"value":2.5,'));
  const message = JSON.parse(line.replaceAll(':…', ':1764300000000'));
  const now = 1764300001000;
  const good = { reading: { value: 2.5, timestamp: message.timestamp, tagName: 'rVib' } };
  assert.deepEqual(readPayload(message, now), good);
  const { metadata, ...withoutMetadata } = message;
  assert.deepEqual(readPayload(withoutMetadata, now), good);
  // The codes of OPC UA for a failed sensor and for the last usable value.
  for (const [code, symbol] of [
    [0x808c0000, 'BadSensorFailure'],
    [0x40900000, 'UncertainLastUsableValue'],
  ]) {
    const judged = readPayload({ ...message, metadata: { ...metadata, statusCode: { code, symbol } } }, now);
    assert.deepEqual(judged, { unknown: `quality ${symbol}`, timestamp: message.timestamp });
  }
  assert.deepEqual(readPayload({ ...message, value: null }, now).unknown, 'the tag has no value');
});
