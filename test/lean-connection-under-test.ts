// A connection of the lean transport on a socket that is none, with frames made and read by hand.
import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import { SpareBuffers } from '../src/extproc/spare-buffers.ts';
import type { Encoded } from '../src/extproc/wire/writer.ts';
import type { GrpcCall, Method } from '../src/extproc/grpc-call.ts';
import { Connection, type ConnectionSettings } from '../src/extproc/lean/connection.ts';

/** A frame as it was sent. */
export interface SeenFrame {
  readonly type: number;
  readonly flags: number;
  readonly streamId: number;
  readonly payload: Buffer;
}

/** A socket that keeps what was written until it is told that it went out; it copies only then, as a system does. */
export class FakeSocket extends EventEmitter {
  destroyed = false;
  isEnded = false;
  /** Whether it takes all at once. */
  takesAll = true;
  writes = 0;
  #corks = 0;
  #pending: Buffer[] = [];
  #sent: Buffer[] = [];
  #isPaused = false;

  get writableLength(): number {
    return this.#pending.reduce((sum, { length }) => sum + length, 0);
  }

  cork(): void {
    this.#corks += 1;
  }

  uncork(): void {
    this.#corks -= 1;
    this.writes += 1;
    if (this.takesAll) this.drain();
  }

  write(bytes: Buffer): boolean {
    this.#pending.push(bytes);
    if (this.#corks > 0) return true;
    this.writes += 1;
    if (this.takesAll) this.drain();
    return this.#pending.length === 0;
  }

  /** The system takes what is there. */
  drain(): void {
    this.#sent.push(...this.#pending.map((bytes) => Buffer.from(bytes)));
    const had = this.#pending.length > 0;
    this.#pending = [];
    if (had && !this.takesAll) this.emit('drain');
  }

  end(): void {
    this.isEnded = true;
  }

  destroy(): void {
    if (this.destroyed) return;
    this.destroyed = true;
    this.emit('close');
  }

  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    this.#isPaused = false;
  }

  isPaused(): boolean {
    return this.#isPaused;
  }

  /** All frames that went out since the last call. */
  frames(): SeenFrame[] {
    const bytes = Buffer.concat(this.#sent);
    const frames: SeenFrame[] = [];
    let at = 0;
    while (bytes.length - at >= 9 && bytes.length - at >= 9 + bytes.readUIntBE(at, 3)) {
      const end = at + 9 + bytes.readUIntBE(at, 3);
      frames.push({ type: bytes[at + 3]!, flags: bytes[at + 4]!, streamId: bytes.readUInt32BE(at + 5), payload: bytes.subarray(at + 9, end) });
      at = end;
    }
    this.#sent = [bytes.subarray(at)];
    return frames;
  }
}

/** What a call saw, and the call. */
export interface SeenCall {
  readonly call: GrpcCall<Buffer>;
  readonly events: string[];
}

export interface ServedConnection {
  readonly socket: FakeSocket;
  readonly connection: Connection;
  readonly calls: SeenCall[];
  /** Bytes from the client, as one chunk. */
  give(...parts: readonly Buffer[]): void;
}

export const echoPath = '/test/echo';

/**
 * Serves a connection with one method, which gives each message back and ends with the client; `quiet` is answered by nothing, `end` by the
 * end, and `times N` by N bytes.
 */
export function serveConnection(settings: Partial<ConnectionSettings> = {}): ServedConnection {
  const calls: SeenCall[] = [];
  const echo: Method<Buffer, Buffer> = {
    decode: (bytes) => bytes,
    encode: (bytes): Encoded => (bytes.length > 1_000 ? { head: Buffer.alloc(5), tail: bytes } : { head: Buffer.concat([Buffer.alloc(5), bytes]), tail: undefined }),
    open: (call) => {
      const events: string[] = [];
      calls.push({ call, events });
      return {
        onMessage: (message) => {
          const text = message.toString('latin1');
          events.push(text);
          if (text === 'end') call.end();
          else if (text.startsWith('times ')) call.send(Buffer.alloc(Number(text.slice(6)), 'x'));
          else if (text !== 'quiet') call.send(message);
        },
        onEnd: () => {
          events.push('(end)');
          call.end();
        },
        onCancelled: () => void events.push('(cancelled)'),
      };
    },
  };
  const socket = new FakeSocket();
  const connection = new Connection(socket as unknown as Socket, {
    methods: new Map([[echoPath, echo]]),
    messageBytesMax: 1 << 20,
    limits: { keepaliveIntervalMs: 0, keepaliveTimeoutMs: 20_000, ageMsMax: 0, ageGraceMs: 0 },
    buffers: new SpoilingBuffers(),
    resetLimit: 'none',
    onError: (error) => {
      throw error;
    },
    ...settings,
  });
  const give = (...parts: readonly Buffer[]): void => {
    const chunk = Buffer.concat(parts);
    connection.take(chunk);
    // What comes next is read into the same place.
    chunk.fill(0xee);
  };
  return { socket, connection, calls, give };
}

/** Shows who still looks at what was given back. */
class SpoilingBuffers extends SpareBuffers {
  override takeBack(buffer: Buffer): void {
    buffer.fill(0xee);
    super.takeBack(buffer);
  }
}

/** A frame's bytes. */
export function frame(type: number, flags: number, streamId: number, payload: Buffer | readonly number[] = []): Buffer {
  const bytes = Buffer.from(payload);
  const head = Buffer.alloc(9);
  head.writeUIntBE(bytes.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(streamId, 5);
  return Buffer.concat([head, bytes]);
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function settingsFrame(...values: readonly (readonly [number, number])[]): Buffer {
  return frame(4, 0, 0, Buffer.concat(values.map(([name, value]) => Buffer.concat([Buffer.from([0, name]), uint32(value)]))));
}

/** What a client begins with. */
export const begin: Buffer = Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), settingsFrame()]);

