import { createPrefixSeed } from '../../src/core/hash.ts';
import type { FactNeed, RequestFacts } from '../../src/core/request-facts.ts';
import { BodyScanner } from '../../src/extproc/body-scanner.ts';
import { FactReader } from '../../src/extproc/fact-reader.ts';
import type { HeaderMap } from '../../src/extproc/messages.ts';

const reader = new FactReader({ model: [{ body: 'model' }], session: [{ header: 'x-session-id' }, { body: 'user' }], tenant: [] }, 1_048_576, createPrefixSeed('of the benchmark'));
/** What `sticky` asks of a request without any session in its headers. */
const missing: ReadonlySet<FactNeed> = new Set(['model', 'session', 'promptTokens', 'prefix']);
/** As large as Envoy's chunks of a body come. */
const chunkBytes = 16_384;

/** All that becomes of a request from its headers and body to the facts. `measured`: to the body's end, with the length of its text. */
export function readFacts(body: Buffer, mode: 'buffered' | 'chunked'): RequestFacts {
  const headers: HeaderMap = {
    headers: [
      { key: ':method', value: 'POST' },
      { key: ':path', value: '/v1/chat/completions' },
      { key: ':authority', value: 'models.example' },
      { key: 'content-type', value: 'application/json' },
      { key: 'content-length', value: String(body.length) },
      { key: 'user-agent', value: 'bench' },
    ],
  };
  const known = reader.readHeaders(headers);
  const scanner = new BodyScanner(reader.planScan(known, missing, mode === 'buffered'));
  if (mode === 'buffered') scanner.push(body);
  else for (let from = 0; from < body.length && scanner.status === 'scanning'; from += chunkBytes) scanner.push(body.subarray(from, from + chunkBytes));
  scanner.end();
  return reader.toFacts(known, undefined, scanner, body.length);
}
