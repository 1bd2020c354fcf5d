import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { FromWorker, WorkerStart } from './worker-messages.ts';
import { WorkerSlot } from './worker-slot.ts';

/** A thread that says what a test has it say, answers nothing, and ends only when it is made to. */
interface FakeThread {
  emit(event: 'message', message: FromWorker): boolean;
  emit(event: 'exit', code: number): boolean;
}

const { threads } = vi.hoisted(() => ({ threads: [] as FakeThread[] }));
vi.mock('node:worker_threads', async () => {
  const { EventEmitter } = await import('node:events');
  class Worker extends EventEmitter {
    constructor() {
      super();
      threads.push(this);
    }

    postMessage(): void {}

    terminate(): Promise<number> {
      this.emit('exit', 1);
      return Promise.resolve(1);
    }
  }
  return { Worker };
});

const pingMs = 5_000;
let slot: WorkerSlot;
let lost: string[];

/** The thread that was started last begins to serve. */
function serve(): void {
  threads.at(-1)!.emit('message', { kind: 'serving', grpcPort: 9_002 });
}

async function leaveUnanswered(pings: number): Promise<void> {
  for (let i = 0; i < pings; i += 1) {
    const checked = slot.checkAlive();
    await vi.advanceTimersByTimeAsync(pingMs);
    await checked;
  }
}

beforeEach(async () => {
  vi.useFakeTimers();
  threads.length = 0;
  lost = [];
  slot = new WorkerSlot({
    worker: 0,
    listen: '127.0.0.1:9002',
    groupId: 'group',
    describe: () => ({}) as WorkerStart,
    nowMs: () => Date.now(),
    onMessage: () => {},
    onLost: (_slot, { message }) => lost.push(message),
    onServing: () => {},
  });
  const started = slot.start();
  serve();
  await started;
});
afterEach(() => {
  vi.useRealTimers();
});

describe('a worker that is told to drain', () => {
  it('is waited for until it ends', async () => {
    const drained = slot.drain(30_000);
    await vi.advanceTimersByTimeAsync(29_999);
    expect(slot.state).toBe('serving');
    threads[0]!.emit('exit', 0);
    expect(await drained).toBe(true);
    expect([slot.state, lost, vi.getTimerCount()]).toEqual(['ended', [], 0]);
  });

  it('is ended by force where it does not end in time, as one that hangs', async () => {
    const drained = slot.drain(30_000);
    await vi.advanceTimersByTimeAsync(30_000);
    expect(await drained).toBe(false);
    expect([slot.state, lost, threads.length]).toEqual(['ended', [], 1]);
  });
});

describe('a worker that does not answer', () => {
  it('is replaced after half a minute', async () => {
    await leaveUnanswered(5);
    expect(slot.state).toBe('serving');
    await leaveUnanswered(1);
    expect([slot.state, lost]).toEqual(['restarting', ['the thread did not answer 6 times in a row']]);
    await vi.advanceTimersByTimeAsync(100);
    serve();
    expect([slot.state, threads.length]).toEqual(['serving', 2]);
  });

  it('leaves nothing of that to the one that takes its place', async () => {
    await leaveUnanswered(5);
    threads[0]!.emit('exit', 1);
    await vi.advanceTimersByTimeAsync(100);
    serve();
    await leaveUnanswered(5);
    expect([slot.state, lost]).toEqual(['serving', ['the thread ended with code 1']]);
  });
});
