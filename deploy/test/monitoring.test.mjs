// Checks what deploy/ holds with Prometheus and promtool: the configuration and the rules as files, and then with a
// real server that a real Prometheus scrapes. Needs both programs and the release build of the server.
import assert from 'node:assert/strict';
import { cpSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { binary, eventually, folder, needs, root, run, startPrometheus, startServer, targetIsUp } from './support.mjs';

const shipped = join(root, 'deploy/prometheus');
const dashboard = JSON.parse(readFileSync(join(root, 'deploy/grafana/iforest-server.json'), 'utf8'));
const options = needs('prometheus', 'promtool', binary);

const promtool = (args, input) => run('promtool', args, { input, cwd: shipped });

/** The shipped configuration with shorter intervals and the address of this server. */
function configure(t, address, edit = (text) => text) {
  const path = folder(t);
  cpSync(shipped, path, { recursive: true });
  const file = join(path, 'prometheus.yml');
  const text = readFileSync(file, 'utf8');
  const fitted = text
    .replace('scrape_interval: 15s', 'scrape_interval: 250ms')
    .replace('evaluation_interval: 1m', 'evaluation_interval: 250ms')
    .replace('localhost:5000', address);
  writeFileSync(file, edit(fitted, path));
  return file;
}

/** The metrics that a text in Prometheus' format has. */
const families = (text) => new Set([...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name));

/** The metrics of the server that an expression uses. */
const metricsIn = (expression) => expression.match(/\b(?:iforest|process)_\w+/g) ?? [];

const panels = dashboard.panels.filter((panel) => panel.type !== 'row');
const expressions = panels.flatMap((panel) => panel.targets.map((target) => ({ title: panel.title, ...target })));

/** An expression of the dashboard, for all servers and models. */
const forAll = (expression) => expression
  .replaceAll('$__rate_interval', '1m')
  .replaceAll(/\$(instance|model)\b/g, '.+');

test('promtool accepts the configuration and the rules, and the recorded series raise the alerts they must', options, (t) => {
  promtool(['check', 'config', 'prometheus.yml']);
  promtool(['check', 'rules', 'alerts.yml']);
  promtool(['test', 'rules', 'alerts.test.yml', 'no-readings.test.yml']);

  // With all that the example has in comments.
  const file = configure(t, 'localhost:5000', (text, path) => {
    writeFileSync(join(path, 'iforest-server.key'), 'a-key-of-some-length');
    writeFileSync(join(path, 'iforest-server-ca.pem'), '');
    return text.replaceAll(/^( *)#(?=\S)/gm, '$1');
  });
  assert.match(readFileSync(file, 'utf8'), /^alerting:[^]*^ +authorization:[^]*^ +scheme: https$/m);
  promtool(['check', 'config', file]);
});

test('each alert is explained, and recorded series raise it', () => {
  const read = (name) => readFileSync(join(shipped, name), 'utf8');
  const alerts = read('alerts.yml').split(/^ +- alert: /m).slice(1);
  assert.ok(alerts.length > 5);
  const cases = (read('alerts.test.yml') + read('no-readings.test.yml')).split(/^ +- eval_time: /m).slice(1);
  for (const alert of alerts) {
    const [name] = alert.match(/^\w+/);
    const mine = cases.filter((text) => text.includes(`alertname: ${name}\n`));
    assert.ok(mine.some((text) => text.includes('exp_labels')), `${name} never fires`);

    const [, path, heading] = alert.match(/^ +runbook: (\S+)#(\S+)$/m);
    assert.ok(heading === name.toLowerCase() && existsSync(join(root, path)), `the runbook of ${name}`);
    assert.match(readFileSync(join(root, path), 'utf8'), new RegExp(`^### ${name}$`, 'm'));
  }
});

test('a Prometheus that scrapes the server has what clients did, and data for the dashboard and the rules', options, async (t) => {
  const models = folder(t);
  const server = await startServer(t, '--store', models, '--refresh-interval', '200ms');
  const prometheus = await startPrometheus(t, configure(t, server.address));
  await targetIsUp(prometheus);

  const sent = new Map();
  const add = (series, count = 1) => sent.set(series, (sent.get(series) ?? 0) + count);
  async function send(route, path, body, headers = { 'Content-Type': 'application/json' }) {
    const answer = await fetch(server.url + path, body && { method: 'POST', headers, body: JSON.stringify(body) });
    const text = await answer.text();
    add(`iforest_http_requests_total{route="${route}",status="${answer.status}"}`);
    return answer.ok ? JSON.parse(text) : {};
  }
  async function predict(model, body) {
    const [route, path] = model === 'default'
      ? ['/predict', '/predict']
      : ['/models/{name}/predict', `/models/${model}/predict`];
    const answer = await send(route, path, body);
    for (const { status } of answer.predictions ?? [answer]) {
      const verdict = { 'Normal Behaviour': 'normal', 'Anomaly Detected': 'anomaly', 'Warming Up': 'none' }[status];
      if (verdict) add(`iforest_predictions_total{model="${model}",verdict="${verdict}"}`);
    }
  }
  async function retrain(model, body) {
    const { samples_used: samples } = await send('/models/{name}/retrain', `/models/${model}/retrain`, body);
    if (samples === undefined) return;
    add('iforest_trainings_total{result="success"}');
    add('iforest_training_samples_total', samples);
  }

  const samples = Array.from({ length: 100 }, (_, i) => 2 + ((i * 7) % 10) / 10);
  async function exercise() {
    await predict('default', { value: 2.5 });
    await predict('default', { values: [2.4, 2.5, 900] });
    await predict('default', { value: null });
    await predict('nobody', { value: 1 });
    await retrain('press-1', { samples, contamination: 0.2, out_of_range: 'anomaly' });
    await retrain('fan-7', { samples, window: 3 });
    await retrain('press-1', { samples: [] });
    await predict('press-1', { values: [2.5, 50, 60] });
    await predict('fan-7', { values: [2.1, 2.2] });
    await predict('fan-7', { values: [2.5, 2.6, 2.4] });
    await send('/models', '/models');
    await send('other', '/no-such-path');
  }

  // A second time, since the first value of a series is no increase; before and after, since a start counts too.
  await exercise();
  const recorded = async () => new Map(await Promise.all([...sent.keys()].map(
    async (series) => [series, await prometheus.value(series)],
  )));
  const missingFrom = async () => {
    const counts = await recorded();
    return [...sent].filter(([series, count]) => counts.get(series) < count);
  };
  const arrived = () => eventually(
    async () => (await missingFrom()).length === 0,
    async () => `not counted: ${JSON.stringify(await missingFrom())}`,
  );
  await arrived();
  const before = await recorded();
  const once = new Map(sent);
  await exercise();
  await eventually(
    async () => {
      const counts = await recorded();
      return [...sent].every(([series, count]) => counts.get(series) - before.get(series) >= count - once.get(series));
    },
    async () => `not counted: ${JSON.stringify([...(await recorded())])}`,
  );
  const after = await recorded();
  for (const [series, count] of sent) {
    assert.equal(after.get(series) - before.get(series), count - once.get(series), series);
  }
  for (const verdict of ['normal', 'anomaly', 'none']) {
    assert.ok([...sent.keys()].some((series) => series.includes(`verdict="${verdict}"`)), verdict);
  }

  // Gauges of the models.
  assert.equal(await prometheus.value('iforest_model_version{model="press-1"}'), 2);
  assert.equal(await prometheus.value('iforest_model_expected_anomaly_ratio{model="press-1"}'), 0.2);
  assert.equal(await prometheus.value('iforest_model_expected_anomaly_ratio{model="fan-7"}'), 0.001);
  const age = await prometheus.value('time() - iforest_model_trained_timestamp_seconds{model="press-1"}');
  assert.ok(age >= 0 && age < 600, `the model is ${age} s old`);
  assert.equal(await prometheus.value('iforest_models_stored'), 3);
  assert.equal(await prometheus.value('iforest_models_loaded'), 3);

  // The format and the names.
  const response = await fetch(`${server.url}/metrics`);
  assert.match(response.headers.get('content-type'), /^text\/plain; version=0\.0\.4/);
  const text = await response.text();
  assert.equal(promtool(['check', 'metrics'], text), '');
  const names = families(text);
  const table = readFileSync(join(root, 'docs/monitoring.md'), 'utf8').matchAll(/^\| `((?:iforest|process)_\w+)` \|/gm);
  assert.deepEqual([...table].map(([, name]) => name).sort(), [...names].sort(), 'the table in docs/monitoring.md');

  // The rules.
  const { groups } = await prometheus.get('rules');
  const rules = groups.flatMap((group) => group.rules);
  const shown = readFileSync(join(shipped, 'alerts.yml'), 'utf8').match(/^ +- alert: /gm);
  assert.equal(rules.length, shown.length);
  await eventually(
    async () => (await prometheus.get('rules')).groups.every((group) => group.rules.every((rule) => rule.health === 'ok')),
    async () => JSON.stringify((await prometheus.get('rules')).groups),
  );
  assert.deepEqual(await prometheus.query('ALERTS'), [], 'a server that does well raises no alert');

  // The dashboard.
  assert.ok(expressions.length > 20);
  const known = (name) => names.has(name) || names.has(name.replace(/_(bucket|sum|count)$/, ''));
  for (const { query, name } of rules) {
    assert.deepEqual(metricsIn(query).filter((metric) => !known(metric)), [], name);
  }
  for (const { title, expr } of expressions) {
    assert.deepEqual(metricsIn(expr).filter((metric) => !known(metric)), [], title);
    await eventually(
      async () => (await prometheus.query(forAll(expr))).some(({ value }) => Number.isFinite(value)),
      async () => `"${title}" has no data: ${expr}\n${JSON.stringify(await prometheus.query(forAll(expr)))}`,
    );
  }
  for (const { name, query } of dashboard.templating.list.filter((variable) => variable.type === 'query')) {
    const [, selector, label] = query.query.match(/^label_values\((.+),(\w+)\)$/);
    const match = encodeURIComponent(forAll(selector));
    const values = await prometheus.get(`label/${label}/values?match[]=${match}`);
    const expected = { instance: [server.address], model: ['default', 'fan-7', 'press-1'] };
    assert.deepEqual(values, expected[name], name);
  }

  // Once the server is gone, Prometheus notices and the alert waits for its two minutes.
  await server.stop();
  await eventually(
    async () => (await prometheus.query('ALERTS{alertname="IforestDown", alertstate="pending"}')).length === 1,
    async () => `no alert: ${JSON.stringify(await prometheus.query('up'))}`,
  );
});

test('Prometheus reads the metrics with a key of the role read, and with no other', options, async (t) => {
  const path = folder(t);
  const keys = join(path, 'keys');
  writeFileSync(keys, 'prometheus read mT4vX8qL2wN6cB9s\n');
  const server = await startServer(t, '--store', 'memory:', '--api-keys', keys);
  assert.equal((await fetch(`${server.url}/metrics`)).status, 401);

  const withKey = (key) => configure(t, server.address, (text, folder) => {
    writeFileSync(join(folder, 'iforest-server.key'), `${key}\n`);
    return text.replaceAll(/^( *)#(?=authorization:|  credentials_file:)/gm, '$1');
  });
  const wrong = await startPrometheus(t, withKey('mT4vX8qL2wN6cB9t'));
  const refused = async () => (await wrong.get('targets')).activeTargets[0]?.lastError;
  await eventually(refused, () => 'Prometheus does not scrape');
  assert.match(await refused(), /401/);

  const right = await startPrometheus(t, withKey('mT4vX8qL2wN6cB9s'));
  await targetIsUp(right);
  assert.equal(await right.value('count(iforest_build_info)'), 1);
});
