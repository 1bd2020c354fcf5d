import { type CapShare, shareOfLimit } from '../../fleet/endpoint.ts';
import type { CapLeases, CappedEndpoint } from '../../router/ports.ts';
import type { FromWorker } from './worker-messages.ts';

/** How long an answer is waited for, in ms: the supervisor has nothing else to do. */
const answerMsMax = 1_000;

/** Places on capped endpoints, kept by the supervisor for all workers of the process. */
export class SupervisedCaps implements CapLeases {
  readonly #post: (message: FromWorker) => void;
  readonly #share: () => CapShare;
  readonly #waiting = new Map<number, { readonly answer: (outcome: { readonly taken: string | undefined }) => void }>();
  /** Asked for too long ago: what is taken for them goes back. */
  readonly #givenUp = new Map<number, { readonly pool: string; readonly lease: string }>();
  #asked = 0;
  #isRunning = false;

  /** `share`: this worker's part where no answer comes. */
  constructor(post: (message: FromWorker) => void, share: () => CapShare) {
    this.#post = post;
    this.#share = share;
  }

  start(): void {
    this.#isRunning = true;
  }

  stop(): void {
    this.#isRunning = false;
  }

  acquire(pool: string, lease: string, endpoints: readonly CappedEndpoint[]): Promise<{ readonly taken: string | undefined } | 'unavailable'> {
    if (!this.#isRunning) return Promise.resolve('unavailable');
    this.#asked += 1;
    const id = this.#asked;
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        this.#givenUp.set(id, { pool, lease });
        resolve('unavailable');
      }, answerMsMax);
      this.#waiting.set(id, {
        answer: (outcome) => {
          clearTimeout(timer);
          resolve(outcome);
        },
      });
      this.#post({ kind: 'cap-ask', id, pool, lease, endpoints });
    });
  }

  /** The supervisor's answer. */
  answered(id: number, taken: string | undefined): void {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (waiting !== undefined) {
      waiting.answer({ taken });
      return;
    }
    const late = this.#givenUp.get(id);
    this.#givenUp.delete(id);
    if (late !== undefined && taken !== undefined) this.release(late.pool, taken, late.lease);
  }

  release(pool: string, address: string, lease: string): void {
    this.#post({ kind: 'cap-release', pool, address, lease });
  }

  shareOf(requestsMax: number): number {
    return shareOfLimit(requestsMax, this.#share());
  }
}
