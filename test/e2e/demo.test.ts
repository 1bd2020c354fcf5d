import { spawn } from 'node:child_process';
import path from 'node:path';
import { expect, it } from 'vitest';
import { projectRoot } from '../../lab/child-process.ts';

it('the demo answers every request, under both policies, and says so', async () => {
  const child = spawn(process.execPath, [path.join(projectRoot, 'demo/main.ts'), '--requests', '40'], { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString('utf8')));
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString('utf8')));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  expect(output).toContain('session-affinity: 40/40 requests, 0 failed');
  expect(output).toContain('round-robin: 40/40 requests, 0 failed');
  expect(output).toMatch(/The same traffic, side by side:\n {2}session-affinity .*\n {2}round-robin /);
  expect(code).toBe(0);
}, 60_000);
