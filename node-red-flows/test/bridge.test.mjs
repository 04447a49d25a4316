import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { brokers, client } from '../bed/brokers.mjs';
import { certificates } from '../bed/certificates.mjs';
import { local, nodeNamed, readFlow, startNodeRed, withSettings } from '../bed/node-red.mjs';
import { freePort, sleep, temporaryFolder, until } from '../bed/process.mjs';
import { startServer } from '../bed/server.mjs';

const flow = readFlow('2-mqtt-bridge.json');
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

    /** Every verdict came on all three topics, none of them empty or wrong. */
    function nothingWrong() {
      const whole = us.texts(JSON_).map((text) => JSON.parse(text));
      assert.deepEqual(us.texts(TEXT), whole.map((answer) => answer.status));
      assert.deepEqual(us.texts(FLAG).map((text) => JSON.parse(text)), whole.map((answer) => ({ value: answer.prediction === 1 })));
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

    // The tutorial's flow publishes an empty message for each of the bad ones; a PLC or a dashboard
    // takes that for an answer. What is good must give its verdict, what is bad one report and nothing else.
    test('each kind of input gives its verdict or one report', async () => {
      await nodeRed.deploy(flow);
      await isUp();
      const edge = (value) => JSON.stringify({ value, timestamp: 1790000000000, tagName: 'rVib' });
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
        [edge(null), null],
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
      for (const [payload, expected] of table) {
        us.heard.length = 0;
        nodeRed.debug.length = 0;
        await us.publishAsync(READINGS, payload, { qos: 1 });
        if (expected === null) {
          await until(() => reports().length > 0, `the report of ${payload}`);
          assert.match(reports()[0], /^refused: not a finite number: /);
        } else {
          await until(() => us.heard.length >= 3, `the answers to ${payload}`);
          nothingWrong();
          assert.deepEqual(us.texts(TEXT), [expected], String(payload));
        }
        // A good reading after each: when its answer is there, nothing of the one before is still to come.
        await send(3);
        await until(() => values().at(-1) === 3 && us.texts(FLAG).length === values().length, 'the reading after');
        assert.equal(us.heard.length, expected === null ? 3 : 6, `messages after ${payload}`);
        assert.equal(reports().length, expected === null ? 1 : 0, `reports after ${payload}`);
      }
    });

    // A dashboard plots the reading at its own time, not at the time of the answer.
    test('the whole answer keeps the time and name of the reading', async () => {
      await nodeRed.deploy(flow);
      await isUp();
      await send({ value: 9, timestamp: 1790000000123, tagName: 'rVib', other: 'x' });
      await until(() => us.texts(FLAG).length === 1, 'the answers');
      const answer = JSON.parse(us.texts(JSON_)[0]);
      assert.deepEqual(Object.keys(answer).sort(), [
        'anomaly_score', 'input_value', 'prediction', 'scaled_value', 'status', 'tagName', 'timestamp',
      ]);
      assert.equal(answer.timestamp, 1790000000123);
      assert.equal(answer.tagName, 'rVib');
      assert.equal(us.texts(FLAG)[0], '{"value":true}');
    });

    // Requests that overtake each other put 3 to 6 % of the answers out of order at this rate, and a
    // verdict then stands beside the wrong reading.
    test('5,000 readings at more than 1,000 a second come back in order', async (t) => {
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
      const answered = Date.now() - start;
      assert.deepEqual(values(), sent);
      nothingWrong();
      assert.deepEqual(reports(), []);
      assert.ok(published < 5000, `publishing took ${published} ms, so it was no 1,000 a second`);
      t.diagnostic(`${kind.name}: 5,000 published in ${published} ms, all answered after ${answered} ms`);
    });

    // After an outage of the line to the plant hours of readings come at once.
    test('20,000 readings at once come back in order', async (t) => {
      const wide = withSettings(flow, { QUEUE_LIMIT: 50000 });
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
    test('a server that is killed and comes back loses and garbles nothing', async () => {
      await nodeRed.deploy(flow);
      await isUp();
      const sent = Array.from({ length: 300 }, (_, i) => (i % 10 === 9 ? 6 + i / 1000 : 1 + i / 1000));
      for (const [i, value] of sent.entries()) {
        await send({ value });
        if (i === 100) await server.stop('SIGKILL');
        if (i === 200) {
          await until(() => /^server down: /.test(nodeRed.status(flow, 'one request at a time').text), 'the node to say so');
          server = await startServer(serverPort);
        }
      }
      await until(() => us.texts(FLAG).length >= sent.length, () => `300 answers, have ${values().length}`);
      assert.deepEqual(values(), sent);
      nothingWrong();
      await until(() => reports().length >= 2, 'the reports');
      const [down, back] = reports();
      assert.match(down, /^no answers from the server: /);
      assert.equal(back, 'the server answers again');
      await until(() => nodeRed.status(flow, 'one request at a time').text === '300 judged, 0 waiting', 'a status that all is well');
    });

    // Over a weekend without the server a queue without bound would take Node-RED down with it.
    test('the queue is bounded, drops the oldest and says so', async () => {
      await server.stop('SIGKILL');
      const small = withSettings(flow, { QUEUE_LIMIT: 200 });
      await nodeRed.deploy(small);
      await isUp();
      const sent = Array.from({ length: 1000 }, (_, i) => 1 + i / 1000);
      for (const value of sent) us.publish(READINGS, JSON.stringify({ value }), { qos: 1 });
      await until(() => / 200 waiting, 800 dropped$/.test(nodeRed.status(small, 'one request at a time').text), 'the node to say so');
      assert.ok(reports().includes('the queue is full; the oldest readings are dropped'));
      server = await startServer(serverPort);
      await until(() => us.texts(FLAG).length >= 200, 'the answers');
      await until(() => reports().includes('800 readings were dropped while the queue was full'), 'the report');
      assert.deepEqual(values(), sent.slice(-200));
      nothingWrong();
    });

    // Nobody walks to a cabinet to press Deploy after a broker's update.
    test('a broker that is killed and comes back is found again', async () => {
      await nodeRed.deploy(flow);
      await isUp();
      let next = 0;
      const reading = () => 1 + next++ / 1000;
      for (let i = 0; i < 50; i += 1) us.publish(READINGS, JSON.stringify({ value: reading() }), { qos: 1 });
      await until(() => values().length > 0, 'some answers');
      await broker.stop('SIGKILL');
      await until(() => /^broker down, /.test(nodeRed.status(flow, 'one request at a time').text), 'the node to say so');
      assert.notEqual(nodeRed.status(flow, 'readings').fill, 'green');
      broker = await kind.start(brokerPort, secured);
      await until(() => us.connected, 'our own client');
      await isUp();
      await us.subscribeAsync([TEXT, JSON_, FLAG], { qos: 1 });
      // A broker that is killed forgets what it had promised to deliver, so only what comes from now on must be whole.
      await until(async () => {
        await send({ value: 3 });
        await sleep(100);
        return values().at(-1) === 3;
      }, 'the bridge to hear us');
      const sent = Array.from({ length: 50 }, () => reading());
      for (const value of sent) await send({ value });
      await until(() => values().at(-1) === sent.at(-1), 'the answers');
      assert.deepEqual(values().slice(-50), sent);
      // What was on its way when the broker died may come twice or not at all, but nothing of it is wrong.
      for (const text of us.texts(TEXT)) assert.equal(text, NORMAL);
      for (const text of us.texts(FLAG)) assert.equal(text, '{"value":false}');
    });

    // One reading that the server refuses must cost that reading, not the hundreds that wait with it.
    test('a reading that the server cannot judge does not sink its batch', async () => {
      await server.stop();
      const folder = temporaryFolder('train');
      const narrow = join(folder, 'narrow.csv');
      writeFileSync(narrow, Array.from({ length: 300 }, (_, i) => 0.001 * ((i * 37) % 100)).join('\n') + '\n');
      await nodeRed.deploy(flow);
      await isUp();
      // All wait for the server, and so come to it in one request. 1e308 in units of this narrow spread is no number.
      for (const value of [0.02, 1e308, 0.03, -1e308, 0.04]) await send({ value });
      await until(() => / 5 waiting$/.test(nodeRed.status(flow, 'one request at a time').text), 'five to wait');
      server = await startServer(serverPort, '--train', narrow);
      await until(() => us.texts(FLAG).length >= 3, 'the answers');
      assert.deepEqual(values(), [0.02, 0.03, 0.04]);
      const refused = () => reports().filter((text) => text.startsWith('refused by the server: '));
      await until(() => refused().length === 2, () => `two reports, have ${reports()}`);
    });

    // A machine is seldom judged well by one number; lists and named values must reach the model that knows them.
    test('readings of several features are judged, and those that do not fit are refused one by one', async () => {
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
      await until(() => us.texts(FLAG).length >= good.length, 'the verdicts');
      const whole = us.texts(JSON_).map((text) => JSON.parse(text));
      assert.deepEqual(whole.map((answer) => [answer.input_value, answer.prediction]), good.map(([, input, verdict]) => [input, verdict]));
      assert.equal(whole[2].tagName, 'press');
      assert.deepEqual(us.texts(FLAG), ['{"value":false}', '{"value":false}', '{"value":true}', '{"value":true}']);
      // While the server is away they come together with what does not fit, and only that is lost.
      const bad = [{ value: 2.5 }, { value: [1, 2, 3] }, { value: { vibration: 2.5, pressure: 1 } }];
      for (const sent of [{ value: [2.6, 61] }, ...bad, { value: [2.7, 62] }]) await send(sent);
      await until(() => values().length === good.length + 2, 'the good ones');
      assert.deepEqual(values().slice(-2), [[2.6, 61], [2.7, 62]]);
      await until(() => reports().length === bad.length, 'a report of each bad one');
      assert.ok(reports().every((text) => /^refused by the server: values\[\d\] must /.test(text)), String(reports()));
      // A model of one feature says of a list what it says of any other thing that is no number.
      await nodeRed.deploy(flow);
      await isUp();
      await send({ value: [2.5, 60] });
      await until(() => reports().length === 1, 'the refusal');
      assert.match(reports()[0], /^refused by the server: values\[0\] must be a finite number/);
    });

    // Kept for a model that is trained next week, readings of today would come out as verdicts of next week.
    test('readings that come before their model are refused, not kept', async () => {
      const url = `http://localhost:${serverPort}/models/press-1`;
      const own = withSettings(flow, { IFOREST_URL: url });
      const shown = () => nodeRed.status(own, 'one request at a time');
      await nodeRed.deploy(own);
      await isUp(own);
      for (const value of [10, 11, 12]) await send({ value });
      await until(() => shown().text === 'no model press-1 yet, 3 not judged, 0 waiting', () => `its own state, not ${shown().text}`);
      assert.equal(shown().fill, 'yellow');
      await send({ value: 11.5 });
      await until(() => / 4 not judged, 0 waiting$/.test(shown().text), 'the fourth');
      assert.deepEqual(reports(), ['no model press-1 yet: readings are not judged until it is trained']);
      // Down before and without a model after it, the server has kept no reading waiting either.
      await server.stop('SIGKILL');
      await send({ value: 12.5 });
      await until(() => /^server down: /.test(shown().text), 'the outage');
      server = await startServer(serverPort);
      await until(() => shown().text === 'no model press-1 yet, 5 not judged, 0 waiting', () => `the state after, not ${shown().text}`);

      const samples = Array.from({ length: 200 }, (_, i) => 10 + ((i * 37) % 200) / 100);
      const headers = { 'Content-Type': 'application/json' };
      assert.equal((await fetch(`${url}/retrain`, { method: 'POST', headers, body: JSON.stringify({ samples }) })).status, 200);
      for (const value of [11, 20]) await send({ value });
      await until(() => us.texts(FLAG).length >= 2, 'the verdicts');
      assert.deepEqual(values(), [11, 20]);
      assert.deepEqual(us.texts(TEXT), [NORMAL, ANOMALY]);
      await until(() => shown().text === '2 judged, 0 waiting', () => `all to be well, not ${shown().text}`);
      assert.equal(shown().fill, 'green');
      assert.ok(reports().includes('there is a model press-1 now; 5 readings before it were not judged'), String(reports()));
      await sleep(700);
      assert.equal(values().length, 2, 'nothing old comes later');
    });

    // A retained verdict would greet whoever subscribes next week with an alarm of today.
    test('a retained reading gives an answer that is not retained', async () => {
      await send({ value: 9 }, { retain: true });
      await nodeRed.deploy(flow);
      await until(() => us.heard.length >= 3, 'the answers');
      assert.deepEqual(us.texts(TEXT), [ANOMALY]);
      const late = await connect();
      await late.subscribeAsync([READINGS, TEXT, JSON_, FLAG], { qos: 1 });
      await until(() => late.texts(READINGS).length === 1, 'the retained reading');
      await sleep(100);
      assert.deepEqual(late.heard.map((message) => message.topic), [READINGS]);
      await late.endAsync(true);
      await send('', { retain: true });
    });

    // {"value":true} is a flag of ours and a good reading too: a wildcard would judge it again for ever.
    test('its own answers are not judged again', async () => {
      const wide = withSettings(flow, { READING_TOPIC: 'hivemq-edge/machine/#' });
      await nodeRed.deploy(wide);
      await isUp(wide);
      await send({ value: 9 });
      await until(() => us.heard.length >= 3, 'the answers');
      await sleep(700);
      assert.equal(us.heard.length, 3);
      assert.deepEqual(reports(), []);
    });

    // The tutorial's flow connects to whoever presents any certificate, and hands him the password.
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
        // The same flow with nothing wrong does connect, so the refusals above are for the reasons named.
        await nodeRed.deploy(flow);
        await isUp();
      } finally {
        await impostor.stop();
      }
    });

    // A broker in the plant's own network often has neither TLS nor passwords.
    test('plain MQTT by a switch', async () => {
      const port = await freePort();
      const plain = await kind.start(port);
      const other = await startNodeRed(local(port, serverPort));
      const there = await client(`mqtt://127.0.0.1:${port}`);
      try {
        await other.deploy(flow);
        await until(() => other.status(flow, 'readings').fill === 'green', 'the bridge to connect');
        await there.subscribeAsync(TEXT);
        await there.publishAsync(READINGS, '9');
        await until(() => there.heard.length > 0, 'the answer');
        assert.deepEqual(there.texts(TEXT), [ANOMALY]);
      } finally {
        await there.endAsync(true);
        await other.stop();
        await plain.stop();
      }
    });

    if (kind.mqtt5) {
      // HiveMQ Edge marks what it forwards, and drops as a loop whatever comes back with its mark.
      test('MQTT 5 user properties are not echoed', async () => {
        const five = structuredClone(flow);
        nodeNamed(five, 'MQTT broker').protocolVersion = '5';
        await nodeRed.deploy(five);
        await isUp(five);
        const marked = await connect({ protocolVersion: 5 });
        await marked.subscribeAsync([READINGS, TEXT, JSON_, FLAG], { qos: 1 });
        const properties = { userProperties: { 'hmq-bridge-hop-count': '1' }, contentType: 'application/json', responseTopic: 'elsewhere' };
        await marked.publishAsync(READINGS, '{"value":9}', { qos: 1, properties });
        await until(() => marked.heard.length >= 4, 'the reading and its answers');
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
