import { Agent } from 'node:http';
import type { Clock, Rng } from '../router/ports.ts';
import type { ProbeEvents } from '../router/probe-events.ts';
import { type ProbeSettings, type ProbeVerdict, verdictStaleMs } from '../router/probe-verdict.ts';
import { type Answer, httpGet } from './http-get.ts';
import { type ProbeOutcome, ProbeRecord } from './probe-record.ts';
import { type AskedPool, type ModelServer, ServerRounds } from './server-rounds.ts';

export interface ProberOptions {
  readonly pools: readonly AskedPool<ProbeSettings>[];
  readonly clock: Clock;
  readonly rng: Rng;
  readonly events: Pick<ProbeEvents, 'probePassed' | 'probeFailed'>;
  /** Hears after each probe what holds of the server, also when that is what held before; `hostPort` is the address of its endpoints. */
  readonly onResult: (pool: string, hostPort: string, verdict: ProbeVerdict) => void;
  /** Whether this router is the one in charge of a server; default: of all. */
  readonly isOurs?: (hostPort: string) => boolean;
  /**
   * Age in ms of what was last told of a server, by this router or another; undefined: nothing yet. Left out where no other router tells.
   */
  readonly verdictAgeMs?: (pool: string, hostPort: string) => number | undefined;
}

const timeoutMsDefault = 500;
/**
 * First probes are spread over so long, in ms; those of many servers over a millisecond for each: begun all together, they would be what
 * makes each other late.
 */
const spreadMsMin = 100;
const spreadMsPerServer = 1;
/** Largest answer read, in bytes: a list of a thousand adapters is about half of that. */
const bodyBytesMax = 1_048_576;
/** While a server does not pass, or its last probe did not, it is probed in this part of the interval. */
const paceWhileUnsound = 0.5;
/** Probes on one connection: a server that takes no new ones must be found out, too. */
const probesPerConnection = 10;
/** Most that is told of the models that a server lists instead of the right one. */
const namesMax = 3;
const nameCharsMax = 64;

/** What is kept of one server. */
interface Memory {
  readonly record: ProbeRecord;
  probes: number;
}

/**
 * Probes the model servers of pools by HTTP: whether they answer, and whether their model is loaded. Of routers that share their state each
 * probes its share; what nobody told of for a while is probed by all.
 */
export class HealthProber {
  readonly #options: ProberOptions;
  readonly #rounds: ServerRounds<ProbeSettings, Memory>;
  readonly #agent = new Agent({ keepAlive: true });