/** Header fields as literals that are not indexed (RFC 7541, section 6.2.2). */
export function toBlock(fields: Readonly<Record<string, string>>): Buffer {
  const text = (value: string): Buffer => {
    const { length } = value;
    const size = length < 127 ? [length] : [127, 0x80 | ((length - 127) & 0x7f), 0x80 | (((length - 127) >> 7) & 0x7f), (length - 127) >> 14];
    return Buffer.concat([Buffer.from(size), Buffer.from(value, 'latin1')]);
  };
  return Buffer.concat(Object.entries(fields).flatMap(([name, value]) => [Buffer.from([0]), text(name), text(value)]));
}

export const requestFields = { ':method': 'POST', ':scheme': 'http', ':path': echoPath, ':authority': 'a', 'content-type': 'application/grpc', te: 'trailers' };
export const requestBlock: Buffer = toBlock(requestFields);

export function openFrame(streamId: number, flags = 4): Buffer {
  return frame(1, flags, streamId, requestBlock);
}

/** A gRPC message. */
export function toMessage(text: string | Buffer): Buffer {
  const bytes = Buffer.from(text as string);
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([prefix, bytes]);
}

/** A DATA frame with one message; `flags` 1: the last. */
export function dataFrame(streamId: number, text: string | Buffer, flags = 0): Buffer {
  return frame(0, flags, streamId, toMessage(text));
}

/** Messages, status and reset of each stream, as they were answered. */
export function toAnswers(frames: readonly SeenFrame[]): Map<number, { data: Buffer; ends: number; resets: number[] }> {
  const answers = new Map<number, { data: Buffer; ends: number; resets: number[] }>();
  for (const { type, flags, streamId, payload } of frames) {
    if (streamId === 0) continue;
    const answer = answers.get(streamId) ?? { data: Buffer.alloc(0), ends: 0, resets: [] };
    if (type === 0) answer.data = Buffer.concat([answer.data, payload]);
    if (type <= 1 && (flags & 1) !== 0) answer.ends += 1;
    if (type === 3) answer.resets.push(payload.readUInt32BE(0));
    answers.set(streamId, answer);
  }
  return answers;
}
