import { type Context, Hono } from 'hono';
import { isControl, readBody, tooLarge } from '../../admin/controls.ts';
import type { FleetReport } from '../../admin/fleet-report.ts';
import { type RecentDecision, recentDecisionsDefault } from '../../admin/recent-decisions.ts';
import { answerErrors, type ReadinessPart } from '../../admin/server.ts';
import type { MetricTotals } from '../../telemetry/metric-totals.ts';
import type { WorkerMetrics } from '../../telemetry/worker-metrics.ts';
import type { ChangeJournal } from './change-journal.ts';
import type { PlainAnswer, PlainRequest } from './worker-messages.ts';
import type { WorkerSlot } from './worker-slot.ts';

export interface WorkersAppOptions {
  readonly slots: readonly Pick<WorkerSlot, 'worker' | 'state' | 'listen' | 'ask'>[];
  readonly journal: ChangeJournal;
  readonly metrics: WorkerMetrics;
  readonly totals: MetricTotals;
  readonly isDraining: () => boolean;
  /** Told what a page threw; the caller gets a bare 500. */
  readonly onError: (error: unknown) => void;
}

/**
 * The admin API of several workers: the pages of one router, of which all workers have their part. What every worker knows one of them
 * tells; what each knows for itself is put together; a change goes to all.
 */
export function createWorkersApp({ slots, journal, metrics, totals, isDraining, onError }: WorkersAppOptions): Hono {
  const app = new Hono();
  const askAll = async (request: PlainRequest): Promise<(PlainAnswer | undefined)[]> =>
    (await Promise.all(slots.map((slot) => slot.ask('http', request)))).map((answer) => answer?.answered);
  /** Of the first worker that can answer. */
  const askOne = async (request: PlainRequest): Promise<PlainAnswer | undefined> => {
    for (const slot of slots) {
      const answer = await slot.ask('http', request);
      if (answer !== undefined) return answer.answered;
    }
    return undefined;
  };

  app.get('/healthz', (context) => context.text('ok\n', 200, { 'cache-control': 'no-store' }));
  app.get('/readyz', async (context) => {
    const answers = await askAll(toPlain(context));
    const parts = mergeReadiness(slots, answers.map(readReadiness), isDraining());
    const ready = parts.every((part) => part.ready);
    return context.json({ ready, parts }, ready ? 200 : 503, { 'cache-control': 'no-store' });
  });
  app.get('/metrics', async (context) => {
    await Promise.all(
      slots.map(async (slot) => {
        const told = await slot.ask('metrics', undefined);
        if (told !== undefined) totals.read(slot.worker, told.answered);
      }),
    );
    return context.body(await totals.toText(await metrics.read()), 200, { 'content-type': metrics.contentType, 'cache-control': 'no-store' });
  });
  app.get('/api/v1/fleet', async (context) => {
    const [first, ...others] = readAll<FleetReport>(await askAll(toPlain(context)));
    return first === undefined ? unavailable(context) : context.json(mergeFleets(first, others), 200, { 'cache-control': 'no-store' });
  });
  app.get('/api/v1/decisions', async (context) => {
    const answers = await askAll(toPlain(context));
    const refused = answers.find((answer) => answer !== undefined && answer.status !== 200);
    if (refused !== undefined) return toResponse(refused);
    const told = readAll<{ readonly decisions: readonly RecentDecision[] }>(answers);
    if (told.length === 0) return unavailable(context);
    // No worker tells more than were asked for.
    const limit = Number(context.req.query('limit') ?? recentDecisionsDefault);
    const newestFirst = told.flatMap(({ decisions }) => decisions).sort((a, b) => (a.time < b.time ? 1 : -1));
    return context.json({ decisions: newestFirst.slice(0, limit) }, 200, { 'cache-control': 'no-store' });
  });
  app.all('*', async (context) => {
    const { ok, body } = await readBody(context);
    if (!ok) return tooLarge(context);
    const request = { ...toPlain(context), body };
    if (!isControl(request.method, context.req.path)) {
      const answer = await askOne(request);
      return answer === undefined ? unavailable(context) : toResponse(answer);
    }
    const answers = await askAll(request);
    const refused = answers.find((answer) => answer !== undefined && answer.status !== 200);
    if (refused !== undefined) return toResponse(refused);
    const first = answers.find((answer) => answer !== undefined);
    if (first === undefined) return unavailable(context);
    journal.note(request);
    // One that began to serve meanwhile may have read the journal before.
    slots.forEach((slot, i) => {
      if (answers[i] === undefined) void slot.ask('http', request);
    });
    return toResponse(first);
  });
  answerErrors(app, onError);
  return app;
}

/** The pages of those that gave them. */
function readAll<T>(answers: readonly (PlainAnswer | undefined)[]): T[] {
  return answers.flatMap((answer) => (answer?.status === 200 ? [JSON.parse(answer.body) as T] : []));
}

/** A request without its body. */
function toPlain(context: Context): PlainRequest {
  const { method, raw, url } = context.req;
  const { pathname, search } = new URL(url);
  return { method, path: pathname + search, headers: [...raw.headers], body: undefined };
}

function toResponse({ status, headers, body }: PlainAnswer): Response {
  const isEmpty = body === '';
  return new Response(isEmpty ? null : body, { status, headers: headers.map(([name, value]): [string, string] => [name, value]) });
}

function unavailable(context: Context): Response {
  return context.json({ error: { code: 'no_worker', message: 'No worker can answer now; /readyz tells of each.' } }, 503);
}

function readReadiness(answer: PlainAnswer | undefined): readonly ReadinessPart[] | undefined {
  return answer === undefined ? undefined : (JSON.parse(answer.body) as { parts: ReadinessPart[] }).parts;
}

/** Each worker as a part; what they say of anything else is in order only where all of them say so. */
function mergeReadiness(
  slots: WorkersAppOptions['slots'],
  told: readonly (readonly ReadinessPart[] | undefined)[],
  isDraining: boolean,
): ReadinessPart[] {
  const workers = slots.map(({ worker, state, listen }, i): ReadinessPart => {
    const own = told[i]?.find(({ name }) => name === 'grpc');
    const reason = isDraining ? 'draining' : own === undefined ? (state === 'serving' ? 'does not answer' : state) : `${own.reason ?? ''} at ${listen}`;
    return { name: `worker:${worker}`, ready: !isDraining && own?.ready === true, reason };
  });
  const others = new Map<string, ReadinessPart>();
  for (const part of told.flatMap((parts) => parts ?? [])) {
    if (part.name === 'grpc') continue;
    const known = others.get(part.name);
    if (known === undefined || (known.ready && !part.ready)) others.set(part.name, part);
  }
  return [...workers, ...others.values()];
}

/** One worker's view of the fleet, with what all of them have in flight themselves. */
function mergeFleets(first: FleetReport, others: readonly FleetReport[]): FleetReport {
  return {
    ...first,
    pools: first.pools.map((pool) => ({
      ...pool,
      endpoints: pool.endpoints.map((endpoint) => {
        const same = others.flatMap(({ pools }) => pools.find(({ name }) => name === pool.name)?.endpoints.find(({ address }) => address === endpoint.address) ?? []);
        const sum = (of: 'requestsInFlight' | 'promptTokensInFlight' | 'uncachedTokensWaiting'): number => same.reduce((all, one) => all + one[of], endpoint[of]);
        return {
          ...endpoint,
          requestsInFlight: sum('requestsInFlight'),
          promptTokensInFlight: sum('promptTokensInFlight'),
          uncachedTokensWaiting: sum('uncachedTokensWaiting'),
        };
      }),
    })),
  };
}
