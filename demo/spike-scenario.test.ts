import { describe, expect, it } from 'vitest';
import type { RequestRecord } from './chat-client.ts';
import type { ReserveTimes } from './reserve-watch.ts';
import { Scoreboard } from './scoreboard.ts';
import { missedLines } from './spike-scenario.ts';

/** A board of 100 requests, of which so many had to wait for long. */
function boardWith(late: number, lateMs: number, change: Partial<RequestRecord> = {}): Scoreboard {
  const board = new Scoreboard([]);
  for (let i = 0; i < 100; i += 1) {
    board.add({ kind: 'spike', session: i, servedBy: 'a', ttftMs: i < late ? lateMs : 200, lateMs: 0, promptTokens: 1, cachedTokens: 0, failure: undefined, ...change });
  }
  return board;
}

const joinedAndLeft: readonly ReserveTimes[] = [
  { address: '127.0.0.1:7', joinedMs: 6_000, leftMs: 50_000 },
  { address: '127.0.0.1:8', joinedMs: 7_000, leftMs: 55_000 },
];
const withSecond = (second: Partial<ReserveTimes>): readonly ReserveTimes[] => joinedAndLeft.map((times, i) => (i === 1 ? { ...times, ...second } : times));

describe('what a spike misses', () => {
  it.each<[string, Scoreboard]>([
    ['all were quick', boardWith(0, 0)],
    ['one of a hundred was late: that is what p99 allows', boardWith(1, 60_000)],
    ['they took just as long as they may', boardWith(100, 3_000)],
  ])('is nothing where the reserve joined and left, and %s', (_, board) => {
    expect(missedLines(board, joinedAndLeft)).toEqual([]);
  });

  it.each<[string, Scoreboard, readonly ReserveTimes[], string[]]>([
    ['a p99 that is too long', boardWith(2, 3_001), joinedAndLeft, ['TTFT p99 is 3001 ms, over 3000 ms']],
    ['first tokens that nobody saw', boardWith(0, 0, { ttftMs: undefined }), joinedAndLeft, ['TTFT p99 is –, over 3000 ms']],
    ['a board of failures alone', boardWith(0, 0, { failure: '503' }), joinedAndLeft, ['TTFT p99 is –, over 3000 ms']],
    ['one that never joined', boardWith(0, 0), withSecond({ joinedMs: undefined, leftMs: undefined }), ['127.0.0.1:8 of the reserve never joined']],
    ['one that did not leave', boardWith(0, 0), withSecond({ leftMs: undefined }), ['127.0.0.1:8 of the reserve joined and did not leave']],
    [
      'all of it, each by a line',
      boardWith(50, 9_000),
      [
        { address: 'a', joinedMs: undefined, leftMs: undefined },
        { address: 'b', joinedMs: 0, leftMs: undefined },
      ],
      ['a of the reserve never joined', 'b of the reserve joined and did not leave', 'TTFT p99 is 9000 ms, over 3000 ms'],
    ],
  ])('is %s', (_, board, times, lines) => {
    expect(missedLines(board, times)).toEqual(lines);
  });
});
