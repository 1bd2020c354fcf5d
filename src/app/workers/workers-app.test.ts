import type { Hono } from 'hono';
import { describe, expect, it } from 'vitest';
import { MetricTotals } from '../../telemetry/metric-totals.ts';
import { createWorkerMetrics } from '../../telemetry/worker-metrics.ts';
import { ChangeJournal } from './change-journal.ts';
import type { PlainAnswer, PlainRequest } from './worker-messages.ts';
import { createWorkersApp, type WorkersAppOptions } from './workers-app.ts';

/** A worker as the supervisor sees it: what it answers to a request; undefined: nothing. */
type Answering = (request: PlainRequest) => PlainAnswer | undefined;

function createApp(
  workers: readonly Answering[],
  options: { readonly journal?: ChangeJournal; readonly isDraining?: boolean; readonly onError?: (error: unknown) => void } = {},
): Hono {
  const slots = workers.map((answer, worker) => ({
    worker,
    state: 'serving',
    listen: `127.0.0.1:${9_000 + worker}`,
    ask: (what: string, asked: PlainRequest) => {
      const answered = what === 'http' ? answer(asked) : undefined;
      return Promise.resolve(answered && { answered });
    },
  })) as unknown as WorkersAppOptions['slots'];
  return createWorkersApp({
    slots,
    journal: options.journal ?? new ChangeJournal(),
    totals: new MetricTotals(),
    metrics: createWorkerMetrics({ workers: workers.length, serving: () => workers.length, latest: () => [] }),
    isDraining: () => options.isDraining === true,
    onError: options.onError ?? (() => {}),
  });
}

const json = (value: unknown, status = 200): PlainAnswer => ({ status, headers: [['content-type', 'application/json']], body: JSON.stringify(value) });
const grpc = (ready: boolean): object => ({ name: 'grpc', ready, reason: ready ? 'serving' : 'starting' });
const pool = (ready: boolean): object => ({ name: 'pool:chat', ready, reason: ready ? '2 of 2' : '0 of 2' });

describe('the readiness of several workers', () => {
  const readyOf = async (app: Hono): Promise<unknown> => {
    const response = await app.request('/readyz');
    return { status: response.status, ...((await response.json()) as object) };
  };

  it('is there only when all of them are ready, and agree that all else is', async () => {
    const ready = (): PlainAnswer => json({ ready: true, parts: [grpc(true), pool(true)] });
    expect(await readyOf(createApp([ready, ready]))).toEqual({
      status: 200,
      ready: true,
      parts: [
        { name: 'worker:0', ready: true, reason: 'serving at 127.0.0.1:9000' },
        { name: 'worker:1', ready: true, reason: 'serving at 127.0.0.1:9001' },
        pool(true),
      ],
    });
    const unserved = createApp([ready, () => json({ ready: false, parts: [grpc(true), pool(false)] }, 503)]);
    expect(await readyOf(unserved)).toMatchObject({ status: 503, parts: [{ ready: true }, { ready: true }, pool(false)] });
    expect(await readyOf(createApp([ready, () => undefined]))).toMatchObject({ status: 503, parts: [{ ready: true }, { name: 'worker:1', ready: false, reason: 'does not answer' }, pool(true)] });
    expect(await readyOf(createApp([ready, ready], { isDraining: true }))).toMatchObject({ status: 503, parts: [{ ready: false, reason: 'draining' }, { ready: false, reason: 'draining' }, pool(true)] });
  });
});

describe('the admin API of several workers', () => {
  it('adds up what each has in flight itself, not what each knows of all', async () => {
    const report = (own: number): PlainAnswer =>
      json({ pools: [{ name: 'chat', endpoints: [{ address: 'a', requestsInFlight: own, promptTokensInFlight: 10 * own, uncachedTokensWaiting: own, fleetRequestsInFlight: 9 }] }] });
    const response = await createApp([() => undefined, () => report(2), () => report(3)]).request('/api/v1/fleet');
    expect(await response.json()).toEqual({
      pools: [{ name: 'chat', endpoints: [{ address: 'a', requestsInFlight: 5, promptTokensInFlight: 50, uncachedTokensWaiting: 5, fleetRequestsInFlight: 9 }] }],
    });
  });

  it('sends a change to all, notes it when all took it, and answers what the one said that did not', async () => {
    const journal = new ChangeJournal();
    const taken: PlainRequest[] = [];
    const take = (request: PlainRequest): PlainAnswer => {
      taken.push(request);
      return json({ route: 'chat' });
    };
    const change = { method: 'PUT', body: '{"shiftShare":0.5}', headers: { 'content-type': 'application/json' } };
    const refused = await createApp([take, () => json({ error: { code: 'bad_change' } }, 400)], { journal }).request('/api/v1/routes/chat/weights', change);
    expect([refused.status, await refused.json(), journal.list()]).toEqual([400, { error: { code: 'bad_change' } }, []]);
    taken.length = 0;
    const done = await createApp([take, take], { journal }).request('/api/v1/routes/chat/weights', change);
    expect([done.status, await done.json()]).toEqual([200, { route: 'chat' }]);
    expect(new Set(taken.map(({ method, path, body }) => `${method} ${path} ${body ?? ''}`))).toEqual(new Set(['PUT /api/v1/routes/chat/weights {"shiftShare":0.5}']));
    expect(journal.list()).toHaveLength(1);
  });

  it('sends a change again to one that began to serve while it was made', async () => {
    const taken: string[] = [];
    let isServing = false;
    const late = ({ method, path }: PlainRequest): PlainAnswer | undefined => {
      if (!isServing) {
        isServing = true;
        return undefined;
      }
      taken.push(`${method} ${path}`);
      return json({});
    };
    const response = await createApp([() => json({ route: 'chat' }), late]).request('/api/v1/routes/chat/weights', { method: 'DELETE' });
    expect([response.status, taken]).toEqual([200, ['DELETE /api/v1/routes/chat/weights']]);
  });

  it('tells the log, not the caller, what went wrong', async () => {
    const errors: unknown[] = [];
    const app = createApp([() => ({ status: 200, headers: [], body: 'no JSON' })], { onError: (error) => errors.push(error) });
    const response = await app.request('/api/v1/fleet');
    expect([response.status, await response.json()]).toMatchObject([500, { error: { code: 'internal_error' } }]);
    expect(errors).toEqual([expect.any(SyntaxError)]);
  });

  it('asks the next one where one cannot answer, and says so where none can', async () => {
    const page = (request: PlainRequest): PlainAnswer => json({ asked: request.path });
    expect(await (await createApp([() => undefined, page]).request('/api/v1/autoscale/chat?x=1')).json()).toEqual({ asked: '/api/v1/autoscale/chat?x=1' });
    for (const path of ['/', '/api/v1/fleet', '/api/v1/decisions', '/api/v1/config']) {
      const response = await createApp([() => undefined]).request(path);
      expect([response.status, await response.json()]).toMatchObject([503, { error: { code: 'no_worker' } }]);
    }
  });
});
