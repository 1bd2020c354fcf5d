import { describe, expect, it } from 'vitest';
import type { FleetEndpoint } from './endpoint.ts';
import { FleetPool } from './fleet-view.ts';
import { Reservations, type RequestSize } from './reservations.ts';

const pool = (): FleetPool =>
  new FleetPool({ name: 'chat', endpoints: ['10.0.0.1:80', '10.0.0.2:80'].map((address) => ({ address, weight: 1, labels: {}, requestsMax: undefined })) });

function setUp(): { reservations: Reservations; chat: FleetPool; first: FleetEndpoint; second: FleetEndpoint } {
  const chat = pool();
  return { reservations: new Reservations(), chat, first: chat.endpoints[0]!, second: chat.endpoints[1]! };
}

/** `[requests, prompt tokens, requests waiting, uncached tokens waiting, in line]`. */
const load = ({ own, line }: FleetEndpoint): number[] => [own.requests, own.promptTokens, own.requestsWaiting, own.uncachedTokensWaiting, line.length];
const size = (promptTokens: number, uncachedTokens = promptTokens): RequestSize => ({ promptTokens, uncachedTokens });
/** When the clock does not matter. */
const anytimeMs = 50;

describe('Reservations', () => {
  it('counts a request while it is held', () => {
    const { reservations, chat, first } = setUp();
    reservations.reserve('a.1', chat, first, size(100, 30), 5);
    reservations.reserve('a.2', chat, first, size(30, 5), 6);
    expect(load(first)).toEqual([2, 130, 2, 35, 2]);
    expect(reservations.size).toBe(2);
    expect(reservations.find('a.1')).toMatchObject({ lease: 'a.1', promptTokens: 100, uncachedTokens: 30, startedMs: 5, aliveMs: 5, phase: 'waiting', endpoint: first, pool: chat });
    reservations.release('a.1', anytimeMs);
    expect(load(first)).toEqual([1, 30, 1, 5, 1]);
    expect(reservations.find('a.1')).toBeUndefined();
  });

  it('releases exactly once, whoever asks how often', () => {
    const { reservations, chat, first } = setUp();
    reservations.reserve('a.1', chat, first, size(100), 0);
    expect(reservations.release('a.1', anytimeMs)).toMatchObject({ lease: 'a.1' });
    expect(reservations.release('a.1', anytimeMs)).toBeUndefined();
    expect(reservations.release('a.1', anytimeMs)).toBeUndefined();
    expect(load(first)).toEqual([0, 0, 0, 0, 0]);
  });

  it('does not know leases that it never held', () => {
    const { reservations, first } = setUp();
    expect(reservations.release('a.9', anytimeMs)).toBeUndefined();
    expect(reservations.firstToken('a.9', anytimeMs)).toBeUndefined();
    expect(load(first)).toEqual([0, 0, 0, 0, 0]);
  });

  it('the first token ends the waiting, once; the prompt counts on', () => {
    const { reservations, chat, first } = setUp();
    reservations.reserve('a.1', chat, first, size(100), 0);
    expect(reservations.firstToken('a.1', anytimeMs)).toMatchObject({ lease: 'a.1', phase: 'decoding' });
    expect(load(first)).toEqual([1, 100, 0, 0, 0]);
    expect(reservations.firstToken('a.1', anytimeMs)).toBeUndefined();
    expect(load(first)).toEqual([1, 100, 0, 0, 0]);
    reservations.release('a.1', anytimeMs);
    expect(load(first)).toEqual([0, 0, 0, 0, 0]);
    expect(reservations.firstToken('a.1', anytimeMs)).toBeUndefined();
    expect(load(first)).toEqual([0, 0, 0, 0, 0]);
  });

  it.each([
    ['in one piece', false, true, 40],
    ['as a stream, whose first token went by unseen', true, true, 0],
    ['nobody knows how', undefined, true, 0],
    ['not at all', false, false, 0],
  ])('what was answered %s has or has not been served with its end', (_title, streams, answered, servedInMs) => {
    const { reservations, chat, first } = setUp();
    reservations.reserve('a.1', chat, first, { ...size(100), streams }, 10);
    reservations.release('a.1', 50, answered);
    expect(first.line.servedInMs).toBe(servedInMs);
    expect(load(first)).toEqual([0, 0, 0, 0, 0]);
  });

  describe('reserving a lease that is held', () => {
    it('moves it, with its new length, and keeps its start', () => {
      const { reservations, chat, first, second } = setUp();
      reservations.reserve('a.1', chat, first, size(100), 5);
      reservations.reserve('a.1', chat, second, size(70), 9);
      expect(load(first)).toEqual([0, 0, 0, 0, 0]);
      expect(load(second)).toEqual([1, 70, 1, 70, 1]);
      expect(reservations.size).toBe(1);
      expect(reservations.find('a.1')).toMatchObject({ startedMs: 5, promptTokens: 70 });
    });

    it('keeps its phase', () => {
      const { reservations, chat, first, second } = setUp();
      reservations.reserve('a.1', chat, first, size(100), 5);
      reservations.firstToken('a.1', anytimeMs);
      reservations.reserve('a.1', chat, second, size(70), 9);
      expect(load(second)).toEqual([1, 70, 0, 0, 0]);
      reservations.release('a.1', anytimeMs);
      expect(load(second)).toEqual([0, 0, 0, 0, 0]);
    });
  });

  describe('expire', () => {
    it('releases what started at or before the time, oldest first, once', () => {
      const { reservations, chat, first, second } = setUp();
      reservations.reserve('a.1', chat, first, size(100), 10);
      reservations.reserve('a.2', chat, second, size(50), 20);
      reservations.reserve('a.3', chat, first, size(7), 30);
      expect(reservations.expire(9, anytimeMs)).toEqual([]);
      expect(reservations.expire(20, anytimeMs).map(({ lease }) => lease)).toEqual(['a.1', 'a.2']);
      expect(load(first)).toEqual([1, 7, 1, 7, 1]);
      expect(load(second)).toEqual([0, 0, 0, 0, 0]);
      expect(reservations.expire(20, anytimeMs)).toEqual([]);
      expect(reservations.release('a.1', anytimeMs)).toBeUndefined();
      expect(reservations.size).toBe(1);
    });

    it('spares what was heard to go on since', () => {
      const { reservations, chat, first } = setUp();
      for (const [i, lease] of ['a.1', 'a.2'].entries()) reservations.reserve(lease, chat, first, size(100), 10 + i);
      reservations.keepAlive('a.1', 500);
      reservations.keepAlive('never was', 500);
      expect(reservations.expire(499, anytimeMs).map(({ lease }) => lease)).toEqual(['a.2']);
      expect(reservations.expire(500, anytimeMs).map(({ lease }) => lease)).toEqual(['a.1']);
      expect(load(first)).toEqual([0, 0, 0, 0, 0]);
    });

    it('takes those that decode as well', () => {
      const { reservations, chat, first } = setUp();
      reservations.reserve('a.1', chat, first, size(100), 10);
      reservations.firstToken('a.1', anytimeMs);
      expect(reservations.expire(10, anytimeMs)).toHaveLength(1);
      expect(load(first)).toEqual([0, 0, 0, 0, 0]);
    });

    it('finds a lease that moved by its start, not by its move', () => {
      const { reservations, chat, first, second } = setUp();
      reservations.reserve('a.1', chat, first, size(100), 10);
      reservations.reserve('a.2', chat, first, size(100), 20);
      reservations.reserve('a.1', chat, second, size(100), 30);
      expect(reservations.expire(10, anytimeMs).map(({ lease }) => lease)).toEqual(['a.1']);
    });
  });
});
