// `npm run measure:idle`: how long `fairlead serve` takes to serve, and what it occupies when idle. Prints; asserts nothing.
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { startFairlead } from '../lab/fairlead-process.ts';

const runs = 5;
const startMs: number[] = [];
const residentMb: number[] = [];
for (let run = 0; run < runs; run += 1) {
  const started = performance.now();
  const fairlead = await startFairlead({ pools: [{ name: 'chat', endpoints: [{ address: '127.0.0.1:18001' }] }] });
  startMs.push(performance.now() - started);
  await sleep(2_000);
  residentMb.push(readResidentMb(fairlead.pid));
  await fairlead.stop();
}
process.stdout.write(`start to serving: ${describe(startMs)} ms\nresident when idle: ${describe(residentMb)} MB\n(median, least to most of ${runs} runs)\n`);

/** VmRSS of a process, from /proc (Linux). */
function readResidentMb(pid: number): number {
  const kb = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return Number(kb) / 1024;
}

function describe(values: readonly number[]): string {
  const sorted = [...values].sort((a, b) => a - b);
  const show = (value: number | undefined): string => (value ?? NaN).toFixed(0);
  return `${show(sorted[Math.floor(sorted.length / 2)])} (${show(sorted[0])} to ${show(sorted.at(-1))})`;
}
