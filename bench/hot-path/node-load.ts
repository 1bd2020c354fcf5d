// A process that sends load where wrk is not installed: takes one order from its parent, answers with the result, ends.
import { setTimeout as sleep } from 'node:timers/promises';
import { Pool } from 'undici';
import { quantile } from '../statistics.ts';
import type { LoadJob, LoadResult } from './load-job.ts';
import { nonceDigits, type RequestTemplate } from './requests.ts';

/** What the parent sends. */
export interface NodeLoadOrder extends LoadJob {
  /** The first of the numbers that make each prompt different. */
  readonly firstNumber: number;
}
/** What it gets back. */
export type NodeLoadReply = LoadResult;

const timeoutMs = 20_000;

async function send(job: NodeLoadOrder): Promise<LoadResult> {
  const pool = new Pool(job.origin, { connections: job.connections, headersTimeout: timeoutMs, bodyTimeout: timeoutMs });
  const latenciesUs: number[] = [];
  let failures = 0;
  let sent = 0;
  const startedMs = performance.now();
  const endMs = startedMs + job.durationMs;
  const sendOne = async (template: RequestTemplate, number: number): Promise<void> => {
    const digits = String(number % 10 ** nonceDigits).padStart(nonceDigits, '0');
    const sentMs = performance.now();
    try {
      const { statusCode, body } = await pool.request({
        method: 'POST',
        path: job.pathname,
        headers: template.headers,
        body: template.before + digits + template.after,
      });
      await body.dump();
      latenciesUs.push((performance.now() - sentMs) * 1_000);
      if (statusCode >= 400) failures += 1;
    } catch {
      failures += 1;
    }
  };
  const connection = async (): Promise<void> => {
    while (performance.now() < endMs) {
      const turn = sent++;
      const template = job.requests[turn % job.requests.length];
      if (template === undefined) return;
      await sendOne(template, job.firstNumber + turn);
      if (job.thinkMs > 0) await sleep(-Math.log(1 - Math.random()) * job.thinkMs);
    }
  };
  await Promise.all(Array.from({ length: job.connections }, connection));
  const seconds = (performance.now() - startedMs) / 1_000;
  await pool.close();
  return { requests: latenciesUs.length, seconds, failures, p50Us: quantile(latenciesUs, 0.5), p99Us: quantile(latenciesUs, 0.99) };
}

process.once('message', (order: NodeLoadOrder) => {
  send(order).then(
    (result) => {
      process.send?.(result);
      process.disconnect();
    },
    (error: unknown) => {
      process.stderr.write(`${String(error)}\n`);
      process.exit(1);
    },
  );
});
