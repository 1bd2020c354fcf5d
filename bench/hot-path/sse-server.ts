// A model server that answers every request with a long stream of events: one at once, then one a second, `--events` in all. A process of
// its own, so that the client's work is not in its timing. Prints `listening PORT`.
import { createServer, type ServerResponse } from 'node:http';
import { parseArgs } from 'node:util';

const { values: given } = parseArgs({ options: { events: { type: 'string', default: '20' } } });
const events = Number(given.events);
const intervalMs = 1_000;

const open = new Map<ServerResponse, number>();

function tell(response: ServerResponse, sent: number): void {
  response.write(`data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"word ${sent} "}}]}\n\n`);
  if (sent < events) {
    open.set(response, sent + 1);
    return;
  }
  open.delete(response);
  response.end('data: [DONE]\n\n');
}

// One timer for all streams: their events come in a burst, as those of a batch that an engine computes together.
setInterval(() => {
  for (const [response, sent] of [...open]) tell(response, sent);
}, intervalMs);

const server = createServer((request, response) => {
  request.resume();
  request.once('end', () => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    tell(response, 1);
  });
  response.once('close', () => open.delete(response));
});
server.keepAliveTimeout = 60_000;
server.listen({ port: 0, host: '127.0.0.1', backlog: 4_096 }, () => {
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  process.stdout.write(`listening ${address.port}\n`);
});
process.once('SIGTERM', () => process.exit(0));
