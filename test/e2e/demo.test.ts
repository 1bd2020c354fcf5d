import { spawn } from 'node:child_process';
import path from 'node:path';
import { expect, it } from 'vitest';
import { projectRoot } from '../../lab/child-process.ts';

/** Runs the demo to its end. */
async function demo(...args: readonly string[]): Promise<{ readonly code: number | null; readonly output: string }> {
  const child = spawn(process.execPath, [path.join(projectRoot, 'demo/main.ts'), ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString('utf8')));
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString('utf8')));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, output };
}

it('the demo answers every request, under both policies, and says so', async () => {
  const { code, output } = await demo('--requests', '40');
  expect(output).toContain('sticky: 40/40 requests, 0 failed');
  expect(output).toContain('round-robin: 40/40 requests, 0 failed');
  expect(output).toMatch(/The same traffic, side by side:\n {2}sticky .*\n {2}round-robin /);
  expect(code).toBe(0);
}, 60_000);

it('the mixed scenario answers every request under every policy, and sticky keeps short prompts and caches apart from round robin', async () => {
  const { code, output } = await demo('--scenario', 'mixed', '--requests', '60');
  const policies = ['sticky', 'round-robin', 'least-requests', 'session-affinity'];
  for (const policy of policies) expect(output).toContain(`${policy}: 60/60 requests, 0 failed`);
  expect(code).toBe(0);

  const rows = output.slice(output.indexOf('The same traffic, side by side')).split('\n');
  const figures = new Map(
    policies.map((policy) => {
      const row = rows.find((line) => line.startsWith(`${policy} `)) ?? '';
      // Its columns: TTFT p50 and p99 of short prompts, p50 and p99 of documents, cached, by fast.
      expect(row, output).toMatch(/^[a-z-]+(?: +\d+ ms){4}(?: +\d+ %){2}$/);
      const [, shortP99Ms = 0, , , cachedPercent = 0] = (row.match(/\d+(?= )/g) ?? []).map(Number);
      return [policy, { shortP99Ms, cachedPercent }];
    }),
  );
  const sticky = figures.get('sticky')!;
  const roundRobin = figures.get('round-robin')!;
  // Seen: 42 % beside 9 to 18 %, and 160 to 250 ms beside 2.2 s and more. Both hang on the plan of arrivals, which is fixed, more than on the machine's speed.
  expect(sticky.cachedPercent).toBeGreaterThan(roundRobin.cachedPercent);
  expect(sticky.shortP99Ms).toBeLessThan(roundRobin.shortP99Ms);
}, 180_000);

it('the spike scenario calls both servers of the reserve in and sends them back, and loses nothing', async () => {
  const { code, output } = await demo('--scenario', 'spike', '--spike-seconds', '10', '--no-rivals');
  expect(output).toMatch(/sticky: (\d+)\/\1 requests, 0 failed/);
  const [row = ''] = output.split('\n').filter((line) => line.startsWith('sticky  '));
  // When each joined, and when each was back.
  expect(row, output).toMatch(/(?:\d+\.\d s,? +){3}\d+\.\d s$/);
  // Seen: a p99 of 1.5 s of 3 s. On a machine that is busy with other things that line may be missed, and is the only one.
  const missed = output.split('missed what it should do:\n')[1]?.trim() ?? '';
  expect(missed, output).toMatch(/^(?:TTFT p99 is \d+ ms, over 3000 ms)?$/);
  expect(code).toBe(missed === '' ? 0 : 1);
}, 120_000);
