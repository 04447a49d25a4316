// Checks the files for Docker Compose and for Kubernetes. Neither is needed: the programs of the Compose file run on this
// machine, with its settings and other ports; nginx and real servers stand for the Ingress and the pods. Needs nginx,
// mosquitto, Prometheus, kubectl, the packages of node-red-flows, and the release build of the server.
import assert from 'node:assert/strict';
import { cpSync, existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createServer } from 'node:http';
import { dirname, join, relative, resolve } from 'node:path';
import { test } from 'node:test';
import { afterwards, binary, eventually, folder, freePort, needs, root, run, start, startPrometheus, startServer, targetIsUp } from './support.mjs';

// Node-RED brings a parser of YAML.
const require = createRequire(join(root, 'node-red-flows/package.json'));
const { load, loadAll } = require('js-yaml');
const mqtt = require('mqtt');

const read = (name) => readFileSync(join(root, name), 'utf8');
const flows = JSON.parse(read('node-red-flows/package.json'));
const [, version] = /^version = "(.+)"$/m.exec(read('Cargo.toml'));
const compose = load(read('deploy/compose/compose.yaml'));
const manifests = 'deploy/kubernetes';
const manifest = (name) => load(read(join(manifests, name)));

test('the images have all that the build of the program reads, and the versions that the tests use', (t) => {
  // Docker reads .dockerignore in order; this one first leaves out everything, then lists what stays.
  const [first, ...others] = read('.dockerignore').split('\n').filter((line) => line && !line.startsWith('#'));
  assert.equal(first, '*');
  const kept = others.map((line) => line.replace(/^!/, ''));
  assert.ok(others.every((line) => line.startsWith('!')), 'only exceptions follow');
  const context = folder(t);
  for (const name of kept) {
    const [path, star] = name.split('*');
    if (star === undefined) cpSync(join(root, name), join(context, name), { recursive: true });
    else for (const file of readdirSync(join(root, path)).filter((file) => file.endsWith(star))) cpSync(join(root, path, file), join(context, path, file));
  }
  // Fails if a file of the manifest is missing.
  run('cargo', ['metadata', '--no-deps', '--offline', '--locked', '--format-version', '1'], { cwd: context });
  for (const name of readdirSync(join(root, 'src'), { recursive: true }).filter((name) => name.endsWith('.rs'))) {
    const source = read(join('src', name));
    for (const [, path] of source.matchAll(/include_(?:str|bytes)!\(\s*"([^"]+)"/g)) {
      const included = relative(root, resolve(root, 'src', dirname(name), path));
      assert.ok(existsSync(join(context, included)), `src/${name} includes ${included}, which .dockerignore leaves out`);
    }
  }

  const [, rust] = /^rust-version = "(.+?)"/m.exec(read('Cargo.toml'));
  const [, image] = /^FROM rust:(.+)-slim-bookworm AS build$/m.exec(read('Dockerfile'));
  assert.ok(rust.localeCompare(image, 'en', { numeric: true }) <= 0, `${rust} ${image}`);
  const workflows = ['ci.yml', 'release.yml'].map((name) => load(read(join('.github/workflows', name))));
  for (const workflow of workflows) assert.equal(workflow.env.RUST_VERSION, image);
  assert.equal(workflows[1].jobs.deb.container, `rust:${image}-slim-bookworm`);
  const nodeRed = read('deploy/compose/node-red.Dockerfile');
  const [minor] = flows.devDependencies['node-red'].match(/^\d+\.\d+\./);
  assert.ok(nodeRed.includes(`FROM nodered/node-red:${minor}`), minor);
  assert.ok(nodeRed.includes(`@flowfuse/node-red-dashboard@${flows.devDependencies['@flowfuse/node-red-dashboard']} `));
  assert.equal(manifest('kustomization.yaml').images[0].newTag, version);
});

test('each service of the Compose file is confined, and opens its port to this machine only', () => {
  for (const [name, service] of Object.entries(compose.services)) {
    assert.equal(service.read_only, true, name);
    assert.deepEqual(service.cap_drop, ['ALL'], name);
    assert.deepEqual(service.security_opt, ['no-new-privileges:true'], name);
    assert.match(service.mem_limit, /^\d+m$/, name);
    assert.ok(service.build || /:v?\d+\.\d+\.\d+$/.test(service.image), `the image of ${name} has no version`);
    for (const port of service.ports) assert.match(port, /^127\.0\.0\.1:\d+:\d+$/, name);
    for (const [from, to] of service.volumes.map((volume) => volume.split(':'))) {
      const isThere = from.startsWith('.') ? existsSync(join(root, 'deploy/compose', from)) : from in compose.volumes;
      assert.ok(isThere, `${name} mounts ${from} on ${to}`);
    }
  }
});

const pipeline = needs('mosquitto', 'prometheus', 'promtool', binary);

