// Requests to iforest-server over connections that are kept open.
import http from 'node:http';
import https from 'node:https';

// More than a training on the most readings takes.
const LONGEST_BODY = 64 * 1024 * 1024;

/** Creates a client; throws where the address cannot be one of the server. `tls` are Node.js' options of a TLS connection. */
export function createClient({ url, key, tls = {} }) {
  const base = new URL(url);
  if (!/^https?:$/.test(base.protocol)) throw new Error('must begin with http:// or https://');
  // The requests name their models themselves.
  if (/\/models\//.test(base.pathname)) throw new Error('must not name a model');
  const module = base.protocol === 'https:' ? https : http;
  const agent = new module.Agent({ keepAlive: true, maxSockets: 4, ...tls });
  const authorization = key ? { authorization: `Bearer ${key}` } : {};

  /** Sends a JSON body, and resolves to `{ status, body }`; rejects where no JSON arrives. */
  function post(path, content, timeout) {
    const text = JSON.stringify(content);
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text), ...authorization };
    const target = new URL(base.pathname.replace(/\/+$/, '') + path, base);
    return new Promise((resolve, reject) => {
      const request = module.request(target, { method: 'POST', agent, headers, signal: AbortSignal.timeout(timeout) });
      request.on('error', (error) =>
        reject(error.name === 'TimeoutError' ? new Error(`no response for ${timeout / 1000} seconds`) : error),
      );
      request.on('response', (response) => {
        const chunks = [];
        let size = 0;
        response.on('data', (chunk) => {
          size += chunk.length;
          if (size > LONGEST_BODY) request.destroy(new Error('the response is too long'));
          else chunks.push(chunk);
        });
        response.on('error', reject);
        response.on('end', () => {
          try {
            resolve({ status: response.statusCode, body: JSON.parse(Buffer.concat(chunks).toString()) });
          } catch {
            reject(new Error(`the response is not JSON, status ${response.statusCode}`));
          }
        });
      });
      request.end(text);
    });
  }

  return { post, close: () => agent.destroy() };
}
