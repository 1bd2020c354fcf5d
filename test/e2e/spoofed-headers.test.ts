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
        fixed: renderEnvoyConfig({ ...shared, noExtProc: { cluster: 'chat' } }),
        unprotected: renderEnvoyConfig({ ...shared, strip: false, failureModeAllow: true, noExtProc: {} }),
      }),
    }),
  );

  const cluster = 'x-fairlead-cluster: forbidden';
  const endpoint = `x-gateway-destination-endpoint: ${inPool!}`;
  const others = [
    `x-gateway-destination-endpoint-subset: ${inPool!}`,
    `x-gateway-destination-endpoint-served: ${inPool!}`,
    'x-fairlead-lease: forged.1',
    'x-fairlead-anything: forged',
  ];
  const all = [cluster, endpoint, ...others];
  const upper = all.map((line) => line.replace(/^[^:]+/, (name) => name.toUpperCase()));
  const capital = all.map((line) => line.replace(/^[^:]+/, (name) => name.replaceAll(/(^|-)[a-z]/g, (letter) => letter.toUpperCase())));
  attacks = {
    'cluster alone': [cluster],
    'endpoint alone': [endpoint],
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
    'named as hop-by-hop': [...all, 'connection: close, x-fairlead-cluster, x-gateway-destination-endpoint'],
  };
});
afterAll(() => parts.stop());

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
  const [line, headers, body] = ways[way]!;
  const target = prefix === '' ? line : line.replace(/ .*/, ` ${prefix}`);
  // The forged lines before and after the honest ones: no order may matter.
  const lines = [`${target} HTTP/1.1`, ...forged, 'host: gateway', ...headers, `content-length: ${body.length}`, ...forged, 'connection: close'];
  const text = await sendRaw(envoy.listenerPort(listener), `${lines.join('\r\n')}\r\n\r\n${body}`);
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

function neverForbidden(): void {
  // The third is for the listener that is not protected.
  const [inPool, elsewhere] = forbidden.map(({ control }) => control.stats());
  expect(inPool).toMatchObject({ requests: 0, otherRequests: 0 });
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
        const received = Object.entries(JSON.parse(body) as Record<string, string>).filter(([name]) => /^x-(fairlead|gateway)/.test(name));
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
    const { status, servedBy } = await attack('fixed', 'without a body', [`x-gateway-destination-endpoint: ${target}`, 'X-Fairlead-Cluster: forbidden'], '/no-extproc');
    // The servers have no such page; that they were asked is what counts.
    expect(status).toBe(404);
    served.push(servedBy ?? 'nobody');
  }
  const inPool = forbidden[0]!.address;
  expect(tally(served)).toEqual({ [allowed[0]!]: 10, [allowed[1]!]: 10, [inPool]: 10 });
  expect(forbidden[1]!.control.stats()).toMatchObject({ requests: 0, otherRequests: 0 });
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

it('without the strip the same requests would steer: these tests can fail', async () => {
  const baited = await attack('unprotected', 'without a body', ['x-fairlead-cluster: bait']);
  expect(baited.servedBy).toBe(forbidden[2]!.address);
  const elsewhere = await attack('unprotected', 'without a body', ['X-Fairlead-Cluster: chat', `x-gateway-destination-endpoint: ${allowed[1]!}`], '/no-extproc');
  expect(elsewhere.servedBy).toBe(allowed[1]!);
});
