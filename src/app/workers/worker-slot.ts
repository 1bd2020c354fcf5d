import { Worker } from 'node:worker_threads';
import { RestartDelay } from './restart-delay.ts';
import type { FromWorker, Question, Questions, ToWorker, WorkerStart } from './worker-messages.ts';

/** Where the life of a worker stands. */
export type WorkerState = 'starting' | 'serving' | 'restarting' | 'ended';

/** A message that is the supervisor's business, and not of the one slot. */
export type SlotMessage = Exclude<FromWorker, { kind: 'serving' | 'failed' | 'answer' | 'no-answer' | 'drained' }>;

export interface WorkerSlotOptions {
  readonly worker: number;
  /** Address to serve at; port 0 takes a free one at first, and the same again ever after. */
  readonly listen: string;
  /** What the ids of all routers of this process begin with. */
  readonly groupId: string;
  /** What else a thread starts with. Asked at each start. */
  readonly describe: () => Pick<WorkerStart, 'config' | 'file' | 'warnings'>;
  readonly onMessage: (slot: WorkerSlot, message: SlotMessage) => void;
  /** A thread ended that nobody told to; `delayMs`: until it is replaced. */
  readonly onLost: (slot: WorkerSlot, cause: Error, delayMs: number) => void;
  /** It serves; `isReplacement`: after another did. */
  readonly onServing: (slot: WorkerSlot, isReplacement: boolean) => void;
  readonly nowMs: () => number;
}

/** Longest that an answer of a worker is waited for, in ms. */
const answerMsMax = 5_000;
/** Pings in a row without an answer after which a thread is taken for hung. */
const unansweredMax = 6;

// In dist/ the build puts the thread's code beside the bundle; in src/ it is beside this file.
const threadFile = new URL(import.meta.url.endsWith('.ts') ? './worker-thread.ts' : './worker-thread.js', import.meta.url);

/** One worker of several: a thread, and those that take its place after it. */
export class WorkerSlot {
  readonly #options: WorkerSlotOptions;
  readonly #delay = new RestartDelay();
  readonly #waiting = new Map<number, { readonly resolve: (answered: unknown) => void; readonly timer: NodeJS.Timeout }>();
  #thread: Worker | undefined;
  #state: WorkerState = 'starting';
  #listen: string;
  #generation = 0;
  #asked = 0;
  #servingSinceMs: number | undefined;
  #restart: NodeJS.Timeout | undefined;
  #unanswered = 0;
  #isStopping = false;
  #isHung = false;
  #ended: Promise<void> = Promise.resolve();

  constructor(options: WorkerSlotOptions) {
    this.#options = options;
    this.#listen = options.listen;
  }

  get worker(): number {
    return this.#options.worker;
  }

  get state(): WorkerState {
    return this.#state;
  }

  /** Where it serves, port and all. */
  get listen(): string {
    return this.#listen;
  }

  /** Another one for each thread: leases and sequences of an earlier one mean nothing to its successor. */
  get routerId(): string {
    return `${this.#options.groupId}-w${this.worker}${this.#generation === 0 ? '' : `.${this.#generation}`}`;
  }

  /** The thread that runs now, if any does. */
  get thread(): Worker | undefined {
    return this.#thread;
  }

  /** Starts the first thread. Rejects with what it says when it cannot start; from then on threads that end are replaced. */
  async start(): Promise<void> {
    await this.#run();
  }

  post(message: ToWorker): void {
    this.#thread?.postMessage(message);
  }

  /** Asks the worker something; undefined: it cannot answer, or not in time. Never rejects. */
  ask<K extends keyof Questions>(what: K, asked: Questions[K]['asked']): Promise<{ readonly answered: Questions[K]['answered'] } | undefined> {
    if (this.#thread === undefined || this.#state !== 'serving') return Promise.resolve(undefined);
    this.#asked += 1;
    const id = this.#asked;
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#answered(id, undefined), answerMsMax);
      this.#waiting.set(id, { resolve: resolve as (answered: unknown) => void, timer });
      this.post({ kind: 'ask', id, what, asked } as Question);
    });
  }

