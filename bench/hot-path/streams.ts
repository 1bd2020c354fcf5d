// `npm run bench:streams`: thousands of long answers (server-sent events) at once through one Envoy. None may fail, and what Fairlead keeps of
// them must be gone when they end. Prints the memory that an open stream takes; ends with 1 where something does not hold.
//
// Twice: on the shipped configuration, where Fairlead lets go of each stream at its first token and keeps its reservation; and on the one for
// inference gateways, where every event passes through Fairlead and the ext_proc stream is open to the end.
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Pool } from 'undici';
import { endChildrenOnSignal, projectRoot, runProgram } from '../../lab/child-process.ts';
import type { FairleadProcess } from '../../lab/fairlead-process.ts';
import { readResidentMb } from '../../lab/process-usage.ts';
import { startRedis } from '../../lab/redis-process.ts';
import { describeMachine, resultsFolder, writeResults } from '../result-file.ts';
import { median } from '../statistics.ts';
import { startGateway } from './gateway.ts';
import { smallHeap, startMeasuredFairlead } from './processors.ts';

const { values: given } = parseArgs({
  options: {
    streams: { type: 'string', default: '2000' },
    waves: { type: 'string', default: '4' },
    events: { type: 'string', default: '15' },
    modes: { type: 'string', default: 'NONE,FULL_DUPLEX_STREAMED' },
    out: { type: 'string' },
  },
});
const [streams, waves, events] = [Number(given.streams), Number(given.waves), Number(given.events)];
/** What may be left of a wave after the one before: heaps breathe. */
const growthMax = 0.1;
const growthMbMax = 10;
const answerMsMax = 120_000;

interface Wave {
  /** All open, all past their first event. */
  readonly openMb: number;
  readonly openHeapMb: number;
  /** ext_proc streams that are open then: none where Fairlead has let go of them all. */
  readonly openProcessing: number;
  /** Some seconds after the last has ended. */
  readonly endedMb: number;
  readonly failures: number;
  /** Requests that Fairlead still counts after that. */
  readonly leftInFlight: number;
}

interface Outcome {
  readonly mode: string;
  readonly idleMb: number;
  readonly waves: readonly Wave[];
  readonly kbPerStream: number;
  readonly processingFailures: number;
  readonly holds: boolean;
}

const heapMb = async (fairlead: FairleadProcess): Promise<number> => (await fairlead.metric('nodejs_heap_size_used_bytes')) / 2 ** 20;

/** Opens `count` streams at the same time. `opened` resolves when each has had its first event, `ended` with what became of each. */
function openStreams(pool: Pool, count: number): { opened: Promise<unknown>; ended: Promise<string[]> } {
  const opened: Promise<void>[] = [];
  const ended: Promise<string>[] = [];
  for (let i = 0; i < count; i += 1) {
    const body = JSON.stringify({ model: 'bench-model', stream: true, messages: [{ role: 'user', content: `Question ${i}: which berth is free? `.repeat(20) }] });
    const first = Promise.withResolvers<undefined>();
    opened.push(first.promise);
    const read = async (): Promise<string> => {
      const answer = await pool.request({
        method: 'POST',
        path: '/v1/chat/completions',
        headers: { 'content-type': 'application/json', 'x-session-id': `session-${i}` },
        body,
      });
      let text = '';
      for await (const chunk of answer.body) {
        text += String(chunk);
        first.resolve(undefined);
      }
      if (answer.statusCode !== 200) return `${answer.statusCode} ${text.slice(0, 120)}`;
      const whole = text.endsWith('data: [DONE]\n\n') && text.split('\n\n').length === events + 2;
      return whole ? 'whole' : 'cut short';
    };
    ended.push(
      read().catch((error: unknown) => String(error)).finally(() => first.resolve(undefined)),
    );
  }
  return { opened: Promise.all(opened), ended: Promise.all(ended) };
}

