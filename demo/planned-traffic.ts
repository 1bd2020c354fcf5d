import { setTimeout as sleep } from 'node:timers/promises';
import { ask, createChatClient, type Messages, type RequestRecord } from './chat-client.ts';
import { proseOf } from './prose.ts';

/** One request of a plan: when, and what. Nothing in it hangs on how earlier ones fared. */
export interface PlannedRequest {
  readonly kind: string;
  readonly session: number;
  /** Since the start, in ms of the simulated servers' time. */
  readonly arrivalMs: number;
  readonly messages: Messages;
  readonly answerTokensMax: number;
}

export interface PlannedTrafficOptions {
  /** Where Envoy listens. */
  readonly baseUrl: string;
  readonly plan: readonly PlannedRequest[];
  /** How many times faster than the clock the simulated servers run. */
  readonly timeScale: number;
  readonly onRecord: (record: RequestRecord) => void;
}

const warmUps = 12;

/**
 * Sends a plan; times in the records are in the simulated servers' time, from when a request should have been sent. Before it, some
 * requests that are not recorded and share nothing with the plan, so that programs that have just started do not look slow.
 */
export async function sendPlannedTraffic({ baseUrl, plan, timeScale, onRecord }: PlannedTrafficOptions): Promise<void> {
  const client = createChatClient(baseUrl);
  await Promise.all(
    Array.from({ length: warmUps }, async (_, i) => {
      const messages: Messages = [{ role: 'user', content: proseOf(-1 - i, i === 0 ? 20_000 : 300) }];
      const { record } = await ask(client, { kind: 'warm-up', session: -1 - i, messages, answerTokensMax: 8, stream: true });
      if (record.failure !== undefined) throw new Error(`a request before the plan failed: ${record.failure}`);
    }),
  );
  const startMs = performance.now();
  await Promise.all(
    plan.map(async ({ kind, session, arrivalMs, messages, answerTokensMax }) => {
      const wantedMs = startMs + arrivalMs / timeScale;
      await sleep(Math.max(0, wantedMs - performance.now()));
      const { record } = await ask(client, { kind, session, messages, answerTokensMax, stream: true, wantedMs });
      const { ttftMs, lateMs } = record;
      onRecord({ ...record, ttftMs: ttftMs === undefined ? undefined : ttftMs * timeScale, lateMs: lateMs * timeScale });
    }),
  );
}
