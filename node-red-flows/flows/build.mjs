// Builds the flow files that users import: node flows/build.mjs
//
// Each numbered folder beside this file, and each in examples/, is one flow: its flow.js has the settings and the nodes. The code of a function node is in
// the module named like the node ("read the number": read-the-number.js), there or in shared/. A template is in the .vue
// file named like its node.
// Function nodes cannot import files, so Rollup puts what a module imports into the node.
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { rollup } from 'rollup';
import { DEFAULTS } from './defaults.js';
import { mqttNodes, tlsNode } from './mqtt.js';

const here = new URL('./', import.meta.url);
const slug = (name) =>
  name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '');

/** The code of a function node that calls one export of a module. */
async function bundle(file, name, given) {
  const entry = 'entry';
  const text = `import { ${name} as main } from ${JSON.stringify(file)};\nrun(main);\n`;
  const bundled = await rollup({
    input: entry,
    plugins: [{ name: entry, resolveId: (id) => (id === entry ? id : null), load: (id) => (id === entry ? text : null) }],
    onwarn: (warning) => {
      throw new Error(`${file}: ${warning.message}`);
    },
  });
  const { output } = await bundled.generate({ format: 'es' });
  return output[0].code.replace(/^run\((\w+)\);\n$/m, (_, main) => `return ${main}({ ${given} });\n`);
}

async function code(folder, { name, libs = [] }) {
  const [own, shared] = [folder, new URL('shared/', here)].map((place) => fileURLToPath(new URL(`${slug(name)}.js`, place)));
  const file = existsSync(own) ? own : shared;
  const { start } = await import(file);
  const given = ['env', 'node', 'context', 'flow', ...libs.map((lib) => lib.var)].join(', ');
  return {
    func: await bundle(file, 'default', `msg, ${given}`),
    ...(start && { initialize: await bundle(file, 'start', given) }),
  };
}

/** A setting of a tab. Its value comes from the environment of Node-RED, or else is the fallback. */
function environment({ name, fallback, value, jsonata }) {
  if (value !== undefined) return { name, value, type: 'env' };
  const given = `$env("$parent.${name}")`;
  return { name, value: jsonata ?? `${given} != "" ? ${given} : ${JSON.stringify(fallback)}`, type: 'jsonata' };
}

function help({ about, settings }) {
  const intro = [
    'Set these in the environment before Node-RED starts. Or double-click this tab and enter your own values there.',
    ...(settings.some(({ name }) => name === 'MQTT_URL')
      ? ['MQTT_URL replaces host, port and TLS, for example mqtts://my-broker.example:8883.']
      : []),
  ].join(' ');
  const rows = settings
    .filter(({ text }) => text !== undefined)
    .map(({ name, shown, fallback, text }) => `| ${name} | ${shown ?? (fallback || 'none')} | ${text} |`);
  const table = ['| name | default | what it is |', '| --- | --- | --- |', ...rows].join('\n');
  return `${[intro, table, ...about].join('\n\n')}\n`;
}

/** The nodes of one flow, as Node-RED imports them. */
async function build(folder) {
  const { default: flow } = await import(new URL('flow.js', folder));
  const { id: tab, label, info, comment, settings, nodes, broker, serverTls } = flow;
  const built = [
    // The host, the port and TLS have no entry of their own: MQTT_URL is made of them.
    {
      id: tab,
      type: 'tab',
      label,
      disabled: false,
      info,
      env: settings.filter((s) => (s.fallback ?? s.value ?? s.jsonata) !== undefined).map(environment),
    },
    { ...comment, type: 'comment', z: tab, info: help(flow), wires: [] },
  ];
  for (const { id, type, z = tab, name, ...rest } of nodes) {
    built.push({
      id,
      type,
      ...(z && { z }),
      ...(name !== undefined && { name }),
      ...(type.startsWith('mqtt ') && { broker }),
      ...DEFAULTS[type],
      ...(type === 'http request' && { tls: serverTls }),
      ...rest,
      ...(type === 'function' && (await code(folder, { name, libs: rest.libs }))),
      ...(type === 'ui-template' && { format: readFileSync(new URL(`${slug(name)}.vue`, folder), 'utf8') }),
    });
  }
  const config = [...(serverTls ? [tlsNode(serverTls, 'TLS of iforest-server', '${IFOREST_CA}')] : []), ...(broker ? mqttNodes(flow) : [])];
  built.push(...config.map(({ id, type, ...rest }) => ({ id, type, z: tab, ...rest })));
  return built;
}

/** All flow files: their names and their text. The examples are made of the nodes of this package. */
export async function flows() {
  const within = (folder) => readdirSync(new URL(folder, here)).map((name) => [`${folder}${name}/`, `${folder}${name}.json`]);
  const all = [...within('./').filter(([folder]) => /^\.\/\d/.test(folder)), ...within('examples/')];
  const built = all.map(async ([folder, file]) => [
    file.replace(/^\.\//, ''),
    `${JSON.stringify(await build(new URL(folder, here)), null, 2)}\n`,
  ]);
  return new Map(await Promise.all(built));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  mkdirSync(new URL('../examples/', here), { recursive: true });
  for (const [name, text] of await flows()) writeFileSync(new URL(`../${name}`, here), text);
}
