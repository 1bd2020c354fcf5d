import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { inputFor } from '../../test/decision-under-test.ts';
import { decide } from './decide.ts';
import { idleEndpoint } from './fleet-snapshot.ts';
import type { Policy } from './policy.ts';
import { toHostPort, toRank, toRankAddress, toTellable } from './data-parallel-rank.ts';

describe('ids of ranks', () => {
  it.each([
    ['10.0.0.1:80', '10.0.0.1:80', undefined],
    ['10.0.0.1:80#0', '10.0.0.1:80', 0],
    ['10.0.0.1:80#15', '10.0.0.1:80', 15],
    ['[fd00::1]:80#7', '[fd00::1]:80', 7],
  ])('%s is rank %s', (address, hostPort, rank) => {
    expect(toHostPort(address)).toBe(hostPort);
    expect(toRank(address)).toBe(rank);
    if (rank !== undefined) expect(toRankAddress(hostPort, rank)).toBe(address);
  });
});

describe("the gateway's subset", () => {
  it('names ip:port, and means all its ranks', () => {
    const policy: Policy = {
      name: 'any',
      filters: [],
      scorers: [],
      picker: { name: 'in order', run: (candidates) => ({ order: candidates, reason: 'in-order', home: undefined }) },
      needs: new Set(),
      wantsFirstToken: false,
    };
    const endpoints = ['10.0.0.1:80#0', '10.0.0.1:80#1', '10.0.0.2:80', '10.0.0.3:80#0'].map(idleEndpoint);
    const input = inputFor(endpoints, { facts: { subset: new Set(['10.0.0.1:80', '10.0.0.3:81']) } });
    expect(decide(policy, input)).toMatchObject({ kind: 'route', addresses: ['10.0.0.1:80#0', '10.0.0.1:80#1'] });
  });
});

describe('toTellable', () => {
  it.each<[string, readonly string[], number, readonly string[]]>([
    ['plain endpoints as they are', ['a:1', 'b:1', 'c:1'], 8, ['a:1', 'b:1', 'c:1']],
    ['as many as are wanted', ['a:1', 'b:1', 'c:1'], 2, ['a:1', 'b:1']],
    ['the same rank elsewhere', ['a:1#2', 'a:1#0', 'b:1#1', 'b:1#2', 'c:1#0', 'c:1#2'], 8, ['a:1#2', 'b:1#2', 'c:1#2']],
    ['no endpoint with fewer ranks', ['a:1#3', 'b:1#0', 'b:1#1', 'c:1#3'], 8, ['a:1#3', 'c:1#3']],
    ['one without ranks stands in for rank 0', ['a:1#0', 'b:1', 'b:1#0'], 8, ['a:1#0', 'b:1']],
    ['one without ranks cannot stand in for another', ['a:1#1', 'b:1'], 8, ['a:1#1']],
    ['without a rank, each endpoint once', ['a:1', 'b:1#1', 'b:1#0', 'c:1'], 8, ['a:1', 'b:1#1', 'c:1']],
    ['a list cut after what does not fit was left out', ['a:1#1', 'a:1#0', 'b:1#0', 'b:1#1', 'c:1#1'], 3, ['a:1#1', 'b:1#1', 'c:1#1']],
    ['nothing of nothing', [], 8, []],
  ])('%s', (_title, addresses, max, expected) => {
    expect(toTellable(addresses, max)).toEqual(expected);
  });

  it('keeps the first, names no ip:port twice, and no rank that the first one’s header does not fit', () => {
    const address = fc.tuple(fc.constantFrom('a:1', 'b:1', '[c::1]:1'), fc.option(fc.nat(3), { nil: undefined }));
    fc.assert(
      fc.property(fc.uniqueArray(address.map(([hostPort, rank]) => (rank === undefined ? hostPort : toRankAddress(hostPort, rank))), { minLength: 1 }), (ids) => {
        const told = toTellable(ids, 64);
        expect(told[0]).toBe(ids[0]);
        const hostPorts = told.map(toHostPort);
        expect(new Set(hostPorts).size).toBe(hostPorts.length);
        const rank = toRank(ids[0]!);
        if (rank === undefined) expect(new Set(hostPorts)).toEqual(new Set(ids.map(toHostPort)));
        else for (const other of told) expect(toRank(other) ?? 0).toBe(rank);
        // In the order that was preferred.
        expect([...told].sort((a, b) => ids.indexOf(a) - ids.indexOf(b))).toEqual(told);
      }),
    );
  });
});
