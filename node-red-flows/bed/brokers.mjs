// The brokers for the tests: aedes from npm, and mosquitto if it is installed.
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import mqtt from 'mqtt';
import { notRun } from './report.mjs';
import { start, temporaryFolder } from './process.mjs';

const demoBroker = fileURLToPath(new URL('./broker.mjs', import.meta.url));

export const aedes = {
  name: 'aedes',
  mqtt5: false,
  start(port, { tls, login } = {}) {
    const args = [demoBroker, '--port', String(port)];
    if (tls) args.push('--cert', tls.cert, '--key', tls.key);
    if (login) args.push('--user', login.user, '--password', login.password);
    return start(process.execPath, args, { ready: /listening on/ });
  },
};

const withSbin = { ...process.env, PATH: [process.env.PATH, '/usr/sbin', '/usr/local/sbin'].join(delimiter) };

const mosquitto = {
  name: 'mosquitto',
  mqtt5: true,
  start(port, { tls, login, more = [] } = {}) {
    const folder = temporaryFolder('mosquitto');
    const lines = [`listener ${port} 127.0.0.1`, `allow_anonymous ${!login}`, 'max_queued_messages 100000', 'max_inflight_messages 0'];
    // Started as root, mosquitto switches to the user mosquitto, which cannot read these files.
    if (process.getuid?.() === 0) lines.push('user root');
    if (tls) lines.push(`certfile ${tls.cert}`, `keyfile ${tls.key}`);
    if (login) {
      const passwords = join(folder, 'passwords');
      execFileSync('mosquitto_passwd', ['-c', '-b', passwords, login.user, login.password], { env: withSbin });
      chmodSync(passwords, 0o600);
      lines.push(`password_file ${passwords}`);
    }
    const config = join(folder, 'mosquitto.conf');
    writeFileSync(config, [...lines, ...more].join('\n') + '\n');
    return start('mosquitto', ['-v', '-c', config], { ready: /mosquitto version \S+ running/, env: withSbin });
  },
};

/** Starts mosquitto with one of the shipped configurations, on other ports. */
export function startMosquittoWith(config, ports) {
  const shipped = readFileSync(new URL(`../edge/${config}`, import.meta.url), 'utf8');
  const moved = Object.entries(ports).reduce((text, [from, to]) => text.replaceAll(from, String(to)), shipped);
  const file = join(temporaryFolder('mosquitto'), config);
  writeFileSync(file, moved + (process.getuid?.() === 0 ? 'user root\n' : ''));
  return start('mosquitto', ['-v', '-c', file], { ready: /mosquitto version \S+ running/, env: withSbin });
}

export const hasMosquitto = spawnSync('mosquitto', ['-h'], { env: withSbin }).error === undefined;

/** All brokers that this machine can run. */
export function brokers(part) {
  if (hasMosquitto) return [aedes, mosquitto];
  notRun(`${part} on mosquitto, and with MQTT 5`, 'mosquitto is not installed');
  return [aedes];
}

/** A plain client that keeps all received messages in order. */
export async function client(url, options = {}) {
  const connection = await mqtt.connectAsync(url, { reconnectPeriod: 100, ...options });
  const heard = [];
  connection.on('message', (topic, payload, packet) => heard.push({ topic, text: payload.toString(), packet }));
  connection.on('error', () => {});
  return Object.assign(connection, {
    heard,
    texts: (topic) => heard.filter((message) => message.topic === topic).map((message) => message.text),
  });
}
