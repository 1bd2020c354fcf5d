import { connect as connectHttp2 } from 'node:http2';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import type { ModelServer } from '../../sim/model-server/model-server.ts';
import { sendRaw, tally } from './http-client.ts';
import { RunningParts } from './running-parts.ts';
import { withListeners } from './shared-envoy.ts';

// Envoy knows two places that no request may reach: a cluster of its own, and an endpoint of the pool's cluster that Fairlead does not have
// (one taken out of service, say). Every header that can carry a decision is sent by the client, naming them.
const parts = new RunningParts();
let allowed: string[];
let forbidden: ModelServer[];
let fairlead: FairleadProcess;
let envoy: EnvoyProcess;
/** As gateways configure theirs, but for letting requests through where the processor fails. */
let gateway: EnvoyProcess;
let attacks: Record<string, string[]>;

beforeAll(async () => {
  allowed = (await parts.addModelServers(2)).map(({ address }) => address);
  forbidden = await parts.addModelServers(3);
  const [inPool, elsewhere, bait] = forbidden.map(({ address }) => address);
  // Sessions are to stay at home, so that each honest answer is known beforehand.
  const policy = { preset: 'session-affinity', parameters: { slackRequests: 10_000 } };
  fairlead = await parts.add(startFairlead({ pools: [{ name: 'chat', policy, endpoints: allowed.map((address) => ({ address })) }] }));
  const shared = {
    fairlead: [fairlead.address],
    clusters: { chat: [...allowed, inPool!], forbidden: [elsewhere!], bait: [bait!] },
    // Short, for the hung Fairlead, but not so short that a busy machine looks like one.
    messageTimeoutMs: 1_500,
  };
  envoy = await parts.add(
    startEnvoy({
      config: withListeners({
        closed: renderEnvoyConfig({ ...shared, failureModeAllow: false, noExtProc: {} }),
        open: renderEnvoyConfig({ ...shared, failureModeAllow: true, noExtProc: {} }),
        fixed: renderEnvoyConfig({ ...shared, noExtProc: { cluster: 'chat', prefix: '/headers' } }),
        unprotected: renderEnvoyConfig({ ...shared, strip: false, failureModeAllow: true, noExtProc: {} }),
      }),
    }),
  );

  gateway = await parts.add(
    startEnvoy({ config: renderEnvoyConfig({ file: 'envoy-inference-gateway.yaml', fairlead: shared.fairlead, clusters: { chat: shared.clusters.chat }, failureModeAllow: true }) }),
  );

  const cluster = 'x-fairlead-cluster: forbidden';
  const endpoint = `x-gateway-destination-endpoint: ${inPool!}`;
  const others = [
    `x-gateway-destination-endpoint-subset: ${inPool!}`,
    `x-gateway-destination-endpoint-served: ${inPool!}`,
    'x-fairlead-lease: forged.1',
    'x-fairlead-anything: forged',
    'x-data-parallel-rank: 1',
  ];
  const all = [cluster, endpoint, ...others];
  const upper = all.map((line) => line.replace(/^[^:]+/, (name) => name.toUpperCase()));
  const capital = all.map((line) => line.replace(/^[^:]+/, (name) => name.replaceAll(/(^|-)[a-z]/g, (letter) => letter.toUpperCase())));
  attacks = {
    'cluster alone': [cluster],
    'endpoint alone': [endpoint],
    'rank alone': ['x-data-parallel-rank: 1'],
    'ranks that no endpoint has': ['x-data-parallel-rank: 99', 'X-Data-Parallel-Rank: -1', 'x-data-parallel-rank:'],
    'endpoint of another cluster': [`x-gateway-destination-endpoint: ${elsewhere!}`],
    'every header': all,
    'upper case': upper,
    'capitals': capital,
    'each twice': [...all, ...all],
    'each in two spellings': [...upper, ...all, ...capital],
    'a list': [`x-gateway-destination-endpoint: ${inPool!},${elsewhere!}`, 'x-fairlead-cluster: forbidden,forbidden'],
    'empty, then the real one': ['x-fairlead-cluster:', cluster, 'x-gateway-destination-endpoint:', endpoint],
    'padded': [`x-fairlead-cluster: \t forbidden \t`, `x-gateway-destination-endpoint:  ${inPool!} `],
    // What a Connection header names is dropped hop by hop: it must not take Fairlead's answer away instead of the forgery.
    'named as hop-by-hop': [...all, 'connection: close, x-fairlead-cluster, x-gateway-destination-endpoint, x-data-parallel-rank'],
  };
});
afterAll(() => parts.stop());