  /** Looks whether the thread still gets round to answering; one that has not for long is ended, and so replaced. */
  async checkAlive(): Promise<void> {
    const thread = this.#thread;
    if (this.#state !== 'serving' || thread === undefined) return;
    this.#unanswered = (await this.ask('ping', undefined)) === undefined ? this.#unanswered + 1 : 0;
    if (this.#unanswered < unansweredMax || thread !== this.#thread) return;
    this.#isHung = true;
    await thread.terminate();
  }

  /** Has the worker finish its requests and end, if need be by force after `msMax`. False: it took force. Idempotent. */
  async drain(msMax: number): Promise<boolean> {
    this.#isStopping = true;
    clearTimeout(this.#restart);
    this.post({ kind: 'drain' });
    let isForced = false;
    const late = setTimeout(() => {
      isForced = true;
      void this.#thread?.terminate();
    }, msMax);
    await this.#ended;
    clearTimeout(late);
    return !isForced;
  }

  /** Ends the thread at once. */
  async kill(): Promise<void> {
    this.#isStopping = true;
    clearTimeout(this.#restart);
    await this.#thread?.terminate();
    await this.#ended;
  }

  #run(): Promise<void> {
    const { describe, worker, groupId, onMessage, onServing } = this.#options;
    const start: WorkerStart = { worker, groupId, routerId: this.routerId, listen: this.#listen, ...describe() };
    const thread = new Worker(threadFile, { workerData: start, name: `fairlead-${worker}` });
    this.#thread = thread;
    let cause: Error | undefined;
    return new Promise((resolve, reject) => {
      thread.on('message', (message: FromWorker) => {
        switch (message.kind) {
          case 'serving':
            this.#servingSinceMs = this.#options.nowMs();
            this.#unanswered = 0;
            this.#state = 'serving';
            this.#listen = withPort(this.#listen, message.grpcPort);
            onServing(this, this.#generation > 0);
            resolve();
            return;
          case 'failed':
            cause = new Error(message.message);
            return;
          case 'answer':
            this.#answered(message.id, { answered: message.answered });
            return;
          case 'no-answer':
            this.#answered(message.id, undefined);
            return;
          case 'drained':
            return;
          default:
            onMessage(this, message);
        }
      });
      // What it threw, or that it ran out of memory. It ends next.
      thread.on('error', (error: unknown) => {
        cause = error instanceof Error ? error : new Error(String(error));
      });
      this.#ended = new Promise((ended) => {
        thread.once('exit', (code) => {
          const ending = this.#isHung ? `the thread did not answer ${unansweredMax} times in a row` : `the thread ended with code ${code}`;
          this.#isHung = false;
          this.#lost(cause ?? new Error(ending), reject);
          ended();
        });
      });
    });
  }

  /** The thread is gone. `reject`: to whoever still waits for it to serve. */
  #lost(cause: Error, reject: (cause: Error) => void): void {
    const { onLost, nowMs } = this.#options;
    this.#thread = undefined;
    for (const id of [...this.#waiting.keys()]) this.#answered(id, undefined);
    const servedMs = this.#servingSinceMs === undefined ? 0 : nowMs() - this.#servingSinceMs;
    const isFirst = this.#generation === 0 && this.#servingSinceMs === undefined;
    this.#servingSinceMs = undefined;
    if (this.#isStopping || isFirst) {
      this.#state = 'ended';
      reject(cause);
      return;
    }
    this.#state = 'restarting';
    const delayMs = this.#delay.after(servedMs);
    onLost(this, cause, delayMs);
    this.#generation += 1;
    this.#restart = setTimeout(() => {
      // What becomes of it is told by the events of its thread.
      this.#run().catch(() => {});
    }, delayMs);
  }

  #answered(id: number, answer: { readonly answered: unknown } | undefined): void {
    const waiting = this.#waiting.get(id);
    if (waiting === undefined) return;
    this.#waiting.delete(id);
    clearTimeout(waiting.timer);
    waiting.resolve(answer);
  }
}

/** An address with the port that was taken; a Unix socket has none. */
function withPort(listen: string, port: number): string {
  return listen.startsWith('unix:') ? listen : `${listen.slice(0, listen.lastIndexOf(':'))}:${port}`;
}
