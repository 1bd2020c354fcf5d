/** What progress is told to: a terminal, or a file or pipe. */
interface ProgressStream {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

/** Time between two words, in ms: on a terminal, where one line is written over, and elsewhere, where each is a line. */
const terminalMs = 200;
const lineMs = 5_000;

/** Says how far a run is, on a stream that holds no results. */
export class Progress {
  readonly #stream: ProgressStream;
  readonly #name: string;
  #saidMs = performance.now();
  #isOnLine = false;

  constructor(stream: ProgressStream, name: string) {
    this.#stream = stream;
    this.#name = name;
  }

  /** `share`: how much is done, 0 to 1. */
  show(share: number): void {
    const nowMs = performance.now();
    const isTerminal = this.#stream.isTTY === true;
    if (nowMs - this.#saidMs < (isTerminal ? terminalMs : lineMs)) return;
    this.#saidMs = nowMs;
    const text = `${this.#name}: ${(share * 100).toFixed(0)} %`;
    this.#stream.write(isTerminal ? `\r\x1b[K${text}` : `${text}\n`);
    this.#isOnLine = isTerminal;
  }

  /** Leaves a clean line behind. */
  end(): void {
    if (this.#isOnLine) this.#stream.write('\r\x1b[K');
    this.#isOnLine = false;
  }
}
