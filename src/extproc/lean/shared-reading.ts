import { Socket } from 'node:net';

/** Bytes read at once, at most: what one large prompt takes. */
const bufferBytes = 262_144;

/** What Node's sockets have that is not documented: lib/net.js makes accepted ones from a handle, too, and reads any of them into a buffer that it is given. */
interface AcceptedSocket {
  _handle?: { useUserBuffer?: unknown } | null;
}
interface HandleSocketOptions {
  readonly handle: object;
  readonly onread: { readonly buffer: Buffer; readonly callback: (bytes: number, buffer: Buffer) => boolean };
}
const HandleSocket = Socket as unknown as new (options: HandleSocketOptions) => Socket;

/**
 * Reads sockets, all into one buffer: left to itself, Node makes a new one of 64 KB for each read, and what is read through a stream is queued
 * and told by event. What was read has to be used up, or copied, before the reader returns.
 */
export class SharedReading {
  readonly #buffer = Buffer.allocUnsafeSlow(bufferBytes);

  /**
   * Goes on with an accepted socket that was not read from yet (`pauseOnConnect`), by another one that reads as described; `onChunk` is told of
   * what it reads once it was resumed. The accepted one is destroyed with it, and is of no use otherwise. Where this Node has no such thing,
   * returns the accepted one, which is read by its `data` events.
   */
  takeOver(accepted: Socket, onChunk: (chunk: Buffer) => void): Socket {
    const given = accepted as unknown as AcceptedSocket;
    const handle = given._handle;
    if (typeof handle?.useUserBuffer !== 'function') {
      accepted.on('data', onChunk);
      return accepted;
    }
    given._handle = null;
    const callback = (bytes: number, buffer: Buffer): boolean => {
      onChunk(buffer.subarray(0, bytes));
      return true;
    };
    const socket = new HandleSocket({ handle, onread: { buffer: this.#buffer, callback } });
    // The server counts the one that it accepted.
    socket.once('close', () => accepted.destroy());
    return socket;
  }
}
