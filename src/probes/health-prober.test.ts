import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { type Handler, type LoopbackServer, startHttpServer, startTcpServer } from '../../test/loopback-server.ts';
import { FleetPool } from '../fleet/fleet-view.ts';
import type { ProbeSettings, ProbeVerdict } from '../router/probe-verdict.ts';
import { HealthProber, type ProberOptions } from './health-prober.ts';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean();
  vi.useRealTimers();
});

async function serve(handler: Handler): Promise<LoopbackServer> {
  const server = await startHttpServer(handler);
  cleanups.push(() => server.stop());
  return server;
}
const ok: Handler = (_, response) => void response.end();
const answers =
  (status: () => number): Handler =>
  (_, response) =>
    void response.writeHead(status()).end();
/** A list of models in OpenAI's shape at /v1/models, and 200 elsewhere. */
const lists =
  (...models: string[]): Handler =>
  (request, response) =>
    void response.end(request.url === '/v1/models' ? JSON.stringify({ object: 'list', data: models.map((id) => ({ id, object: 'model' })) }) : '');

const define = (address: string): ConstructorParameters<typeof FleetPool>[0]['endpoints'][number] => ({ address, weight: 1, labels: {}, requestsMax: undefined });
const clock = { nowMs: () => performance.now() };

interface Probing {
  readonly prober: HealthProber;
  readonly pool: FleetPool;
  /** All verdicts in their order, and those on one server. */
  readonly told: readonly (readonly [hostPort: string, verdict: ProbeVerdict])[];
  readonly of: (hostPort: string) => ProbeVerdict[];
  readonly kinds: (hostPort: string) => string[];
  /** The verdict that holds. */
  readonly now: (hostPort: string) => string | undefined;
  /** Outcomes of probes: `passed` or a cause. */
  readonly outcomes: string[];
}

/** Probes fast, and never loses patience but where a test says so. */
function probe(addresses: readonly string[], settings: Partial<ProbeSettings> = {}, options: Partial<ProberOptions> = {}): Probing {
  const pool = new FleetPool({ name: 'chat', endpoints: addresses.map(define) });
  const told: [string, ProbeVerdict][] = [];
  const outcomes: string[] = [];
  const prober = new HealthProber({
    pools: [{ pool, settings: { path: '/health', modelsPath: '/v1/models', intervalMs: 20, timeoutMs: 20_000, failures: 2, passes: 1, ...settings } }],
    clock,
    rng: { draw: () => 0.5 },
    events: {
      probePassed: () => outcomes.push('passed'),
      probeFailed: (_pool, _address, cause) => outcomes.push(cause),
    },
    onResult: (_pool, hostPort, verdict) => told.push([hostPort, verdict]),
    ...options,
  });
  cleanups.push(() => prober.stop());
  prober.start();
  const of = (hostPort: string): ProbeVerdict[] => told.filter(([one]) => one === hostPort).map(([, verdict]) => verdict);
  return { prober, pool, told, of, kinds: (hostPort) => of(hostPort).map(({ kind }) => kind), now: (hostPort) => of(hostPort).at(-1)?.kind, outcomes };
}

const eventually = (check: () => void): Promise<void> => vi.waitFor(check, { timeout: 15_000, interval: 5 });
/** Stops the clock: from here on time passes by `vi.advanceTimersByTime` alone, while connections go on as ever. */
const stopTime = (): void => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'performance'] });
/** Waits for connections, in no time. */
async function settled(isSettled: () => boolean): Promise<void> {
  for (let turn = 0; turn < 200_000 && !isSettled(); turn += 1) await nextTurn();
  expect(isSettled()).toBe(true);
}
/** Lets stopped time pass, slowly enough for connections: what begins in one step is over before the next. */
async function pass(durationMs: number): Promise<void> {
  for (let passedMs = 0; passedMs < durationMs; passedMs += 10) {
    vi.advanceTimersByTime(10);
    for (let turn = 0; turn < 50; turn += 1) await nextTurn();
  }
}
/** What a row of verdicts comes to: without repetitions. */
const steps = (kinds: readonly string[]): string[] => kinds.filter((kind, i) => kind !== kinds[i - 1]);

