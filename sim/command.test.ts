import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { simulateCommand } from './command.ts';
import { Progress } from './progress.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'fairlead-simulate-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

interface Ran {
  readonly out: string;
  readonly err: string;
  /** Undefined: the command did not end the process. */
  readonly code: number | undefined;
}

/** Runs the command inside this process; what would end the process ends the call. */
async function simulate(...args: string[]): Promise<Ran> {
  let out = '';
  let err = '';
  const spies = [
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
      out += String(text);
      return true;
    }),
    vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
      err += String(text);
      return true;
    }),
  ];
  try {
    await simulateCommand(path.join(folder, 'project')).exitOverride().parseAsync(args, { from: 'user' });
    return { out, err, code: undefined };
  } catch (error) {
    return { out, err: err + (error as Error).message, code: (error as { exitCode?: number }).exitCode };
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
}

const small = ['--trace', 'generated:multi-turn', '--requests', '60', '--endpoints', '3'];

describe('fairlead simulate', () => {
  it('prints one line of JSON for each policy, the same for the same seed', async () => {
    const first = await simulate(...small, '--policy', 'round-robin,sticky', '--policy', 'least-requests', '--json');
    const rows = first.out.trim().split('\n').map((line) => JSON.parse(line) as { policy: string; requests: number; endpoints: number; ttftMs: { mean: number } });
    expect(rows.map(({ policy }) => policy)).toEqual(['round-robin', 'sticky', 'least-requests']);
    expect(rows.every(({ requests, endpoints, ttftMs }) => requests === 60 && endpoints === 3 && ttftMs.mean > 0)).toBe(true);
    expect((await simulate(...small, '--policy', 'round-robin,sticky', '--policy', 'least-requests', '--json')).out).toBe(first.out);
    expect((await simulate(...small, '--policy', 'sticky', '--json', '--seed', '2')).out).not.toContain(first.out.split('\n')[1] ?? 'nothing');
  });

  it('prints a table, with what was run and assumed', async () => {
    const { out } = await simulate(...small, '--scenario', 'half-speed,estimates-30', '--routers', '2');
    for (const part of ['60 requests', '3 endpoints', '2 routers', 'half speed', '30 %', 'assumed:', 'round-robin', 'sticky']) expect(out).toContain(part);
  });

  it('explains one decision', async () => {
    const { out } = await simulate(...small, '--policy', 'sticky', '--explain', '40');
    for (const part of ['policy sticky, request 40', 'uncached tokens', 'tipped by', '10.0.0.1:8000']) expect(out).toContain(part);
    expect(out).not.toContain('session-');
  });

  it('writes a page', async () => {
    const file = path.join(folder, 'report.html');
    await simulate(...small, '--html', file, '--json');
    expect(readFileSync(file, 'utf8')).toContain('</html>');
  });

  it('runs the pools, policies and routes of a configuration on an access log', async () => {
    const config = path.join(folder, 'fairlead.yaml');
    writeFileSync(
      config,
      `affinity: { secret: one }
pools:
  - { name: chat, policy: { preset: least-requests }, endpoints: [{ address: '127.0.0.1:1' }, { address: '127.0.0.1:2', labels: { gpu: old } }] }
  - { name: code, policy: { preset: sticky }, endpoints: [{ address: '127.0.0.1:3' }] }
routes:
  - { match: { model: 'code-*' }, targets: [{ pool: code }] }
  - { targets: [{ pool: chat }] }
`,
    );
    const log = path.join(folder, 'access.log');
    const record = (second: number, model: string): string =>
      JSON.stringify({ start_time: `2026-01-01T00:00:${String(second).padStart(2, '0')}Z`, bytes_received: 9_000, bytes_sent: 900, response_code: 200, session: 's', model });
    writeFileSync(log, Array.from({ length: 30 }, (_, i) => record(i, i % 3 === 0 ? 'code-1' : 'chat-1')).join('\n'));
    const both = await simulate('--config', config, '--trace', log, '--policy', 'configured,round-robin', '--json');
    const rows = both.out.trim().split('\n').map((line) => JSON.parse(line) as { policy: string; endpoints: number; requests: number });
    expect(rows.map(({ policy, endpoints, requests }) => [policy, endpoints, requests])).toEqual([['configured', 3, 30], ['round-robin', 3, 30]]);
    const explained = await simulate('--config', config, '--trace', log, '--explain', '3', '--profile', 'gpu=old:slow-gpu');
    expect(explained.out).toContain('pool code');
  });

  it.each([
    [['--trace', 'nowhere'], 'FAIRLEAD_TRACES'],
    [['--trace', 'generated:nothing'], 'multi-turn'],
    [[...small, '--policy', 'nothing'], 'round-robin'],
    [[...small, '--policy', 'configured'], '--config'],
    [[...small, '--explain', '60'], 'counted from 0'],
    [[...small, '--endpoints', '0'], 'from 1'],
    [[...small, '--speed', '0'], 'above 0'],
    [[...small, '--slice', '50-20%'], '0-25%'],
    [[...small, '--scenario', 'rain'], 'half-speed'],
    [[...small, '--profile', 'quantum'], 'dynamo-mocker'],
    [[...small, '--profile', 'gpu=a:demo'], '--config'],
    [[...small, '--hide', 'everything'], 'kv-size'],
    [[...small, '--config', 'nowhere.yaml'], 'cannot be read'],
    [[...small, '--html', '/nowhere/at/all.html', '--json'], 'cannot be written'],
  ])('refuses %j and says why', async (args, cause) => {
    const { err, code } = await simulate(...args);
    expect(code).toBe(1);
    expect(err).toContain(cause);
  });
});

describe('Progress', () => {
  it('says nothing of short runs, and leaves a clean line on a terminal', () => {
    const said: string[] = [];
    const write = (text: string): void => void said.push(text);
    const now = vi.spyOn(performance, 'now');
    let nowMs = 0;
    now.mockImplementation(() => nowMs);
    const terminal = new Progress({ isTTY: true, write }, 'run');
    terminal.show(0.1);
    terminal.end();
    expect(said).toEqual([]);
    nowMs = 1_000;
    terminal.show(0.5);
    terminal.end();
    expect(said.map((text) => text.replaceAll('\x1b[K', ''))).toEqual(['\rrun: 50 %', '\r']);
    said.length = 0;
    const file = new Progress({ write }, 'run');
    nowMs = 2_000;
    file.show(0.2);
    nowMs = 7_000;
    file.show(0.7);
    file.end();
    now.mockRestore();
    expect(said).toEqual(['run: 70 %\n']);
  });
});