/** What a client may not write, as a model server received it; by itself, or in one HTTP chunk. */
const routingHeaders = (received: string): [name: string, value: string][] =>
  Object.entries(JSON.parse(received.slice(received.indexOf('{'), received.lastIndexOf('}') + 1)) as Record<string, string>).filter(([name]) => /^x-(fairlead|gateway|data-parallel)/.test(name));

const chat = JSON.stringify({ prompt_cache_key: 'in the body', messages: [{ role: 'user', content: 'hello' }] });

/** Requests that take every way through Fairlead: decided on headers without a body, with one, and in the body. */
const ways: Readonly<Record<string, readonly [line: string, headers: readonly string[], body: string]>> = {
  'without a body': ['GET /headers', ['x-session-id: s1'], ''],
  'decided on headers': ['POST /headers', ['x-session-id: s2', 'content-type: application/json'], chat],
  'decided in the body': ['POST /echo/v1/chat/completions', ['content-type: application/json'], chat],
};

interface Outcome {
  readonly status: number;
  readonly servedBy: string | undefined;
  readonly body: string;
}

async function attack(listener: string, way: string, forged: readonly string[], prefix = ''): Promise<Outcome> {
  return await attackPort(envoy.listenerPort(listener), way, forged, prefix);
}

async function attackPort(port: number, way: string, forged: readonly string[], prefix = ''): Promise<Outcome> {
  const [line, headers, body] = ways[way]!;
  const target = prefix === '' ? line : line.replace(/ .*/, ` ${prefix}`);
  // The forged lines before and after the honest ones: no order may matter.
  const lines = [`${target} HTTP/1.1`, ...forged, 'host: gateway', ...headers, `content-length: ${body.length}`, ...forged, 'connection: close'];
  const text = await sendRaw(port, `${lines.join('\r\n')}\r\n\r\n${body}`);
  const end = text.indexOf('\r\n\r\n');
  const head = text.slice(0, end);
  return { status: Number(/^HTTP\/1\.1 (\d+)/.exec(head)?.[1]), servedBy: /^x-served-by: (.*?)\r?$/im.exec(head)?.[1], body: text.slice(end + 4) };
}

/** All attacks by all ways; `expected` says what the outcome has to be. */
async function attackAll(listener: string, expected: (outcome: Outcome, title: string) => void, prefix = ''): Promise<void> {
  const cases = Object.keys(ways).flatMap((way) => Object.keys(attacks).map((name) => [way, name] as const));
  await Promise.all(
    cases.map(async ([way, name]) => {
      const outcome = await attack(listener, way, attacks[name]!, prefix);
      expected(outcome, `${listener}, ${way}, ${name}: ${outcome.status} ${outcome.body.slice(0, 200)}`);
    }),
  );
}

function refused({ status, servedBy }: Outcome, title: string): void {
  expect(servedBy, title).toBeUndefined();
  expect([500, 503, 504], title).toContain(status);
}

/** Requests that went to the forbidden endpoint of the pool because nobody chose at all. */
let dueInPool = 0;

function neverForbidden(): void {
  // The third is for the listener that is not protected.
  const [inPool, elsewhere] = forbidden.map(({ control }) => control.stats());
  expect(inPool).toMatchObject({ requests: 0, otherRequests: dueInPool });
  expect(elsewhere).toMatchObject({ requests: 0, otherRequests: 0 });
}

describe.each(['closed', 'open'])('in normal work, %s on failure', (listener) => {
  it('the processor decides, whatever the client claims', async () => {
    const homes = new Map<string, string | undefined>();
    for (const way of Object.keys(ways)) homes.set(way, (await attack(listener, way, [])).servedBy);
    await attackAll(listener, ({ status, servedBy, body }, title) => {
      expect(status, title).toBe(200);
      expect(homes.get(title.split(', ')[1]!), title).toBe(servedBy);
      expect(allowed, title).toContain(servedBy);
      if (!body.startsWith('{"prompt')) {
        // What the model server was told: Fairlead's choice alone.
        const received = routingHeaders(body);
        expect(received.map(([name]) => name).sort(), title).toEqual(['x-fairlead-cluster', 'x-gateway-destination-endpoint']);
        const told = Object.fromEntries(received);
        expect(told['x-fairlead-cluster'], title).toBe('chat');
        expect(told['x-gateway-destination-endpoint']?.split(',').sort(), title).toEqual([...allowed].sort());
      }
    });
    neverForbidden();
  });

  it('a route without the processor has no cluster to go to', async () => {
    await attackAll(listener, refused, '/no-extproc');
    neverForbidden();
  });
});