describe('HealthProber', () => {
  it('tells of a server that passes, again and again', async () => {
    const { address } = await serve((request, response) => {
      expect(request.method).toBe('GET');
      expect(request.url).toBe('/health');
      expect(request.headers).toMatchObject({ 'user-agent': 'fairlead-probe', 'accept-encoding': 'identity' });
      response.writeHead(204).end();
    });
    const { kinds, outcomes } = probe([address]);
    await eventually(() => expect(kinds(address).length).toBeGreaterThan(5));
    expect(steps(kinds(address))).toEqual(['passing']);
    expect(new Set(outcomes)).toEqual(new Set(['passed']));
  });

  it('probes at another path and port where configured, in the name of the endpoint', async () => {
    const urls = new Set<string | undefined>();
    const { port } = await serve((request, response) => {
      urls.add(request.url);
      response.end();
    });
    const { now } = probe(['127.0.0.1:9'], { path: '/health/ready?deep=1', port });
    await eventually(() => expect(now('127.0.0.1:9')).toBe('passing'));
    expect(urls).toEqual(new Set(['/health/ready?deep=1']));
  });

  it.each<[string, Handler, string, RegExp]>([
    ['answers 500', answers(() => 500), 'status', /^\/health answered 500$/],
    ['answers 404', answers(() => 404), 'status', /answered 404/],
    ['redirects, which is not followed', (_, response) => void response.writeHead(302, { location: '/' }).end(), 'status', /answered 302/],
    ['hangs', () => undefined, 'timeout', /longer than 50 ms/],
    ['hangs in the body', (_, response) => void response.write('half'), 'timeout', /longer than 50 ms/],
    ['resets', (request) => void request.socket.resetAndDestroy(), 'unreachable', /ECONNRESET|hang up/],
    ['answers without end', (_, response) => void response.end(Buffer.alloc(1_048_577)), 'too-large', /larger than 1048576 bytes/],
  ])('tells of a server that %s', async (_, handler, cause, detail) => {
    const { address } = await serve(handler);
    const { of, outcomes, kinds } = probe([address], cause === 'timeout' ? { timeoutMs: 50 } : {});
    await eventually(() => expect(of(address).length).toBeGreaterThan(1));
    expect(steps(kinds(address))).toEqual(['failing']);
    expect(of(address)[0]).toEqual({ kind: 'failing', detail: expect.stringMatching(detail) as string });
    expect(new Set(outcomes)).toEqual(new Set([cause]));
  });

  it('tells of a server that speaks something else', async () => {
    const server = await startTcpServer((socket) => void socket.on('data', () => socket.write('SSH-2.0-OpenSSH_9.9\r\n')));
    cleanups.push(() => server.stop());
    const { now, outcomes } = probe([server.address]);
    await eventually(() => expect(now(server.address)).toBe('failing'));
    expect(outcomes[0]).toBe('malformed');
  });

  it('does not go by one probe, but by as many in a row as configured', async () => {
    // Each status as often as there are probes in its row.
    const row = [200, 500, 500, 200, 500, 500, 500, 200, 200, 500, 200, 200, 200];
    let asked = 0;
    const { address } = await serve(answers(() => row[asked++] ?? 200));
    const { kinds } = probe([address], { failures: 3, passes: 3 });
    await eventually(() => expect(kinds(address).length).toBeGreaterThan(row.length));
    expect(kinds(address).slice(0, row.length)).toEqual([...new Array<string>(6).fill('passing'), ...new Array<string>(6).fill('failing'), 'passing']);
  });

  it('tells how long passed probes took', async () => {
    const took: number[] = [];
    const { address } = await serve((_, response) => void setTimeout(() => response.end(), 50));
    probe([address], {}, { events: { probePassed: (_pool, _address, durationMs) => took.push(durationMs), probeFailed: () => undefined } });
    await eventually(() => expect(took.length).toBeGreaterThan(1));
    expect(Math.min(...took)).toBeGreaterThan(48);
  });

  it('finds a server that hangs and comes back, on a connection of which it thought well', async () => {
    let hangs = false;
    const { address } = await serve((_, response) => {
      if (!hangs) response.end();
    });
    const { kinds, now } = probe([address], { timeoutMs: 200 });
    await eventually(() => expect(now(address)).toBe('passing'));
    hangs = true;
    await eventually(() => expect(now(address)).toBe('failing'));
    hangs = false;
    await eventually(() => expect(now(address)).toBe('passing'));
    expect(kinds(address)).not.toContain('loading');
  });

  it('follows a server through a restart: gone, loading its model, back', async () => {
    let status = 200;
    const server = await serve(answers(() => status));
    const { address } = server;
    const { kinds, now } = probe([address]);
    await eventually(() => expect(now(address)).toBe('passing'));
    await server.stop();
    await eventually(() => expect(now(address)).toBe('failing'));
    status = 503;
    await server.start();
    await eventually(() => expect(now(address)).toBe('loading'));
    status = 200;
    await eventually(() => expect(now(address)).toBe('passing'));
    // What says 503 after it has served is not loading.
    status = 503;
    await eventually(() => expect(now(address)).toBe('failing'));
    expect(steps(kinds(address))).toEqual(['passing', 'failing', 'loading', 'passing', 'failing']);
  });

  it('takes 503 for loading when it is the first that is heard of a server', async () => {
    const { address } = await serve(answers(() => 503));
    const { of } = probe([address]);
    await eventually(() => expect(of(address).length).toBeGreaterThan(2));
    expect(of(address)).toEqual(of(address).map(() => ({ kind: 'loading', detail: '/health answered 503' })));
  });

  it('notices a server that answers on the connections it has and takes no new ones', async () => {
    // What is listened for is one thing, what is connected another.
    let accepts = true;
    const server = await serve(ok);
    const front = await startTcpServer((socket) => {
      if (!accepts) {
        socket.resetAndDestroy();
        return;
      }
      void import('node:net').then(({ connect }) => {
        const behind = connect(server.port, '127.0.0.1');
        behind.on('error', () => undefined);
        socket.pipe(behind).pipe(socket);
      });
    });
    cleanups.push(() => front.stop());
    const { now } = probe([front.address]);
    await eventually(() => expect(now(front.address)).toBe('passing'));
    accepts = false;
    await eventually(() => expect(now(front.address)).toBe('failing'));
  });

  it('probes often enough on few connections', async () => {
    const server = await serve(ok);
    const { outcomes } = probe([server.address], { intervalMs: 5 });
    await eventually(() => expect(outcomes.length).toBeGreaterThan(40));
    expect(outcomes.length / server.connections()).toBeGreaterThan(5);
  });

  describe('that looks for a model', () => {
    it('passes where the server lists it', async () => {
      const { address } = await serve(lists('llama', 'my-adapter'));
      const { now } = probe([address], { model: 'my-adapter' });
      await eventually(() => expect(now(address)).toBe('passing'));
    });

    it.each<[string, Handler, ProbeVerdict, string]>([
      ['lists none', lists(), { kind: 'loading', detail: '/v1/models lists nothing, not llama' }, 'model-missing'],
      ['lists others', lists('llama-2', 'Llama'), { kind: 'loading', detail: '/v1/models lists llama-2, Llama, not llama' }, 'model-missing'],
      [
        'lists many others',
        lists('x'.repeat(100), 'b', 'c', 'd', 'e'),
        { kind: 'loading', detail: `/v1/models lists ${'x'.repeat(64)}, b, c and 2 more, not llama` },
        'model-missing',
      ],
      ['lists it in another shape', (_, response) => void response.end('{"models":["llama"]}'), { kind: 'failing', detail: '/v1/models answered with no list of models' }, 'malformed'],
      ['answers what is no JSON', (_, response) => void response.end('<html>llama</html>'), { kind: 'failing', detail: '/v1/models answered with no list of models' }, 'malformed'],
      ['answers null', (_, response) => void response.end('null'), { kind: 'failing', detail: '/v1/models answered with no list of models' }, 'malformed'],
      [
        'lists strange entries',
        (_, response) => void response.end('{"data":[null,1,"llama",{"id":7},{"name":"llama"},{"id":"other"}]}'),
        { kind: 'loading', detail: '/v1/models lists other, not llama' },
        'model-missing',
      ],
      ['has no list', (request, response) => void response.writeHead(request.url === '/health' ? 200 : 404).end(), { kind: 'failing', detail: '/v1/models answered 404' }, 'status'],
      [
        'answers 503 for the list',
        (request, response) => void response.writeHead(request.url === '/health' ? 200 : 503).end(),
        { kind: 'loading', detail: '/v1/models answered 503' },
        'unavailable',
      ],
    ])('does not pass where the server %s', async (_, handler, verdict, cause) => {
      const { address } = await serve(handler);
      const { of, outcomes } = probe([address], { model: 'llama' });
      await eventually(() => expect(of(address).length).toBeGreaterThan(1));
      expect(of(address)[0]).toEqual(verdict);
      expect(new Set(outcomes)).toEqual(new Set([cause]));
    });

    it('gives both questions no more time than one', async () => {
      stopTime();
      let answerHealth: (() => void) | undefined;
      let asksModels = false;
      const { address } = await serve((request, response) => {
        if (request.url === '/health') answerHealth = () => response.end();
        else asksModels = true;
      });
      const { outcomes } = probe([address], { model: 'llama', timeoutMs: 200 });
      vi.advanceTimersByTime(50);
      await settled(() => answerHealth !== undefined);
      vi.advanceTimersByTime(150);
      answerHealth?.();
      await settled(() => asksModels);
      vi.advanceTimersByTime(49);
      await nextTurn();
      expect(outcomes).toEqual([]);
      vi.advanceTimersByTime(1);
      await settled(() => outcomes.length > 0);
      expect(outcomes).toEqual(['timeout']);
    });

    it('asks once where the list is what health is read from', async () => {
      const urls: (string | undefined)[] = [];
      const { address } = await serve((request, response) => {
        urls.push(request.url);
        lists('llama')(request, response);
      });
      const { of, now } = probe([address], { path: '/v1/models', model: 'llama' });
      await eventually(() => expect(of(address).length).toBeGreaterThan(3));
      expect(now(address)).toBe('passing');
      expect(urls.length - of(address).length).toBeLessThanOrEqual(1);
    });

    it('follows a server whose model is loaded while it answers already', async () => {
      let models: string[] = [];
      const { address } = await serve((request, response) => lists(...models)(request, response));
      const { now } = probe([address], { model: 'llama' });
      await eventually(() => expect(now(address)).toBe('loading'));
      models = ['llama'];
      await eventually(() => expect(now(address)).toBe('passing'));
      models = [];
      await eventually(() => expect(now(address)).toBe('loading'));
    });
  });

  it('probes ranks behind one address as one server', async () => {
    let asked = 0;
    const { address } = await serve((_, response) => {
      asked += 1;
      response.end();
    });
    const { told } = probe([`${address}#0`, `${address}#1`], { intervalMs: 60_000 });
    await eventually(() => expect(told).toEqual([[address, { kind: 'passing' }]]));
    expect(asked).toBe(1);
  });

  it('follows endpoints that come and go', async () => {
    const [one, other] = [await serve(ok), await serve(answers(() => 500))];
    const { pool, now, of } = probe([one.address]);
    await eventually(() => expect(now(one.address)).toBe('passing'));
    pool.update([define(other.address)], 0);
    pool.sweep(0, 0);
    await eventually(() => expect(now(other.address)).toBe('failing'));
    const [before, marker] = [of(one.address).length, of(other.address).length];
    await eventually(() => expect(of(other.address).length).toBeGreaterThan(marker + 5));
    expect(of(one.address).length).toBe(before);
  });

  it('never probes a server twice at a time, slow as it may be', async () => {
    let open = 0;
    let openMax = 0;
    const { address } = await serve((_, response) => {
      open += 1;
      openMax = Math.max(openMax, open);
      setTimeout(() => {
        open -= 1;
        response.end();
      }, 60);
    });
    const { of } = probe([address], { intervalMs: 10 });
    await eventually(() => expect(of(address).length).toBeGreaterThan(4));
    expect(openMax).toBe(1);
  });

  it('is over with the first round when all have passed or failed, and the slowest has had its time', async () => {
    const [fast, broken, hung] = [await serve(ok), await serve(answers(() => 500)), await serve(() => undefined)];
    const { prober, now } = probe([fast.address, broken.address, hung.address], { timeoutMs: 1_000 });
    const startedMs = performance.now();
    await prober.firstRound();
    expect([fast, broken, hung].map(({ address }) => now(address))).toEqual(['passing', 'failing', 'failing']);
    expect(performance.now() - startedMs).toBeGreaterThan(990);
  });

  it('probes at twice the pace what does not pass, or did not the last time, until it does', async () => {
    stopTime();
    const row = [200, 500, 200, 500, 500, 503, 200, 200];
    let asked = 0;
    const { address } = await serve(answers(() => row[asked++] ?? 200));
    const begunMs: number[] = [];
    // Asked at the beginning of each probe.
    const verdictAgeMs = (): undefined => void begunMs.push(performance.now());
    const { outcomes } = probe([address], { intervalMs: 1_000 }, { verdictAgeMs });
    await pass(5_400);
    expect(outcomes).toEqual(['passed', 'status', 'passed', 'status', 'status', 'unavailable', 'passed', 'passed']);
    const gapsMs = begunMs.slice(1).map((at, i) => at - (begunMs[i] ?? 0));
    expect(gapsMs.map((gapMs) => Math.round(gapMs / 100) * 100)).toEqual([1_000, 500, 1_000, 500, 500, 500, 1_000]);
  });

  it('stops at once, also in the middle of a probe, and tells nothing any more', async () => {
    let asked = 0;
    let closed = false;
    const { address } = await serve((request) => {
      asked += 1;
      request.socket.once('close', () => (closed = true));
    });
    const { prober, told, outcomes } = probe([address]);
    await eventually(() => expect(asked).toBe(1));
    prober.stop();
    await prober.firstRound();
    await eventually(() => expect(closed).toBe(true));
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect([asked, told, outcomes]).toEqual([1, [], []]);
  });
});

