// Creates an authority and a broker's certificate for each run, so that no key is committed.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { generate } from 'selfsigned';
import { temporaryFolder } from './process.mjs';

const DAY = 86_400_000;

async function authority(name) {
  return generate([{ name: 'commonName', value: name }], {
    algorithm: 'sha256',
    keySize: 2048,
    extensions: [
      { name: 'basicConstraints', cA: true, critical: true },
      { name: 'keyUsage', keyCertSign: true, cRLSign: true, critical: true },
    ],
  });
}

/** Files of the authority, of another one that signed nothing here, and of certificates for `localhost` and for another name. */
export async function certificates() {
  const folder = temporaryFolder('certs');
  const file = (name, text) => {
    writeFileSync(join(folder, name), text, { mode: 0o644 });
    return join(folder, name);
  };
  const ours = await authority('Test authority');
  const other = await authority('Another authority');
  const signed = async (host, name = host, dates = {}) => {
    const pems = await generate([{ name: 'commonName', value: host }], {
      ...dates,
      algorithm: 'sha256',
      keySize: 2048,
      ca: { key: ours.private, cert: ours.cert },
      extensions: [
        { name: 'basicConstraints', cA: false },
        { name: 'subjectAltName', altNames: [{ type: 2, value: host }] },
      ],
    });
    return { cert: file(`${name}.crt`, pems.cert), key: file(`${name}.key`, pems.private) };
  };
  return {
    authority: file('ca.crt', ours.cert),
    otherAuthority: file('other-ca.crt', other.cert),
    right: await signed('localhost'),
    wrongName: await signed('elsewhere.example'),
    expired: await signed('localhost', 'expired', { notBeforeDate: new Date(Date.now() - 2 * DAY), notAfterDate: new Date(Date.now() - DAY) }),
  };
}
