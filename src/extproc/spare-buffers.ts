/** Smallest buffer lent, in bytes: as much as a frame holds. */
const smallestBytes = 16_384;
/** Largest that is kept when it comes back, in bytes; as long as the largest of usual prompts. */
const largestKeptBytes = 4_194_304;
/** All that is kept, in bytes. */
const keptBytesMax = 8_388_608;

/**
 * Lends buffers in which messages are put together that come, or gathered that go, and takes them back. Made anew for each message, they would be
 * most of all the memory that is allocated where prompts are long, and V8 collects garbage by that.
 */
export class SpareBuffers {
  /** By size: powers of two from the smallest on. */
  readonly #kept: Buffer[][] = [];
  #keptBytes = 0;

  /** A buffer of at least so many bytes, with anything in it. */
  lend(bytes: number): Buffer {
    const size = sizeOf(bytes);
    const found = this.#kept[rankOf(size)]?.pop();
    if (found === undefined) return Buffer.allocUnsafeSlow(size);
    this.#keptBytes -= size;
    return found;
  }

  /** Takes back a buffer that {@link lend} gave, once nobody looks at it any more. */
  takeBack(buffer: Buffer): void {
    const { length } = buffer;
    if (length > largestKeptBytes || this.#keptBytes + length > keptBytesMax) return;
    (this.#kept[rankOf(length)] ??= []).push(buffer);
    this.#keptBytes += length;
  }
}

/** Beyond what is kept there is nothing to round up for. */
function sizeOf(bytes: number): number {
  if (bytes > largestKeptBytes) return bytes;
  let size = smallestBytes;
  while (size < bytes) size *= 2;
  return size;
}

const rankOf = (size: number): number => Math.log2(size / smallestBytes);
