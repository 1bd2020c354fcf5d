import type { HttpClient } from './http-client.ts';

/** What became of one request of a load. */
export interface LoadRecord {
  /** `performance.now()` when it was sent, and when its answer was complete or had failed. */
  readonly sentMs: number;
  readonly endedMs: number;
  /** `ip:port` of the model server that answered; undefined: none did. */
  readonly servedBy: string | undefined;
  /** Why it failed; undefined: it did not. */
  readonly failure: string | undefined;
  readonly refusal: string | undefined;
  readonly fallback: string | undefined;
}

export interface LoadOptions {
  readonly client: HttpClient;
  readonly perSecond: number;
  /** Model to ask for; the route is found by it. */
  readonly model: string;
  /** Tokens of each answer; default 3. */
  readonly answerTokens?: number;
}

/** Requests that come in steadily, whatever becomes of the earlier ones. Each is a short chat that streams, with a prompt of its own. */
export interface SteadyLoad {
  /** Of requests that are over, in order of their end. */
  readonly records: readonly LoadRecord[];
  /** Sends no more, and resolves when all that were sent are over. */
  settled(): Promise<readonly LoadRecord[]>;
}

let loads = 0;

export function startSteadyLoad({ client, perSecond, model, answerTokens = 3 }: LoadOptions): SteadyLoad {
  loads += 1;
  const load = loads;
  const records: LoadRecord[] = [];
  const underWay = new Set<Promise<void>>();
  let sent = 0;
  const startMs = performance.now();
  const timer = setInterval(() => {
    // A busy machine fires late: what is due by now goes out.
    while (sent < ((performance.now() - startMs) * perSecond) / 1_000) {
      sent += 1;
      const request = sendOne(client, model, answerTokens, `${load}/${sent}`).then((record) => void records.push(record));
      underWay.add(request);
      void request.then(() => underWay.delete(request));
    }
  }, 1_000 / perSecond);
  return {
    records,
    settled: async () => {
      clearInterval(timer);
      await Promise.all(underWay);
      return records;
    },
  };
}

async function sendOne(client: HttpClient, model: string, answerTokens: number, name: string): Promise<LoadRecord> {
  const sentMs = performance.now();
  const body = JSON.stringify({ model, stream: true, max_tokens: answerTokens, messages: [{ role: 'user', content: `${name} ${'word '.repeat(60)}` }] });
  try {
    const answer = await client.send({ path: '/v1/chat/completions', headers: { 'content-type': 'application/json', 'x-model': model }, body });
    const text = answer.body.toString();
    const isWhole = answer.status === 200 && text.endsWith('data: [DONE]\n\n');
    return {
      sentMs,
      endedMs: performance.now(),
      servedBy: answer.servedBy,
      failure: isWhole ? undefined : `${answer.status} ${text.slice(0, 200)}`,
      refusal: headerOf(answer.headers['x-fairlead-refusal']),
      fallback: headerOf(answer.headers['x-fairlead-fallback']),
    };
  } catch (error) {
    return { sentMs, endedMs: performance.now(), servedBy: undefined, failure: String(error), refusal: undefined, fallback: undefined };
  }
}

function headerOf(value: string | string[] | undefined): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

/** Those that failed. */
export function failuresOf(records: readonly LoadRecord[]): readonly LoadRecord[] {
  return records.filter(({ failure }) => failure !== undefined);
}
