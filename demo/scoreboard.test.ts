import { describe, expect, it } from 'vitest';
import type { RequestRecord } from './chat-client.ts';
import { formatGrid, formatTable, quantile, Scoreboard } from './scoreboard.ts';

const record = (change: Partial<RequestRecord>): RequestRecord => ({
  kind: 'short',
  session: 1,
  servedBy: 'a',
  ttftMs: 10,
  lateMs: 1,
  promptTokens: 100,
  cachedTokens: 0,
  failure: undefined,
  ...change,
});

describe('Scoreboard', () => {
  const board = new Scoreboard([
    { address: 'a', kind: 'fast', standby: false },
    { address: 'b', kind: 'slow', standby: false },
  ]);
  board.add(record({}));
  board.add(record({ session: 2, ttftMs: 30, lateMs: 5, cachedTokens: 50 }));
  board.add(record({ kind: 'long', servedBy: 'b', ttftMs: undefined, promptTokens: 1_000, cachedTokens: 300 }));
  board.add(record({ servedBy: undefined, ttftMs: undefined, promptTokens: 0, failure: '503' }));

  it('counts failures, and leaves them out of the figures', () => {
    expect(board.requests).toBe(4);
    expect(board.failures).toEqual(['503']);
    expect(board.total()).toMatchObject({ requests: 3, cachedShare: 350 / 1_200, computedTokens: 850 });
  });

  it('tells kinds of requests and of servers apart', () => {
    expect(board.ofKind('short')).toMatchObject({ requests: 2, sessions: 2, ttftP50Ms: 10, ttftP99Ms: 30, lateP99Ms: 5, cachedShare: 0.25 });
    expect(board.byServers('fast')).toMatchObject({ requests: 2, computedTokens: 150 });
    expect(board.byServers('slow')).toMatchObject({ requests: 1, computedTokens: 700, ttftP50Ms: undefined });
  });

  it('prints a line for each endpoint and one for all', () => {
    expect(formatTable(board).split('\n').map((line) => line.replace(/ {2,}/g, ' | '))).toEqual([
      'endpoint | requests | sessions | cached | TTFT p50 | TTFT p99',
      '-------- | -------- | -------- | ------ | -------- | --------',
      'a fast | 2 | 2 | 25 % | 10 ms | 30 ms',
      'b slow | 1 | 1 | 30 % | – | –',
      'all | 3 | 2 | 29 % | 10 ms | 30 ms',
    ]);
  });
});

describe('quantile', () => {
  it('takes the nearest rank', () => {
    const sorted = Array.from({ length: 200 }, (_, i) => i + 1);
    expect(quantile(sorted, 0.5)).toBe(100);
    expect(quantile(sorted, 0.99)).toBe(198);
    expect(quantile([7], 0.99)).toBe(7);
    expect(quantile([], 0.99)).toBeUndefined();
  });
});

describe('formatGrid', () => {
  it('aligns the first column left and figures right', () => {
    expect(formatGrid(['name', 'n'], [['a', '10'], ['longer', '5']])).toBe('name     n\n------  --\na       10\nlonger   5');
  });
});