async function runWave(fairlead: FairleadProcess, url: string, count: number): Promise<Wave> {
  const pool = new Pool(url, { connections: count, headersTimeout: answerMsMax, bodyTimeout: answerMsMax });
  try {
    const { opened, ended } = openStreams(pool, count);
    await opened;
    // All in the middle of their answers.
    const openMb: number[] = [];
    const openHeapMb: number[] = [];
    for (let i = 0; i < 5; i += 1) {
      openMb.push(readResidentMb(fairlead.pid));
      openHeapMb.push(await heapMb(fairlead));
      await sleep(500);
    }
    const openProcessing = await fairlead.metric('fairlead_streams_open');
    const failed = (await ended).filter((outcome) => outcome !== 'whole');
    for (const outcome of new Set(failed)) process.stdout.write(`  ${failed.filter((one) => one === outcome).length} × ${outcome}\n`);
    for (let waited = 0; waited < 5_000 && (await fairlead.requestsInFlight()) > 0; waited += 100) await sleep(100);
    await sleep(2_000);
    return {
      openMb: median(openMb),
      openHeapMb: Math.min(...openHeapMb),
      openProcessing,
      endedMb: readResidentMb(fairlead.pid),
      failures: failed.length,
      leftInFlight: await fairlead.requestsInFlight(),
    };
  } finally {
    await pool.destroy();
  }
}

async function run(mode: 'NONE' | 'FULL_DUPLEX_STREAMED', redisUrl: string): Promise<Outcome> {
  const parts: { stop(): Promise<unknown> }[] = [];
  try {
    const server = runProgram(process.execPath, [path.join(projectRoot, 'bench/hot-path/sse-server.ts'), '--events', String(events)], { name: 'sse-server' });
    parts.push(server);
    const endpoint = `127.0.0.1:${await server.waitForLine((line) => /^listening (\d+)$/.exec(line)?.[1])}`;
    const fairlead = await startMeasuredFairlead({ policy: 'sticky', endpoints: [endpoint], redisUrl }, smallHeap);
    parts.push(fairlead);
    const gateway = await startGateway({ name: 'fairlead', address: fairlead.address }, { mode, baselineMode: 'BUFFERED' }, [endpoint]);
    parts.push(gateway);
    // Code is compiled and heaps have their size before anything is counted.
    await runWave(fairlead, gateway.url, Math.min(streams, 500));
    const idleMb = readResidentMb(fairlead.pid);
    const done: Wave[] = [];
    for (let i = 0; i < waves; i += 1) {
      const wave = await runWave(fairlead, gateway.url, streams);
      done.push(wave);
      process.stdout.write(
        `${mode} wave ${i + 1}: ${streams} streams, ${wave.failures} failed, ${wave.openProcessing} of them open at Fairlead, resident ${wave.openMb.toFixed(0)} MB open, ${wave.endedMb.toFixed(0)} MB after, ${wave.leftInFlight} left in flight\n`,
      );
    }
    const { failures: processingFailures } = await gateway.counts();
    if (processingFailures > 0) {
      const stats = await gateway.stats('ext_proc\\.(streams_failed|failure_mode|message_timeouts|spurious|rejected)|^cluster\\.fairlead\\.upstream_(cx_destroy|cx_total|rq_(pending_overflow|timeout|rx_reset|tx_reset|retry))|cluster\\.fairlead\\.(health_check\\.failure|outlier)');
      for (const [name, value] of Object.entries(stats)) if (value > 0) process.stdout.write(`  ${name}: ${value}\n`);
    }
    const [first, last] = [done[0]?.endedMb ?? NaN, done.at(-1)?.endedMb ?? NaN];
    const flat = last - first <= Math.max(growthMbMax, first * growthMax);
    const clean = done.every(({ failures, leftInFlight }) => failures === 0 && leftInFlight === 0) && processingFailures === 0;
    // The most that can be laid to them: garbage of their beginning is in it.
    const kbPerStream = (Math.max(0, Math.max(...done.map(({ openMb }) => openMb)) - idleMb) * 1_024) / streams;
    process.stdout.write(`${mode}: at most ${kbPerStream.toFixed(1)} KB a stream, ${processingFailures} failures of ext_proc, ${flat ? 'flat' : 'GROWS'} after the end, ${clean && flat ? 'PASS' : 'MISS'}\n`);
    return { mode, idleMb, waves: done, kbPerStream, processingFailures, holds: clean && flat };
  } finally {
    for (const part of parts.reverse()) await part.stop();
  }
}

endChildrenOnSignal();
const redis = await startRedis();
try {
  const outcomes: Outcome[] = [];
  for (const mode of given.modes.split(',')) {
    if (mode !== 'NONE' && mode !== 'FULL_DUPLEX_STREAMED') throw new Error(`--modes: NONE and FULL_DUPLEX_STREAMED, not ${mode}`);
    outcomes.push(await run(mode, redis.url));
  }
  await writeResults(given.out ?? path.join(resultsFolder, 'streams.json'), { machine: describeMachine(), streams, events, outcomes });
  if (outcomes.some(({ holds }) => !holds)) process.exitCode = 1;
} finally {
  await redis.stop();
}