it('over HTTP/2 too', async () => {
  const session = connectHttp2(`http://127.0.0.1:${envoy.listenerPort('closed')}`);
  const forged = attacks['every header']!.map((line) => line.split(': ') as [string, string]);
  const headers: Record<string, string | string[]> = { ':path': '/headers', 'x-session-id': 's1' };
  for (const [name, value] of forged) headers[name] = [value, value];
  const servedBy = await new Promise((resolve, reject) => {
    const stream = session.request(headers, { signal: AbortSignal.timeout(10_000) });
    stream.once('error', reject);
    stream.once('response', (received) => resolve(received['x-served-by']));
    stream.resume();
  });
  session.close();
  expect(allowed).toContain(servedBy);
  neverForbidden();
});

it('on a route with a cluster of its own and no processor, a named endpoint gets its share and no more', async () => {
  const target = allowed[0]!;
  const served: string[] = [];
  for (let i = 0; i < 30; i += 1) {
    const { status, servedBy, body } = await attack('fixed', 'without a body', [`x-gateway-destination-endpoint: ${target}`, 'X-Fairlead-Cluster: forbidden', 'x-data-parallel-rank: 1']);
    expect(status).toBe(200);
    expect(routingHeaders(body)).toEqual([]);
    served.push(servedBy ?? 'nobody');
  }
  const inPool = forbidden[0]!.address;
  expect(tally(served)).toEqual({ [allowed[0]!]: 10, [allowed[1]!]: 10, [inPool]: 10 });
  dueInPool += 10;
  neverForbidden();
});

it('in full duplex the processor decides, whatever the client claims', async () => {
  const port = gateway.listenerPort('llm');
  await Promise.all(
    Object.entries(attacks).map(async ([name, forged]) => {
      const { status, servedBy, body } = await attackPort(port, 'without a body', forged);
      expect(status, name).toBe(200);
      expect(allowed, name).toContain(servedBy);
      expect(routingHeaders(body).map(([header]) => header), name).not.toContain('x-data-parallel-rank');
    }),
  );
  neverForbidden();
});

// From here on Fairlead does not answer. First hung, then gone.
describe.each(['hung', 'gone'])('with Fairlead %s', (state) => {
  beforeAll(async () => {
    if (state === 'hung') fairlead.signal('SIGSTOP');
    else {
      fairlead.signal('SIGKILL');
      await fairlead.ended;
    }
  });

  it.each(['closed', 'open'])('%s on failure: no decision, no route', async (listener) => {
    await attackAll(listener, refused);
    await attackAll(listener, refused, '/no-extproc');
    neverForbidden();
  });
});

// Fairlead is gone. In full duplex Envoy lets only some of the requests pass it by, and answers the others 500 (as of 1.40). Of a Fairlead that
// hangs, requests wait: full duplex has no message timeout.
it('in full duplex, open on failure, a named endpoint gets its share and no more', async () => {
  const inPool = forbidden[0]!.address;
  const served: string[] = [];
  await Promise.all(
    Object.entries({ ...attacks, ...Object.fromEntries(Array.from({ length: 24 }, (_, i) => [`endpoint, ${i}`, attacks['endpoint alone']!])) }).map(async ([name, forged]) => {
      const outcome = await attackPort(gateway.listenerPort('llm'), 'without a body', forged);
      if (outcome.servedBy === undefined) {
        refused(outcome, name);
        return;
      }
      expect(routingHeaders(outcome.body), name).toEqual([]);
      served.push(outcome.servedBy);
    }),
  );
  for (const address of served) expect([...allowed, inPool]).toContain(address);
  // All of them named it, or nobody. Nobody chose, so turns were taken.
  const ofPool = served.filter((address) => address === inPool).length;
  expect(ofPool, JSON.stringify(tally(served))).toBeLessThanOrEqual(served.length / 3 + 1);
  dueInPool += ofPool;
  neverForbidden();
});

it('without the strip the same requests would steer: these tests can fail', async () => {
  const baited = await attack('unprotected', 'without a body', ['x-fairlead-cluster: bait']);
  expect(baited.servedBy).toBe(forbidden[2]!.address);
  const elsewhere = await attack('unprotected', 'without a body', ['X-Fairlead-Cluster: chat', `x-gateway-destination-endpoint: ${allowed[1]!}`], '/no-extproc');
  expect(elsewhere.servedBy).toBe(allowed[1]!);
});