test('the programs of the Compose file, with its settings, predict the readings of the simulated machine', pipeline, async (t) => {
  const server = await startServer(t, '--store', 'memory:');
  const brokerPort = await freePort();
  const broker = `127.0.0.1:${brokerPort}`;

  const data = folder(t);
  const config = read('deploy/compose/mosquitto.conf')
    .replace('listener 1883', `listener ${brokerPort} 127.0.0.1`)
    .replace('/mosquitto/data/', `${data}/`);
  assert.ok(config.includes(data));
  const brokerFile = join(data, 'mosquitto.conf');
  // Started as root, mosquitto switches to a user who cannot read the folder.
  writeFileSync(brokerFile, config + (process.getuid?.() === 0 ? 'user root\n' : ''));
  await start(t, 'mosquitto', ['-v', '-c', brokerFile], /mosquitto version \S+ (running)/);

  const user = folder(t);
  const names = JSON.parse(read('deploy/compose/node-red.Dockerfile').match(/stringify\((\[[^\]]+\])/)[1]);
  const nodes = names.flatMap((name) => JSON.parse(read(`node-red-flows/${name}.json`)));
  assert.equal(new Set(nodes.map(({ id }) => id)).size, nodes.length, 'two flows have nodes of one id');
  writeFileSync(join(user, 'flows.json'), JSON.stringify(nodes));
  const { environment } = compose.services['node-red'];
  assert.equal(environment.MQTT_HOST, 'mosquitto');
  assert.equal(environment.IFOREST_URL, 'http://iforest-server:5000');
  const env = { ...environment, MQTT_HOST: '127.0.0.1', MQTT_PORT: String(brokerPort), IFOREST_URL: server.url };
  const program = join(dirname(require.resolve('node-red/package.json')), 'red.js');
  const nodeRedPort = await freePort();
  const nodeRed = [program, '--userDir', user, '--port', String(nodeRedPort), '-D', 'uiHost=127.0.0.1', 'flows.json'];
  await start(t, process.execPath, nodeRed, /Started (flows)/, env);

  const client = await mqtt.connectAsync(`mqtt://${broker}`);
  afterwards(t, () => client.endAsync());
  const heard = [];
  client.on('message', (topic, payload) => heard.push(JSON.parse(payload)));
  await client.subscribeAsync('hivemq-edge/machine/s71500/anomaly/json');
  await eventually(() => heard.length > 2, () => `${heard.length} predictions`);
  assert.ok(heard.every(({ status }) => ['Normal Behaviour', 'Anomaly Detected'].includes(status)), JSON.stringify(heard));
  assert.equal((await fetch(`http://127.0.0.1:${nodeRedPort}/dashboard/vibration`)).status, 200);

  const prometheusFolder = folder(t);
  cpSync(join(root, 'deploy/prometheus/alerts.yml'), join(prometheusFolder, 'alerts.yml'));
  const prometheusFile = join(prometheusFolder, 'prometheus.yml');
  writeFileSync(prometheusFile, read('deploy/compose/prometheus.yml').replace('iforest-server:5000', server.address).replace('15s', '250ms'));
  run('promtool', ['check', 'config', prometheusFile]);
  const prometheus = await startPrometheus(t, prometheusFile);
  await targetIsUp(prometheus);
  const [, check, ...args] = compose.services.prometheus.healthcheck.test;
  run(check, args.map((arg) => arg.replace('http://127.0.0.1:9090', prometheus.url)));
});

/** The objects of Kubernetes, as Kustomize puts them together. */
function rendered() {
  const objects = loadAll(run('kubectl', ['kustomize', join(root, manifests)]));
  return Object.fromEntries(objects.map((object) => [object.kind, object]));
}

