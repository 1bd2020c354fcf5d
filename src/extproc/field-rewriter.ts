import { BodyScanner } from './body-scanner.ts';
import type { ScanPlan } from './scan-plan.ts';

/**
 * Replaces the value of one string field in a JSON body that passes in pieces; every other byte stays as it is. A piece goes on at once, less
 * a value of the field that it cuts.
 *
 * The whole body is looked at, since servers disagree on which one counts where a field comes twice: then, and where the field is
 * absent, no string, or the body is no sound JSON object, the body is not usable, and must not reach the end of its way.
 */
export class FieldRewriter {
  readonly #path: string;
  readonly #value: string;
  readonly #scanner: BodyScanner;
  /** What came and did not go on. */
  #held: Buffer | undefined;
  /** Where in the body as it came the next byte to go on stands. */
  #sentBytes = 0;
  #isFound = false;
  #isChanged = false;

  /** `path`: the field, dots descend objects. `value`: what it is to be. */
  constructor(path: string, value: string) {
    this.#path = path;
    this.#value = value;
    this.#scanner = new BodyScanner(planFor(path));
  }

  /** Whether the body was changed so far: false while its value was the wanted one already. */
  get isChanged(): boolean {
    return this.#isChanged;
  }

  /**
   * Takes the next piece and returns what may go on now, which may be nothing; undefined: the body is not usable. `isLast`: no more
   * of the body comes; what is returned then completes it.
   */
  push(piece: Buffer, isLast: boolean): Buffer | undefined {
    let status = this.#scanner.push(piece);
    if (isLast && status === 'scanning') status = this.#scanner.end();
    const value = this.#scanner.field(this.#path);
    const isUnusable = (status !== 'scanning' && status !== 'done') || ((this.#isFound || status === 'done') && typeof value !== 'string');
    if (isUnusable) return undefined;

    const bytes = this.#held === undefined ? piece : Buffer.concat([this.#held, piece]);
    const at = this.#sentBytes;
    this.#held = undefined;
    const range = this.#isFound ? undefined : this.#scanner.fieldRange(this.#path);
    if (range !== undefined) {
      this.#isFound = true;
      this.#sentBytes += bytes.length;
      if (value === this.#value) return bytes;
      this.#isChanged = true;
      return Buffer.concat([bytes.subarray(0, range.start - at), Buffer.from(JSON.stringify(this.#value)), bytes.subarray(range.end - at)]);
    }
    const openAt = this.#scanner.openFieldStart;
    if (openAt === undefined || openAt < at) {
      this.#sentBytes += bytes.length;
      return bytes;
    }
    const passing = bytes.subarray(0, openAt - at);
    // A view would keep the message alive that it came in.
    this.#held = Buffer.from(bytes.subarray(openAt - at));
    this.#sentBytes = openAt;
    return passing;
  }
}

const plans = new Map<string, ScanPlan>();

/** One plan for each field of the configuration: a scanner compiles a plan once, by identity. */
function planFor(path: string): ScanPlan {
  let plan = plans.get(path);
  if (plan === undefined) {
    plan = {
      fields: [path],
      promptFields: [],
      wantPromptBytes: false,
      prefixBlockBytes: 0,
      prefixBlocksMax: 0,
      scanBytesMax: Number.MAX_SAFE_INTEGER,
      toEnd: true,
    };
    plans.set(path, plan);
  }
  return plan;
}
