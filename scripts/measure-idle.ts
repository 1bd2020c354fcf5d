// `npm run measure:idle`: how long `fairlead serve` takes to serve, and what it occupies when idle. Prints; asserts nothing.
import { setTimeout as sleep } from 'node:timers/promises';
import { startFairlead } from '../lab/fairlead-process.ts';
import { readResidentMb } from '../lab/process-usage.ts';

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

function describe(values: readonly number[]): string {
  const sorted = [...values].sort((a, b) => a - b);
  const show = (value: number | undefined): string => (value ?? NaN).toFixed(0);
  return `${show(sorted[Math.floor(sorted.length / 2)])} (${show(sorted[0])} to ${show(sorted.at(-1))})`;
}
