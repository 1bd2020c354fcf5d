import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { SupervisedCaps } from './supervised-caps.ts';
import type { FromWorker } from './worker-messages.ts';

const capped = [{ address: '10.0.0.1:80', requestsMax: 1 }];

describe('places asked for from the supervisor', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it('are not waited for longer than a second; one that is given later goes back, once', async () => {
    const posted: FromWorker[] = [];
    const caps = new SupervisedCaps((message) => posted.push(message), () => ({ routers: 2, rank: 0 }));
    caps.start();
    const outcome = caps.acquire('chat', 'a.1', capped);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(await outcome).toBe('unavailable');
    caps.answered(1, '10.0.0.1:80');
    caps.answered(1, '10.0.0.1:80');
    expect(posted).toEqual([
      { kind: 'cap-ask', id: 1, pool: 'chat', lease: 'a.1', endpoints: capped },
      { kind: 'cap-release', pool: 'chat', address: '10.0.0.1:80', lease: 'a.1' },
    ]);
    // Meanwhile each worker keeps to its part.
    expect(caps.shareOf(5)).toBe(3);
  });

  it('are answered each by its own number', async () => {
    const caps = new SupervisedCaps(() => {}, () => ({ routers: 1, rank: 0 }));
    caps.start();
    const [first, second] = [caps.acquire('chat', 'a.1', capped), caps.acquire('chat', 'a.2', capped)];
    caps.answered(2, undefined);
    caps.answered(1, '10.0.0.1:80');
    expect(await Promise.all([first, second])).toEqual([{ taken: '10.0.0.1:80' }, { taken: undefined }]);
  });
});
