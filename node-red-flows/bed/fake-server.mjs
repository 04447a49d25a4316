// An HTTP server with fixed responses, for the errors and the foreign pages that the real server does not produce on demand.
import { createServer } from 'node:http';

/**
 * Starts it on a loopback port. `respond(body, request)` gets the parsed request body and returns
 * `{ status, body, type }`; a body that is no string is sent as JSON.
 */
export async function startFakeServer(port, respond) {
  const requests = [];
  const server = createServer(async (request, response) => {
    let text = '';
    for await (const chunk of request.setEncoding('utf8')) text += chunk;
    const sent = text === '' ? undefined : JSON.parse(text);
    requests.push({ method: request.method, path: request.url, body: sent });
    const { status, body, type = 'application/json' } = respond(sent, request);
    response.writeHead(status, { 'Content-Type': type });
    response.end(typeof body === 'string' ? body : JSON.stringify(body));
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  return {
    requests,
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
