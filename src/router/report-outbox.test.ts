import { beforeEach, describe, expect, it } from 'vitest';
import { parseReports, type ReportsMessage } from './exchange-messages.ts';
import type { Completion } from './ports.ts';
import { ReportOutbox } from './report-outbox.ts';

const finished: Completion = { ending: 'finished', signal: 'access-log' };

describe('reports for other routers', () => {
  let nowMs: number;
  let sent: { owner: string; message: ReportsMessage; failed: () => void }[];
  let gone: Set<string>;
  let outbox: ReportOutbox;
  beforeEach(() => {
    nowMs = 1_000;
    sent = [];
    gone = new Set();
    outbox = new ReportOutbox({
      routerId: 'me',
      clock: { nowMs: () => nowMs },
      send: (owner, text, failed) => sent.push({ owner, message: parseReports(text)!, failed }),
      isGone: (router) => gone.has(router),
      lostAfterMs: 300,
    });
  });
  const report = (owner: string, n = 1): void => {
    expect(outbox.add(owner, `${owner}.${n}`, finished)).toBe(true);
    outbox.flush();
  };
  const leases = (): string[][] => sent.map(({ message }) => message.reports.map(({ lease }) => lease));

  it('wait until their owner has them, and nobody else says so', () => {
    report('a');
    report('b');
    const [toA, toB] = sent.map(({ message }) => message.number) as [number, number];
    outbox.acknowledged('b', [toA]);
    outbox.acknowledged('a', [toA + 100]);
    expect(outbox.waiting).toBe(2);
    outbox.acknowledged('a', [toA, toA]);
    outbox.acknowledged('b', [toB]);
    expect(outbox.waiting).toBe(0);
    nowMs += 1_000;
    outbox.sendAgain();
    expect(sent).toHaveLength(2);
  });

  it('are sent again as they were: at once where it is known that they did not arrive, else after a time', () => {
    report('a', 1);
    report('a', 2);
    sent[0]!.failed();
    outbox.sendAgain();
    expect(leases()).toEqual([['a.1'], ['a.2'], ['a.1']]);
    expect(sent[2]!.message).toEqual(sent[0]!.message);
    nowMs += 299;
    outbox.sendAgain();
    expect(sent).toHaveLength(3);
    nowMs += 1;
    outbox.sendAgain();
    expect(leases().slice(3).sort()).toEqual([['a.1'], ['a.2']]);
  });

  it('are dropped when their owner is gone', () => {
    report('a');
    report('b');
    gone.add('a');
    nowMs += 300;
    outbox.sendAgain();
    expect(outbox.waiting).toBe(1);
    expect(leases()).toEqual([['a.1'], ['b.1'], ['b.1']]);
  });

  it('are never more acknowledgements than a reader takes, however many wait', () => {
    for (let number = 1; number <= 25_000; number += 1) outbox.arrived('a', number);
    report('a');
    expect(sent[0]!.message).toMatchObject({ reports: [{ lease: 'a.1' }], received: { length: 10_000 } });
    for (let n = 0; n < 25_000; n += 1) outbox.arrived(`r${n}`, 1);
    outbox.acknowledge();
    expect(sent).toHaveLength(1 + 10_000);
  });

  it('take acknowledgements along; what is left of those goes alone, to those that are there', () => {
    outbox.arrived('a', 4);
    outbox.arrived('a', 5);
    report('a');
    expect(sent.map(({ message }) => message.received)).toEqual([[4, 5]]);
    outbox.arrived('a', 6);
    outbox.arrived('b', 1);
    gone.add('b');
    outbox.acknowledge();
    outbox.acknowledge();
    expect(sent.slice(1).map(({ owner, message }) => [owner, message])).toEqual([['a', { router: 'me', number: 0, reports: [], received: [6] }]]);
  });
});
