import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { brokers, client } from '../bed/brokers.mjs';
import { certificates } from '../bed/certificates.mjs';
import { local, nodeNamed, readFlow, startNodeRed, withSettings } from '../bed/node-red.mjs';
import { freePort, sleep, temporaryFolder, until } from '../bed/process.mjs';
import { startServer } from '../bed/server.mjs';

const shipped = readFlow('2-mqtt-bridge.json');
const flow = shipped;
const READINGS = 'hivemq-edge/machine/s71500/rVib';
const TEXT = 'hivemq-edge/machine/s71500/anomaly';
const JSON_ = `${TEXT}/json`;
const FLAG = `${TEXT}/flag`;
const NORMAL = 'Normal Behaviour';
const ANOMALY = 'Anomaly Detected';
const login = { user: 'node-red', password: 'a password of this test' };

const certs = await certificates();

for (const kind of brokers('the bridge')) {
  describe(`bridge on ${kind.name}`, () => {
    let brokerPort, serverPort, nodeRed, broker, server, us;
    const secured = { tls: certs.right, login };
    const ourUrl = () => `mqtts://localhost:${brokerPort}`;
    const ourOptions = { username: login.user, password: login.password };
    const connect = (more = {}) => client(ourUrl(), { ca: [readFileSync(certs.authority)], ...ourOptions, ...more });
    const isUp = (of = flow) => until(() => nodeRed.status(of, 'readings').fill === 'green', 'the bridge to connect');
    const values = () => us.texts(JSON_).map((text) => JSON.parse(text).input_value);
    const reports = () => nodeRed.debug.map((event) => event.msg);
    const send = (payload, options = {}) =>
      us.publishAsync(READINGS, typeof payload === 'string' ? payload : JSON.stringify(payload), { qos: 1, ...options });

    /** Every prediction arrived on all three topics, none of them empty or wrong. */
    function nothingWrong() {
      const whole = us.texts(JSON_).map((text) => JSON.parse(text));
      assert.deepEqual(us.texts(TEXT), whole.map((prediction) => prediction.status));
      assert.deepEqual(us.texts(FLAG).map((text) => JSON.parse(text)), whole.map(({ prediction }) => ({ value: prediction === 1 })));
      for (const { input_value: value, status } of whole) {
        if (value >= 6) assert.equal(status, ANOMALY, `of ${value}`);
        if (value >= 1 && value <= 4) assert.equal(status, NORMAL, `of ${value}`);
      }
    }

    before(async () => {
      brokerPort = await freePort();
      serverPort = await freePort();
      nodeRed = await startNodeRed({
        MQTT_HOST: 'localhost',
        MQTT_PORT: String(brokerPort),
        MQTT_USER: login.user,
        MQTT_PASSWORD: login.password,
        MQTT_CA: certs.authority,
        IFOREST_URL: `http://localhost:${serverPort}`,
      });
    });
    after(() => nodeRed?.stop());

    beforeEach(async () => {
      broker = await kind.start(brokerPort, secured);
      server = await startServer(serverPort);
      us = await connect();
      await us.subscribeAsync([TEXT, JSON_, FLAG], { qos: 1 });
    });
    afterEach(async () => {
      await nodeRed.deploy([]);
      await us.endAsync(true);
      await server.stop();
      await broker.stop();
    });

    // The tutorial's flow publishes an empty message for each bad input, and a PLC or a dashboard takes it for a
    // prediction. Good input must give its prediction, bad input one report and nothing else.
    test('each kind of input gives its prediction or one report', async () => {
      await nodeRed.deploy(flow);
      await isUp();
      const edge = (value) => JSON.stringify({ value, timestamp: Date.now(), tagName: 'rVib' });
      const table = [
        [edge(2.5), NORMAL],
        [edge(9.5), ANOMALY],
        ['{"value":"9.5"}', ANOMALY],
        ['{"value":" 2.5 "}', NORMAL],
        ['{"value":true}', NORMAL],
        ['9.5', ANOMALY],
        ['2.5', NORMAL],
        ['"9.5"', ANOMALY],
        ['.25e1', NORMAL],
        ['+9.5', ANOMALY],
        ['{"value":123456789012345678901234567890}', ANOMALY],
        ['{"value":"NaN"}', null],
        ['{"value":NaN}', null],
        ['{"value":"inf"}', null],
        ['{"value":1e400}', null],
        ['{"value":""}', null],
        ['{"value":[1,null]}', null],
        ['{"value":[]}', null],
        ['{"value":[1,[2]]}', null],
        ['[1,2]', null],
        ['{"value":{"vibration":2.5,"temperature":"hot"}}', null],
        ['{"value":{}}', null],
        ['abc', null],
        ['9,5', null],
        ['0x10', null],
        ['{"Value":1}', null],
        ['{"value":2.5', null],
        ['null', null],
        ['', null],
        [Buffer.from([0xff, 0xfe, 0x00]), null],
      ];
      let refused = 0;
      for (const [payload, expected] of table) {
        us.heard.length = 0;
        nodeRed.debug.length = 0;
        await us.publishAsync(READINGS, payload, { qos: 1 });
        if (expected === null) {
          refused += 1;
          const shown = () => nodeRed.status(flow, 'read the number').text ?? '';
          await until(() => shown().startsWith(`${refused} refused, the last: not a finite number: `), () => `the refusal of ${payload}, not ${shown()}`);
        } else {
          await until(() => us.heard.length >= 3, `the predictions for ${payload}`);
          nothingWrong();
          assert.deepEqual(us.texts(TEXT), [expected], String(payload));
        }
        // A good reading after each input: once its prediction is there, no message of the input is still on its way.
        await send(3);
        await until(() => values().at(-1) === 3 && us.texts(FLAG).length === values().length, 'the reading after');
        assert.equal(us.heard.length, expected === null ? 3 : 6, `messages after ${payload}`);
        // The first is reported, the next minute's are counted.
        assert.deepEqual(reports().map((text) => text.split(': ')[0]), refused === 1 && expected === null ? ['refused'] : [], `reports after ${payload}`);
      }
    });

    // A dashboard plots the reading at its own time, not at the time of the prediction.
    test('the whole prediction keeps the time and name of the reading', async () => {
      await nodeRed.deploy(flow);
      await isUp();
      const timestamp = Date.now() - 123;
      await send({ value: 9, timestamp, tagName: 'rVib', other: 'x' });
      await until(() => us.texts(FLAG).length === 1, 'the predictions');
      const whole = JSON.parse(us.texts(JSON_)[0]);
      assert.deepEqual(Object.keys(whole).sort(), [
        'anomaly_score', 'input_value', 'prediction', 'scaled_value', 'status', 'tagName', 'timestamp',
      ]);
      assert.equal(whole.timestamp, timestamp);
      assert.equal(whole.tagName, 'rVib');
      assert.equal(us.texts(FLAG)[0], '{"value":true}');
      // Gateways also write the time as text; without an offset it is UTC.
      const iso = new Date(timestamp).toISOString();
      await send({ value: 9, timestamp: iso });
      await send({ value: 9, timestamp: iso.replace('Z', '') });
      await send({ value: 9, timestamp: new Date(timestamp + 7_200_000).toISOString().replace('Z', '+02:00') });
      await until(() => us.texts(FLAG).length === 4, 'the predictions');
      assert.deepEqual(us.texts(JSON_).map((text) => JSON.parse(text).timestamp), Array(4).fill(timestamp));
    });

    // Concurrent requests put 3 to 6 % of the predictions out of order at this rate, and then a prediction
    // appears beside the wrong reading.
    test('5,000 readings at more than 1,000 a second are predicted in order', async (t) => {
      await nodeRed.deploy(flow);
      await isUp();
      const sent = Array.from({ length: 5000 }, (_, i) => Number((1 + i / 2000).toFixed(4)));
      const start = Date.now();
      for (let i = 0; i < sent.length; i += 1) {
        us.publish(READINGS, `{"value":${sent[i]}}`, { qos: 1 });
        const early = start + i / 1.5 - Date.now();
        if (early > 4) await sleep(early);
      }
      const published = Date.now() - start;
      await until(() => us.heard.length >= 3 * sent.length, () => `the last of ${us.heard.length} messages`, 60);
      const predicted = Date.now() - start;
      assert.deepEqual(values(), sent);
      nothingWrong();
      assert.deepEqual(reports(), []);
      assert.ok(published < 5000, `publishing took ${published} ms, slower than 1,000 a second`);
      t.diagnostic(`${kind.name}: 5,000 published in ${published} ms, all predicted after ${predicted} ms`);
    });

    // After an outage of the line to the plant, hours of readings arrive at once.
    test('20,000 readings at once are predicted in order', async (t) => {
      const wide = withSettings(flow, { QUEUE_LIMIT: 50000, MAX_AGE: 60 });
      await nodeRed.deploy(wide);
      await isUp(wide);
      const sent = Array.from({ length: 20000 }, (_, i) => Number((1 + i / 10000).toFixed(4)));
      const start = Date.now();
      for (const value of sent) us.publish(READINGS, String(value), { qos: 1 });
      await until(() => us.heard.length >= 3 * sent.length, () => `the last of ${us.heard.length} messages`, 60);
      t.diagnostic(`${kind.name}: ${Math.round((1000 * sent.length) / (Date.now() - start))} readings a second`);
      assert.deepEqual(values(), sent);
      nothingWrong();
    });

    // The tutorial's flow publishes an empty message for every reading while the server is down.
    test('no reading is lost or garbled when the server is killed and restarted', async () => {
      const flow = withSettings(shipped, { MAX_AGE: 3600 });
      await nodeRed.deploy(flow);
      await isUp(flow);
      const sent = Array.from({ length: 300 }, (_, i) => (i % 10 === 9 ? 6 + i / 1000 : 1 + i / 1000));
      for (const [i, value] of sent.entries()) {
        await send({ value });
        if (i === 100) await server.stop('SIGKILL');
        if (i === 200) {
          await until(() => /^server down: /.test(nodeRed.status(flow, 'one request at a time').text), 'the status');
          server = await startServer(serverPort);
        }
      }
      await until(() => us.texts(FLAG).length >= sent.length, () => `300 predictions, have ${values().length}`);
      assert.deepEqual(values(), sent);
      nothingWrong();
      await until(() => reports().length >= 2, 'the reports');
      const [down, back] = reports();
      assert.match(down, /^requests to the server fail: /);
      assert.equal(back, 'requests to the server succeed again');
      await until(() => nodeRed.status(flow, 'one request at a time').text === '300 predicted, 0 waiting', 'the status after recovery');
    });

    // An unbounded queue would exhaust Node-RED's memory over a weekend without the server.
    test('the queue is bounded, drops the oldest and reports it', async () => {
      await server.stop('SIGKILL');
      const small = withSettings(flow, { QUEUE_LIMIT: 200, MAX_AGE: 3600 });
      await nodeRed.deploy(small);
      await isUp();
      const sent = Array.from({ length: 1000 }, (_, i) => 1 + i / 1000);
      for (const value of sent) us.publish(READINGS, JSON.stringify({ value }), { qos: 1 });
      await until(() => / 200 waiting, 800 dropped$/.test(nodeRed.status(small, 'one request at a time').text), 'the status');
      assert.ok(reports().includes('the queue is full; the oldest readings are dropped'));
      server = await startServer(serverPort);
      await until(() => us.texts(FLAG).length >= 200, 'the predictions');
      await until(() => reports().includes('800 readings were dropped while the queue was full'), 'the report');
      assert.deepEqual(values(), sent.slice(-200));
      nothingWrong();
    });

    // After an update of the broker nobody is there to press Deploy.
    test('the bridge reconnects to a broker that is killed and restarted', async () => {
      await nodeRed.deploy(flow);
      await isUp();
      let next = 0;
      const reading = () => 1 + next++ / 1000;
      for (let i = 0; i < 50; i += 1) us.publish(READINGS, JSON.stringify({ value: reading() }), { qos: 1 });
      await until(() => values().length > 0, 'some predictions');
      await broker.stop('SIGKILL');
      await until(() => /^broker down, /.test(nodeRed.status(flow, 'one request at a time').text), 'the status');
      assert.notEqual(nodeRed.status(flow, 'readings').fill, 'green');
      broker = await kind.start(brokerPort, secured);
      await until(() => us.connected, 'our own client');
      await isUp();
      await us.subscribeAsync([TEXT, JSON_, FLAG], { qos: 1 });
      // A killed broker loses messages it had accepted, so only messages from now on must be complete.
      await until(async () => {
        await send({ value: 3 });
        await sleep(100);
        return values().at(-1) === 3;
      }, 'the bridge to receive readings');
      const sent = Array.from({ length: 50 }, () => reading());
      for (const value of sent) await send({ value });
      await until(() => values().at(-1) === sent.at(-1), 'the predictions');
      assert.deepEqual(values().slice(-50), sent);
      // Messages in flight when the broker died may arrive twice or not at all, but none may be wrong.
      for (const text of us.texts(TEXT)) assert.equal(text, NORMAL);
      for (const text of us.texts(FLAG)) assert.equal(text, '{"value":false}');
    });

    // A refused reading must not block or lose the hundreds in the same request.
    test('one refused reading does not sink its batch', async () => {
      await server.stop();
      const folder = temporaryFolder('train');
      const narrow = join(folder, 'narrow.csv');
      writeFileSync(narrow, Array.from({ length: 300 }, (_, i) => 0.001 * ((i * 37) % 100)).join('\n') + '\n');
      await nodeRed.deploy(flow);
      await isUp();
      // All of them wait for the server and go into one request. Scaled by this narrow spread, 1e308 overflows.
      for (const value of [0.02, 1e308, 0.03, -1e308, 0.04]) await send({ value });
      await until(() => / 5 waiting$/.test(nodeRed.status(flow, 'one request at a time').text), 'five to wait');
      server = await startServer(serverPort, '--train', narrow);
      await until(() => us.texts(FLAG).length >= 3, 'the predictions');
      assert.deepEqual(values(), [0.02, 0.03, 0.04]);
      const refused = () => reports().filter((text) => text.startsWith('refused by the server: '));
      await until(() => refused().length === 2, () => `two reports, have ${reports()}`);
    });

    // One number seldom describes a machine; lists and named values must reach a model that has these features.
    test('readings with several features are predicted, and those that do not fit are refused one by one', async () => {
      const url = `http://localhost:${serverPort}/models/press-1`;
      const samples = Array.from({ length: 300 }, (_, i) => [2 + ((i * 37) % 300) / 300, 58 + ((i * 91) % 300) / 60]);
      const body = JSON.stringify({ samples, feature_names: ['vibration', 'temperature'], out_of_range: 'anomaly' });
      const headers = { 'Content-Type': 'application/json' };
      assert.equal((await fetch(`${url}/retrain`, { method: 'POST', headers, body })).status, 200);
      const own = withSettings(flow, { IFOREST_URL: url });
      await nodeRed.deploy(own);
      await isUp(own);
      const good = [
        [{ value: [2.5, 60] }, [2.5, 60], 0],
        [{ value: { vibration: 2.5, temperature: 60 } }, [2.5, 60], 0],
        [{ value: { temperature: '90', vibration: 2.5 }, tagName: 'press' }, [2.5, 90], 1],
        [{ value: [9, 60] }, [9, 60], 1],
      ];
      for (const [sent] of good) await send(sent);
      await until(() => us.texts(FLAG).length >= good.length, 'the predictions');
      const whole = us.texts(JSON_).map((text) => JSON.parse(text));
      assert.deepEqual(whole.map((prediction) => [prediction.input_value, prediction.prediction]), good.map(([, input, prediction]) => [input, prediction]));
      assert.equal(whole[2].tagName, 'press');
      assert.deepEqual(us.texts(FLAG), ['{"value":false}', '{"value":false}', '{"value":true}', '{"value":true}']);
      // In one request with readings that do not fit, only those are lost.
      const bad = [{ value: 2.5 }, { value: [1, 2, 3] }, { value: { vibration: 2.5, pressure: 1 } }];
      for (const sent of [{ value: [2.6, 61] }, ...bad, { value: [2.7, 62] }]) await send(sent);
      await until(() => values().length === good.length + 2, 'the good ones');
      assert.deepEqual(values().slice(-2), [[2.6, 61], [2.7, 62]]);
      await until(() => reports().length === bad.length, 'a report of each bad one');
      assert.ok(reports().every((text) => text.startsWith('refused by the server: ')), String(reports()));
      // A model with one feature refuses a list.
      await nodeRed.deploy(flow);
      await isUp();
      await send({ value: [2.5, 60] });
      await until(() => reports().length === 1, 'the refusal');
      assert.match(reports()[0], /^refused by the server: /);
    });

    // If they waited for a model that is trained next week, today's readings would produce predictions next week.
    test('readings that arrive before their model are skipped, not kept', async () => {
      const url = `http://localhost:${serverPort}/models/press-1`;
      const own = withSettings(flow, { IFOREST_URL: url });
      const shown = () => nodeRed.status(own, 'one request at a time');
      await nodeRed.deploy(own);
      await isUp(own);
      for (const value of [10, 11, 12]) await send({ value });
      await until(() => shown().text === 'no model press-1 yet, 3 skipped, 0 waiting', () => `the status, not ${shown().text}`);
      assert.equal(shown().fill, 'yellow');
      await send({ value: 11.5 });
      await until(() => / 4 skipped, 0 waiting$/.test(shown().text), 'the fourth');
      assert.deepEqual(reports(), ['no model press-1 yet: readings are skipped until it is trained']);
      // A reading that waits through an outage is skipped too when the server returns without the model.
      await server.stop('SIGKILL');
      await send({ value: 12.5 });
      await until(() => /^server down: /.test(shown().text), 'the outage');
      server = await startServer(serverPort);
      await until(() => shown().text === 'no model press-1 yet, 5 skipped, 0 waiting', () => `the status after the outage, not ${shown().text}`);

      const samples = Array.from({ length: 200 }, (_, i) => 10 + ((i * 37) % 200) / 100);
      const headers = { 'Content-Type': 'application/json' };
      assert.equal((await fetch(`${url}/retrain`, { method: 'POST', headers, body: JSON.stringify({ samples }) })).status, 200);
      for (const value of [11, 20]) await send({ value });
      await until(() => us.texts(FLAG).length >= 2, 'the predictions');
      assert.deepEqual(values(), [11, 20]);
      assert.deepEqual(us.texts(TEXT), [NORMAL, ANOMALY]);
      await until(() => shown().text === '2 predicted, 0 waiting', () => `the status with a model, not ${shown().text}`);
      assert.equal(shown().fill, 'green');
      assert.ok(reports().includes('the model press-1 is available; 5 earlier readings were skipped'), String(reports()));
      await sleep(700);
      assert.equal(values().length, 2, 'no skipped reading is predicted later');
    });

    // A retained prediction would show today's alarm to a client that subscribes next week.
    test('the prediction for a retained reading is not retained', async () => {
      await send({ value: 9 }, { retain: true });
      await nodeRed.deploy(flow);
      await until(() => us.heard.length >= 3, 'the predictions');
      assert.deepEqual(us.texts(TEXT), [ANOMALY]);
      const late = await connect();
      await late.subscribeAsync([READINGS, TEXT, JSON_, FLAG], { qos: 1 });
      await until(() => late.texts(READINGS).length === 1, 'the retained reading');
      await sleep(100);
      assert.deepEqual(late.heard.map((message) => message.topic), [READINGS]);
      await late.endAsync(true);
      await send('', { retain: true });
    });

    // {"value":true} is the bridge's flag and also a valid reading: with a wildcard it would be predicted again for ever.
    test('the bridge ignores its own messages', async () => {
      const wide = withSettings(flow, { READING_TOPIC: 'hivemq-edge/machine/#' });
      await nodeRed.deploy(wide);
      await isUp(wide);
      await send({ value: 9 });
      await until(() => us.heard.length >= 3, 'the predictions');
      await sleep(700);
      assert.equal(us.heard.length, 3);
      assert.deepEqual(reports(), []);
    });

    // The tutorial's flow accepts any certificate and sends its password to that broker.
    test('wrong authority, wrong name and wrong password are refused', async () => {
      const impostorPort = await freePort();
      const impostor = await kind.start(impostorPort, { tls: certs.wrongName, login });
      try {
        const wrong = {
          'wrong authority': { MQTT_CA: certs.otherAuthority },
          'no authority given': { MQTT_CA: '' },
          'wrong name': { MQTT_URL: `mqtts://localhost:${impostorPort}` },
          'wrong password': { MQTT_PASSWORD: 'not this one' },
        };
        for (const [what, settings] of Object.entries(wrong)) {
          const changed = withSettings(flow, settings);
          const seen = nodeRed.program.log.length;
          await nodeRed.deploy(changed);
          await until(() => /Connection failed/.test(nodeRed.program.log.slice(seen)), `a refusal of ${what}`);
          await send({ value: 9 });
          await sleep(300);
          assert.doesNotMatch(nodeRed.program.log.slice(seen), /Connected to broker/, what);
          assert.notEqual(nodeRed.status(changed, 'readings').fill, 'green', what);
          assert.equal(us.heard.length, 0, what);
        }
        // With correct settings the same flow connects, so the refusals above have the stated reasons.
        await nodeRed.deploy(flow);
        await isUp();
      } finally {
        await impostor.stop();
      }
    });

    // A broker in the plant's own network often has neither TLS nor passwords.
    test('MQTT_TLS=false selects plain MQTT', async () => {
      const port = await freePort();
      const plain = await kind.start(port);
      const other = await startNodeRed(local(port, serverPort));
      const there = await client(`mqtt://127.0.0.1:${port}`);
      try {
        await other.deploy(flow);
        await until(() => other.status(flow, 'readings').fill === 'green', 'the bridge to connect');
        await there.subscribeAsync(TEXT);
        await there.publishAsync(READINGS, '9');
        await until(() => there.heard.length > 0, 'the prediction');
        assert.deepEqual(there.texts(TEXT), [ANOMALY]);
      } finally {
        await there.endAsync(true);
        await other.stop();
        await plain.stop();
      }
    });

    if (kind.mqtt5) {
      // HiveMQ Edge adds a property to each message it forwards, and drops messages that return with it.
      test('MQTT 5 user properties are not echoed', async () => {
        const five = structuredClone(flow);
        nodeNamed(five, 'MQTT broker').protocolVersion = '5';
        await nodeRed.deploy(five);
        await isUp(five);
        const marked = await connect({ protocolVersion: 5 });
        await marked.subscribeAsync([READINGS, TEXT, JSON_, FLAG], { qos: 1 });
        const properties = { userProperties: { 'hmq-bridge-hop-count': '1' }, contentType: 'application/json', responseTopic: 'elsewhere' };
        await marked.publishAsync(READINGS, '{"value":9}', { qos: 1, properties });
        await until(() => marked.heard.length >= 4, 'the reading and its predictions');
        const byTopic = Object.fromEntries(marked.heard.map(({ topic, packet }) => [topic, packet.properties ?? {}]));
        assert.equal(byTopic[READINGS].userProperties['hmq-bridge-hop-count'], '1');
        for (const topic of [TEXT, JSON_, FLAG]) {
          const { userProperties, responseTopic } = byTopic[topic];
          assert.deepEqual([userProperties, responseTopic], [undefined, undefined], topic);
        }
        await marked.endAsync(true);
      });
    }
  });
}