  constructor(options: ProberOptions) {
    this.#options = options;
    this.#rounds = new ServerRounds({
      pools: options.pools,
      clock: options.clock,
      rng: options.rng,
      spreadMs: (_settings, servers) => Math.max(spreadMsMin, spreadMsPerServer * servers),
      remember: () => ({ record: new ProbeRecord(), probes: 0 }),
      ask: (server, memory) => this.#ask(server, memory),
    });
  }

  /** Begins at once. */
  start(): void {
    this.#rounds.start();
  }

  /** Probes these pools from now on, in these ways. */
  follow(pools: readonly AskedPool<ProbeSettings>[]): void {
    this.#rounds.follow(pools);
  }

  /** Resolves when each server that was there at the start was probed once: within the spread and the timeout. Also on `stop`. Never rejects. */
  firstRound(): Promise<void> {
    return this.#rounds.firstRound();
  }

  /** Ends at once; nothing is told any more. */
  stop(): void {
    this.#rounds.stop();
    this.#agent.destroy();
  }

  async #ask(server: ModelServer<ProbeSettings>, memory: Memory): Promise<number> {
    const { clock, events, onResult, isOurs, verdictAgeMs } = this.#options;
    const { pool, settings, hostPort } = server;
    const { record } = memory;
    const ageMs = verdictAgeMs?.(pool.name, hostPort);
    const isStale = verdictAgeMs !== undefined && (ageMs === undefined || ageMs > verdictStaleMs(settings));
    if (!(isOurs?.(hostPort) ?? true) && !isStale) {
      record.forget();
      return settings.intervalMs;
    }
    const startedMs = clock.nowMs();
    const outcome = await this.#probe(server, memory, startedMs);
    if (server.signal.aborted) return 0;
    const verdict = record.note(outcome, settings, ageMs !== undefined);
    if (outcome.ok) events.probePassed(pool.name, hostPort, clock.nowMs() - startedMs);
    else events.probeFailed(pool.name, hostPort, outcome.cause, outcome.detail);
    if (verdict !== undefined) onResult(pool.name, hostPort, verdict);
    return record.isSound ? settings.intervalMs : settings.intervalMs * paceWhileUnsound;
  }

  async #probe(server: ModelServer<ProbeSettings>, memory: Memory, startedMs: number): Promise<ProbeOutcome> {
    const { path, model, modelsPath, intervalMs, timeoutMs = Math.min(timeoutMsDefault, intervalMs) } = server.settings;
    memory.probes += 1;
    const isLast = memory.probes % probesPerConnection === 0;
    const ask = (asked: string, isLastQuestion: boolean): Promise<Answer> =>
      httpGet({
        host: server.host,
        port: server.port,
        path: asked,
        headers: {
          accept: 'application/json, */*;q=0.5',
          'accept-encoding': 'identity',
          'user-agent': 'fairlead-probe',
          ...(isLast && isLastQuestion && { connection: 'close' }),
        },
        timeoutMs: Math.max(1, timeoutMs - (this.#options.clock.nowMs() - startedMs)),
        bodyBytesMax,
        wantsBody: isSuccess,
        agent: this.#agent,
        clock: this.#options.clock,
        signal: server.signal,
      });
    const asksOnce = model === undefined || path === modelsPath;
    const health = await ask(path, asksOnce);
    const failure = toFailure(health, path);
    if (failure !== undefined || model === undefined) return failure ?? { ok: true };
    const models = asksOnce ? health : await ask(modelsPath, true);
    return toFailure(models, modelsPath) ?? findModel(models, modelsPath, model);
  }
}

function isSuccess(status: number): boolean {
  return status >= 200 && status <= 299;
}

/** Why that is no pass; undefined: nothing against it. */
function toFailure(answer: Answer, path: string): ProbeOutcome | undefined {
  if (!answer.ok) return answer;
  if (isSuccess(answer.status)) return undefined;
  return { ok: false, cause: answer.status === 503 ? 'unavailable' : 'status', detail: `${path} answered ${answer.status}` };
}

/** Looks for the model in a list in OpenAI's shape: `{"data": [{"id": NAME}, …]}`. */
function findModel(answer: Answer, path: string, model: string): ProbeOutcome {
  const ids = answer.ok ? parseModelIds(answer.body) : undefined;
  if (ids === undefined) return { ok: false, cause: 'malformed', detail: `${path} answered with no list of models` };
  if (ids.includes(model)) return { ok: true };
  const names = ids.slice(0, namesMax).map((id) => id.slice(0, nameCharsMax));
  const listed = ids.length === 0 ? 'nothing' : `${names.join(', ')}${ids.length > namesMax ? ` and ${ids.length - namesMax} more` : ''}`;
  return { ok: false, cause: 'model-missing', detail: `${path} lists ${listed}, not ${model}` };
}

function parseModelIds(body: Buffer): string[] | undefined {
  let list: unknown;
  try {
    list = JSON.parse(body.toString());
  } catch {
    return undefined;
  }
  const data: unknown = typeof list === 'object' && list !== null && 'data' in list ? list.data : undefined;
  if (!Array.isArray(data)) return undefined;
  return data.flatMap((entry: unknown) => (typeof entry === 'object' && entry !== null && 'id' in entry && typeof entry.id === 'string' ? [entry.id] : []));
}