test('Kustomize builds the manifests, whose settings and probes the server knows', needs('kubectl', binary), async (t) => {
  const { ConfigMap, Deployment, Ingress, PodDisruptionBudget, Service } = rendered();
  const pod = Deployment.spec.template;
  const [container] = pod.spec.containers;
  assert.equal(container.image, `ghcr.io/OWNER/iforest-server:${version}`);
  assert.equal(container.envFrom[0].configMapRef.name, ConfigMap.metadata.name);
  for (const selector of [Deployment.spec.selector.matchLabels, Service.spec.selector, PodDisruptionBudget.spec.selector.matchLabels, pod.spec.topologySpreadConstraints[0].labelSelector.matchLabels]) {
    assert.deepEqual(selector, pod.metadata.labels);
  }
  const port = container.ports.find(({ name }) => name === Service.spec.ports[0].targetPort);
  assert.equal(port.containerPort, 5000);
  for (const { backend } of Ingress.spec.rules[0].http.paths) {
    assert.deepEqual(backend.service, { name: Service.metadata.name, port: { name: Service.spec.ports[0].name } });
  }

  const path = folder(t);
  writeFileSync(join(path, 'keys'), 'node-red read mT4vX8qL2wN6cB9s\n');
  const { mountPath } = container.volumeMounts[0];
  assert.equal(ConfigMap.data.IFOREST_API_KEYS, `${mountPath}/keys`);
  const env = { ...ConfigMap.data, IFOREST_API_KEYS: join(path, 'keys'), AWS_ACCESS_KEY_ID: 'id', AWS_SECRET_ACCESS_KEY: 'secret' };
  const settings = run(binary, ['--check-config'], { env });
  assert.match(settings, /^store = "s3:\/\/BUCKET\/iforest" # IFOREST_STORE$/m);

  const server = await startServer(t, '--store', 'memory:', '--api-keys', env.IFOREST_API_KEYS);
  await eventually(async () => (await fetch(`${server.url}/ready`)).ok, () => 'not ready');
  for (const probe of ['startupProbe', 'livenessProbe', 'readinessProbe']) {
    const { httpGet } = container[probe];
    assert.equal(httpGet.port, port.name);
    assert.equal((await fetch(server.url + httpGet.path)).status, 200, probe);
  }
});

/** A server that answers with its number. */
async function startBackend(t, number) {
  const server = createServer((request, response) => response.end(String(number)));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const stop = () => new Promise((resolve) => {
    server.close(resolve);
    server.closeAllConnections();
  });
  afterwards(t, stop);
  return { address: `127.0.0.1:${server.address().port}`, stop };
}

/** The configurations of nginx that send a model's requests to one server, for these servers. */
function hashing(servers) {
  const list = servers.map(({ address }) => `server ${address};`).join('\n');
  const [, documented] = read('docs/operations.md').match(/```nginx\n([^]*?)```/);
  const ingress = manifest('ingress.yaml');
  const of = (annotation) => ingress.metadata.annotations[annotation];
  // As the controllers write their configurations: F5 NGINX in this form; ingress-nginx with a hash of its own in place
  // of nginx's, but with the variables of these locations.
  const controller = (modifier, hash) => `upstream iforest { ${hash}; ${list} }
    server {
      listen 5000;
      ${ingress.spec.rules[0].http.paths.map(({ path }) => `location ${modifier} "^${path}" { proxy_pass http://iforest; }`).join('\n')}
    }`;
  assert.equal(of('nginx.org/path-regex'), 'case_sensitive');
  assert.equal(of('nginx.ingress.kubernetes.io/use-regex'), 'true');
  return {
    'docs/operations.md': documented.replace(/server 192\.0\.2[^]*?;\n(?= *keepalive)/, list),
    'F5 NGINX': controller('~', of('nginx.org/lb-method')),
    'ingress-nginx': controller('~*', `hash ${of('nginx.ingress.kubernetes.io/upstream-hash-by')} consistent`),
  };
}

for (const name of Object.keys(hashing([]))) {
  test(`nginx sends all requests for one model to one server, as ${name} has it`, needs('nginx'), async (t) => {
    const servers = await Promise.all([0, 1, 2].map((number) => startBackend(t, number)));
    const port = await freePort();
    const http = hashing(servers)[name].replace('listen 5000;', `listen 127.0.0.1:${port};`);
    const path = folder(t);
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((kind) => `${kind}_temp_path ${path}/${kind};`);
    const config = `daemon off; error_log stderr notice; pid ${path}/pid;
      events {}
      http { access_log off; ${temporary.join(' ')} ${http} }`;
    const file = join(path, 'nginx.conf');
    writeFileSync(file, config);
    await start(t, 'nginx', ['-e', 'stderr', '-c', file], /start worker (process)/);

    const serverOf = async (path) => {
      const answer = await fetch(`http://127.0.0.1:${port}${path}`, { method: 'POST', body: '{}' });
      assert.equal(answer.status, 200, path);
      return answer.text();
    };
    /** The one server of these paths. */
    const one = async (paths) => {
      const found = new Set(await Promise.all(paths.map(serverOf)));
      assert.equal(found.size, 1, `${paths} go to ${[...found]}`);
      return [...found][0];
    };
    const models = Array.from({ length: 30 }, (_, number) => `press-${number}`);
    const place = async (model) => one(['', '/predict', '/retrain', '/rollback', '/versions'].map((route) => `/models/${model}${route}`));
    const places = new Map();
    for (const model of models) places.set(model, await place(model));
    assert.deepEqual(new Set(places.values()), new Set(['0', '1', '2']), 'all servers have models');
    const others = await one(['/predict', '/predict', '/predict', '/retrain', '/', '/models']);

    // One server fails: its models move, the others stay.
    const gone = places.get(models[0]);
    await servers[gone].stop();
    for (const [model, before] of places) {
      const now = await place(model);
      if (before === gone) assert.notEqual(now, gone, model);
      else assert.equal(now, before, model);
    }
    if (others !== gone) assert.equal(await serverOf('/predict'), others);
  });
}