describe('HealthProbers of two routers', () => {
  /** What all routers know of a server; `left` and `right` are theirs. */
  function share(address: string, settings: Partial<ProbeSettings>) {
    const verdicts: { readonly by: string; readonly kind: string; readonly atMs: number }[] = [];
    const shared = { owner: 'left', verdicts };
    const start = (by: string): Probing =>
      probe([address], settings, {
        isOurs: () => shared.owner === by,
        verdictAgeMs: () => {
          const latest = verdicts.at(-1);
          return latest && performance.now() - latest.atMs;
        },
        onResult: (_pool, _hostPort, { kind }) => verdicts.push({ by, kind, atMs: performance.now() }),
      });
    const since = (from: number): string[] => verdicts.slice(from).map(({ by, kind }) => `${by} ${kind}`);
    return { shared, start, since };
  }

  it('leave a server to the one in charge', async () => {
    stopTime();
    const { address } = await serve(ok);
    const { shared, start, since } = share(address, { intervalMs: 1_000 });
    start('left');
    await pass(100);
    const right = start('right');
    await pass(2_500);
    expect(since(0)).toEqual(['left passing', 'left passing', 'left passing']);
    expect(right.outcomes).toEqual([]);
    shared.owner = 'right';
    await pass(2_000);
    expect(since(3)).toEqual(['right passing', 'right passing']);
  });

  it.each([
    [1_000, 3_000],
    // Routers repeat themselves only once a second.
    [500, 3_000],
    [2_000, 6_000],
  ])('take over a server that is probed every %d ms when nobody has told of it for %d ms', async (intervalMs, staleMs) => {
    stopTime();
    const { address } = await serve(ok);
    const { start, since, shared } = share(address, { intervalMs });
    const left = start('left');
    await pass(100);
    start('right');
    left.prober.stop();
    await pass(staleMs - 100);
    expect(since(1)).toEqual([]);
    await pass(1.2 * intervalMs);
    expect(since(1)).toEqual(['right passing']);
    // Nobody said that right is in charge now: it tells as often as the verdict grows old.
    expect(shared.owner).toBe('left');
    await pass(staleMs + intervalMs);
    expect(since(1)).toEqual(['right passing', 'right passing']);
  });

  it('probe what nobody has told of, whoever is in charge', async () => {
    const { address } = await serve(ok);
    const { start, since, shared } = share(address, { intervalMs: 60_000 });
    shared.owner = 'nobody';
    await start('right').prober.firstRound();
    expect(since(0)).toEqual(['right passing']);
  });

  it('do not bring up again what they thought before the other knew better', async () => {
    stopTime();
    let status = 200;
    const { address } = await serve(answers(() => status));
    const { start, since, shared } = share(address, { intervalMs: 1_000, failures: 3 });
    start('left');
    start('right');
    await pass(500);
    // Neither knew of the other.
    expect(since(0)).toEqual(['left passing', 'right passing']);
    shared.owner = 'right';
    status = 500;
    await pass(2_500);
    expect(new Set(since(4))).toEqual(new Set(['right failing']));
    const from = since(0).length;
    shared.owner = 'left';
    await pass(2_500);
    expect(since(from).length).toBeGreaterThan(0);
    expect(new Set(since(from))).toEqual(new Set(['left failing']));
  });
});
